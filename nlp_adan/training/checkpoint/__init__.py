"""Checkpoints of a run: the optimizer's state as named slices, written beside, hashed, and published by a manifest.

docs/design/0008-checkpoints.md says why. What to read first:

manifest.py               what is in a checkpoint, and whether it is still that
run_checkpoints.py        the checkpoints of a run: which to take, how a new one gets its name, which are removed
tensor_files.py           safetensors files, hashed and synced while they are written
snapshot.py, copy_memory.py, host_memory.py, writer.py   writing behind the training, all ranks together
composing.py              what the parts of a checkpoint are made with, around the libraries that write them
fragments.py, zero_fragments.py          which slices of which parameters a rank's optimizer holds, by engine
optimizer_state.py, optimizer_parts.py, optimizer_description.py   the optimizer's state, written and read by name
__main__.py, commands.py  the command line: inspection.py, exporting.py, resharding.py, and derived_folder.py
"""
