"""The words after `python -m nlp_adan.training.checkpoint`: what they ask for, and what is printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from nlp_adan.errors import UserError, nearest
from nlp_adan.training.checkpoint.derived_folder import COMMAND, num_bytes_of, verify_shown
from nlp_adan.training.checkpoint.exporting import DTYPES, export
from nlp_adan.training.checkpoint.inspection import counted, inspect, lines_of, size
from nlp_adan.training.checkpoint.manifest import CHECKPOINT_NAME, MANIFEST, Manifest
from nlp_adan.training.checkpoint.resharding import reshard
from nlp_adan.training.checkpoint.run_checkpoints import checkpoints_of

USAGE = f"""usage: {COMMAND} COMMAND DIR [options]

  inspect DIR [--json]        what is in it: step, ranks, model, optimizer, states;
                              of the tensors, headers are read only
  verify DIR [--json]         read every file and compare it with what was written;
                              exit code 1 where a checkpoint is damaged
  export DIR --output_dir OUT [--dtype float32|as_trained]
                              the model as a Hugging Face folder, with the optimizer's
                              state for torch and, of Adan, for the authors' code
  reshard DIR --output_dir OUT --world_size W --stage none|0|1|2|3
                              the checkpoint as W ranks at that ZeRO stage would have
                              written it (to resume there, it is not needed)

DIR is a checkpoint's folder, or a run's: then verify takes all of its checkpoints,
the others the newest.

example: {COMMAND} export runs/tiny --output_dir exported"""
DAMAGED_EXIT_CODE = 1
STAGES = ("none", "0", "1", "2", "3")


class _Parser(argparse.ArgumentParser):
    """The options of one command. A mistake is a UserError."""

    def __init__(self, command: str, description: str, writes: bool) -> None:
        super().__init__(prog=f"{COMMAND} {command}", description=description, allow_abbrev=False)
        self.add_argument("folder", metavar="DIR", type=Path, help="a checkpoint's folder, or a run's")
        if writes:
            self.add_argument("--output_dir", metavar="OUT", type=Path, required=True, help="a new folder")
        else:
            self.add_argument("--json", action="store_true", help="print JSON")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        known = [option for action in self._actions for option in action.option_strings]
        for word in words:  # told before what is missing, which may be misspelled here
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                self.error(f"unknown option {option!r}{nearest(option, known)}")
        return self.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Do what the words ask for; the exit code.

    Raises: UserError for a mistake of the user's, and for a damaged checkpoint of which something was to be made.
    """
    if not words or words[0] in ("-h", "--help"):
        if not words:
            raise UserError(f"name a command: {', '.join(COMMANDS)}; see `{COMMAND} --help`")
        print(USAGE)
        return 0
    command, *others = words
    if command not in COMMANDS:
        raise UserError(
            f"unknown command {command!r}{nearest(command, COMMANDS)}; known are {', '.join(COMMANDS)}: see "
            f"`{COMMAND} --help`"
        )
    try:
        return COMMANDS[command](others)
    except OSError as error:
        if error.filename is None:  # what is printed is not read any more
            raise
        raise UserError(f"DIR: {str(error.filename)!r}: {error.strerror}; see that it can be read") from error


def inspect_command(words: Sequence[str]) -> int:
    """`inspect DIR [--json]`."""
    options = _Parser("inspect", "Print what is in a checkpoint.", writes=False).parse(words)
    checkpoint, chosen = newest(options.folder)
    found = inspect(checkpoint)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{checkpoint}{chosen}", *lines_of(found), sep="\n")
    return 0


def verify_command(words: Sequence[str]) -> int:
    """`verify DIR [--json]`: `DAMAGED_EXIT_CODE` where a checkpoint is not what was written."""
    options = _Parser(
        "verify", "Read every file of a checkpoint, or of all of a run's, and compare it with its hash.", writes=False
    ).parse(words)
    results = []
    found = checkpoints_in(options.folder)
    for checkpoint in found:
        damages = verify_shown(checkpoint)
        if damages and len(found) > 1 and not checkpoint.exists():
            continue  # a run that trains has removed it meanwhile
        results.append(
            {
                "path": str(checkpoint),
                "good": not damages,
                "damages": [{"file": damage.file, "reason": damage.reason} for damage in damages],
            }
        )
        if options.json:
            continue
        if damages:
            print(f"{checkpoint}: damaged", *(f"  {damage}" for damage in damages), sep="\n", flush=True)
        else:
            manifest = Manifest.read(checkpoint)
            files = f"{counted(len(manifest.files), 'file')}, {size(num_bytes_of(manifest))}"
            print(f"{checkpoint}: good ({files})", flush=True)
    if options.json:
        print(json.dumps(results, indent=2))
    return 0 if all(result["good"] for result in results) else DAMAGED_EXIT_CODE


def export_command(words: Sequence[str]) -> int:
    """`export DIR --output_dir OUT [--dtype float32|as_trained]`."""
    parser = _Parser("export", "Write model and optimizer in the formats that others load.", writes=True)
    parser.add_argument(
        "--dtype",
        default="float32",
        metavar="|".join(DTYPES),
        help="weights: those that the optimizer works on (the default), or as the model has them",
    )
    options = parser.parse(words)
    _check_one_of("--dtype", options.dtype, DTYPES)
    checkpoint, chosen = newest(options.folder)
    notes = export(checkpoint, options.output_dir, options.dtype)
    print(f"{options.output_dir}: exported from {checkpoint}{chosen}", *(f"  {note}" for note in notes), sep="\n")
    return 0


def reshard_command(words: Sequence[str]) -> int:
    """`reshard DIR --world_size W --stage none|0|1|2|3 --output_dir OUT`."""
    parser = _Parser(
        "reshard", "Write a checkpoint as another number of ranks, at another ZeRO stage, would have.", writes=True
    )
    parser.add_argument("--world_size", required=True, type=int, metavar="W", help="number of ranks")
    parser.add_argument("--stage", required=True, metavar="|".join(STAGES), help="ZeRO stage; none: without DeepSpeed")
    options = parser.parse(words)
    _check_one_of("--stage", options.stage, STAGES)
    if options.world_size < 1:
        raise UserError(f"--world_size: {options.world_size} is no number of ranks; choose 1 or more")
    stage = None if options.stage == "none" else int(options.stage)
    checkpoint, chosen = newest(options.folder)
    notes = reshard(checkpoint, options.output_dir, options.world_size, stage)
    at = "without DeepSpeed" if stage is None else f"at ZeRO stage {stage}"
    made = f"{checkpoint}{chosen} as of {counted(options.world_size, 'rank')} {at}, verified"
    print(f"{options.output_dir}: {made}{''.join(f'; {note}' for note in notes)}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "inspect": inspect_command,
    "verify": verify_command,
    "export": export_command,
    "reshard": reshard_command,
}


def checkpoints_in(folder: Path) -> list[Path]:
    """A checkpoint's folder itself, or the checkpoints of a run's folder, newest first; good or not.

    Raises: UserError for a folder that is neither.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"DIR: {str(folder)!r} is a file; name a checkpoint's folder, or a run's")
        siblings = [str(path) for path in folder.parent.glob("*") if path.is_dir()]
        raise UserError(
            f"DIR: there is no folder {str(folder)!r}{nearest(str(folder), siblings)}; name a checkpoint's folder, or "
            "a run's"
        )
    folder = folder if folder.name else folder.resolve()  # "."
    if (folder / MANIFEST).exists() or CHECKPOINT_NAME.fullmatch(folder.resolve().name):
        return [folder]
    found = checkpoints_of(folder)
    if not found:
        raise UserError(
            f"DIR: {str(folder)!r} is neither a checkpoint (it has no {MANIFEST}) nor the folder of a run that has one "
            "(checkpoint-N); name another folder"
        )
    return found


def newest(folder: Path) -> tuple[Path, str]:
    """The checkpoint that a folder is, or the newest of the run in it; and what to say of the choice."""
    found = checkpoints_in(folder)
    if found[0].parent.resolve() != folder.resolve():
        return found[0], ""  # itself
    return found[0], f" (the newest of {len(found)})" if len(found) > 1 else " (the only one)"


def _check_one_of(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{option}: unknown value {value!r}{nearest(value, choices)}; possible: {', '.join(choices)}")
