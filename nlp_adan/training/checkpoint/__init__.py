"""Checkpoints of a run: the optimizer's state as named slices, written beside, hashed, and published by a manifest.

docs/design/0008-checkpoints.md says why. manifest.py: what is in a checkpoint, whether it is still that, and which of a
run's checkpoints to take; tensor_files.py: safetensors files, streamed; snapshot.py, copy_memory.py and writer.py:
writing behind the training.
"""
