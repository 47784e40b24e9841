"""`python -m nlp_adan SCRIPT.py --optim adan ...` runs an unmodified Hugging Face script with Adan registered."""

from __future__ import annotations

import importlib.util
import logging
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from nlp_adan.errors import UserError, exit_on_user_error, nearest
from nlp_adan.integrations.deepspeed import check_configuration, init_communication, single_process_environment
from nlp_adan.integrations.huggingface import NAME, adan_options

USAGE = """usage: python -m nlp_adan SCRIPT.py [the script's own options, such as --optim adan]
       python -m nlp_adan --ds-config [NAME]    print where the DeepSpeed configurations are, or the one called NAME"""
# Beside our packages, in a checkout as in an installation.
DS_CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"
# How many processes a launcher without torch's variables has started; DeepSpeed asks such a launcher itself.
OTHER_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def main() -> None:
    """Run the script named by the first argument as `__main__`, with the arguments after it."""
    with exit_on_user_error():
        words = sys.argv[1:]
        # DeepSpeed's launcher and an old one of torch's put this word before ours; it is meant for the script.
        launcher_words = [words.pop(0)] if words and words[0].startswith(("--local_rank=", "--local-rank=")) else []
        if not words:
            raise UserError(f"name a script\n{USAGE}")
        name, *script_words = words
        if name in ("-h", "--help"):
            print(USAGE)
            return
        if name in ("--ds-config", "--ds_config"):
            print(*(ds_config(which) for which in script_words or sorted(_known_ds_configs())), sep="\n")
            return
        script = Path(name)
        if not script.is_file():
            raise UserError(f"script {name!r} does not exist: name a Python file")
        prepare(script_words)
        sys.argv = [name, *launcher_words, *script_words]
        if not sys.flags.safe_path:
            sys.path[0] = str(script.resolve().parent)  # as `python SCRIPT.py` has it
        runpy.run_path(name, run_name="__main__")


def prepare(script_words: Sequence[str]) -> None:
    """Read of a script's options those of Adan and DeepSpeed: tell a mistake in them before anything is prepared.

    Under DeepSpeed also start what a plain `python` and ranks on CPU lack; the script itself knows nothing of it.
    """
    if _value("--optim", script_words) == NAME:
        adan_options(_value("--optim_args", script_words))
    deepspeed = _value("--deepspeed", script_words)
    if deepspeed is not None:
        _check_ds_config(deepspeed)
        if Path(deepspeed).is_file():  # else the script knows what it is
            check_configuration(deepspeed)
        if not any(int(os.environ.get(name, "1")) > 1 for name in OTHER_LAUNCHERS):
            single_process_environment()
    if "WORLD_SIZE" not in os.environ or torch.accelerator.is_available():
        return
    several = int(os.environ["WORLD_SIZE"]) > 1
    if several and os.environ.get("RANK", "0") == "0" and _value("--use_cpu", script_words) is None:
        logging.getLogger(__name__).warning(
            "%s ranks without a GPU and without --use_cpu: the Trainer lets each rank train by itself, and DeepSpeed "
            "finds that the sizes of a batch do not add up",
            os.environ["WORLD_SIZE"],
        )
    if deepspeed is not None and importlib.util.find_spec("deepspeed"):
        init_communication()


def _check_ds_config(path: str) -> None:
    """Raise UserError, saying where it is, for a file of ours that is not where the command line has it."""
    name = Path(path).name
    if name in [known.name for known in _known_ds_configs().values()] and not Path(path).exists():
        raise UserError(
            f"--deepspeed: there is no file {path!r} here; nlp_adan's own is {DS_CONFIGS / name} "
            f"(`python -m nlp_adan --ds-config {Path(path).stem}` prints it)"
        )


def ds_config(name: str) -> Path:
    """The path of the DeepSpeed configuration called `name`, such as "zero2". Raises UserError for an unknown one."""
    known = _known_ds_configs()
    if name.removesuffix(".json") not in known:
        raise UserError(
            f"--ds-config: unknown name {name!r}{nearest(name, known)}; known are {', '.join(sorted(known))}"
        )
    return known[name.removesuffix(".json")]


def _known_ds_configs() -> dict[str, Path]:
    return {path.stem: path for path in DS_CONFIGS.glob("*.json")}


def _value(option: str, words: Sequence[str]) -> str | None:
    """The value of an option, the last one as argparse has it; "" for an option without, None where it is not given."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, separator, value = word.partition("=")
        if name.replace("-", "_") == option.replace("-", "_"):
            found = value if separator else "" if following.startswith("--") else following
    return found


if __name__ == "__main__":
    main()
