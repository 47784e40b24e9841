"""A run's folder: what it holds, and who may write into it.

resolved.yaml      every option as it acted; a pretraining run's is itself a recipe (`--recipe runs/NAME/resolved.yaml`)
environment.json   versions, hardware, command, git state
starts.jsonl       one object a start or resumption: date, step, world_size, command
log.jsonl          one object a logging step: step, epoch, loss, grad_norm, learning_rate, tokens_per_second, ...
eval.jsonl         one object an evaluation
data.json          which prepared data a pretraining run trains on
checkpoint-N/      what `--resume auto` goes on from
config.json, model.safetensors, tokenizer files   the trained model
metrics.json       the final figures; written last, so that its presence means that the run is finished
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from nlp_adan.errors import UserError
from nlp_adan.storage import write_json, write_text
from nlp_adan.training.environment import environment

# Options that say where and how a run is watched, not what it computes.
WATCHING = frozenset({
    "output_dir", "resume", "recipe", "run_name", "logging_dir", "disable_tqdm", "report_to", "project", "local_rank",
    "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "logging_steps", "logging_strategy",
    "save_total_limit", "use_cpu", "dry_run", "flops_per_second", "plan_ranks", "plan_device", "plan_memory_gib",
    "glue_probe_every", "glue_probe_tasks", "glue_probe_data", "glue_probe_max_steps",
})  # fmt: skip

# Read at once from the end of a log, to find the line where a resumed run goes on.
TAIL_BYTES = 1 << 16

# Options that the machine or the call decided: a recipe for another machine must not carry them.
MACHINES_OWN = frozenset({"use_cpu", "local_rank", "resume"})


class RunFolder:
    """The folder of one run. No file is written before `claim`.

    Args:
        folder: may not exist yet.
        last_file: the file that is written last, whose presence means that the run is finished.
    """

    def __init__(self, folder: str | Path, last_file: str = "metrics.json") -> None:
        self.path = Path(folder)
        self.last_file = last_file

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / self.last_file).is_file()

    def checkpoint_to_resume(self, options: dict[str, Any], resume: str) -> str | None:
        """Check that a run with these options may use the folder; the checkpoint to go on from, or None.

        Args:
            options: all options of the new run, as `recipe.resolved` gives them.
            resume: "no" (the folder must hold no run), "auto" (go on from the last checkpoint if there is one), or
                the path of a checkpoint.

        Raises:
            UserError: the folder holds another run, or something that is no run.
        """
        if resume not in ("no", "auto") and not _is_complete(Path(resume)):
            raise UserError(f"--resume: {resume!r} is not a whole checkpoint folder; name one, or `auto`")
        named = None if resume in ("no", "auto") else str(Path(resume))
        self._check_writable()
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return named
        if not self.path.is_dir():
            raise UserError(f"--output_dir: {str(self.path)!r} is a file; choose a folder")
        record = self.path / "resolved.yaml"
        if not record.is_file():
            raise UserError(f"--output_dir: {str(self.path)!r} is not empty and holds no run; choose another folder")
        self._check_same_settings(yaml.safe_load(record.read_text(encoding="utf-8")) or {}, options)
        if resume == "no" and self.finished:
            raise UserError(
                f"--output_dir: {str(self.path)!r} holds a finished run with the same settings; "
                f"choose another folder, or remove that one"
            )
        if resume == "no":
            raise UserError(
                f"--output_dir: {str(self.path)!r} holds an unfinished run with the same settings; "
                f"add `--resume auto` to go on with it, or choose another folder"
            )
        return named or self._last_checkpoint()

    def _last_checkpoint(self) -> str | None:
        """The newest checkpoint that was written to its end."""
        complete = [path for path in self.path.glob("checkpoint-*") if _is_complete(path)]
        return str(max(complete, key=checkpoint_step)) if complete else None

    def _check_writable(self) -> None:
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        try:
            if parent.is_dir():
                tempfile.TemporaryDirectory(dir=parent).cleanup()
        except OSError as error:
            raise UserError(
                f"--output_dir: cannot write into {str(parent)!r} ({error.strerror}); choose another folder"
            ) from error

    def _check_same_settings(self, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        # With a global batch the rest follows from the number of ranks, which may change.
        following = (
            {"per_device_train_batch_size", "gradient_accumulation_steps"} if ours.get("global_batch_size") else {}
        )
        # Compared as JSON: what YAML brings back of a tuple or an enumeration is a list or a string.
        differing = [
            name
            for name in sorted({*theirs, *ours} - WATCHING - {*following})
            if json.dumps(theirs.get(name), sort_keys=True) != json.dumps(ours.get(name), sort_keys=True)
        ]
        if differing:
            name = differing[0]
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            state = "finished" if self.finished else "unfinished"
            raise UserError(
                f"--output_dir: {str(self.path)!r} holds another run ({state}; {name}: {theirs.get(name)!r} there, "
                f"{ours.get(name)!r} here{more}); choose another folder, or remove that one"
            )

    def claim(self, options: dict[str, Any], resumed_step: int = 0) -> None:
        """Write what describes the run, and cut the logs back to the step that it goes on from. One rank calls it."""
        kept_options = {name: value for name, value in options.items() if name not in MACHINES_OWN}
        write_text(self.path / "resolved.yaml", yaml.safe_dump(kept_options, sort_keys=False, allow_unicode=True))
        surroundings = environment()
        write_json(self.path / "environment.json", surroundings)
        for name in ("log.jsonl", "eval.jsonl"):
            self._cut_after(name, resumed_step)
        kept_names = ("date", "world_size", "command")
        self.append("starts.jsonl", {"step": resumed_step, **{name: surroundings[name] for name in kept_names}})

    def _cut_after(self, name: str, step: int) -> None:
        """Remove a log's lines after a step, and a last line that a kill left unfinished.

        Read from the end: the cost is that of what is removed, however long the run is.
        """
        path = self.path / name
        if not path.is_file():
            return
        with open(path, "r+b") as file:
            tail, begin = b"", file.seek(0, os.SEEK_END)
            while begin > 0:
                size = min(begin, TAIL_BYTES)
                begin -= size
                file.seek(begin)
                tail = file.read(size) + tail
                lines = tail.splitlines(keepends=True)
                end = begin + len(tail)
                # The first line may have begun before the tail, unless the tail is the whole file.
                for line in reversed(lines if begin == 0 else lines[1:]):
                    if line.endswith(b"\n") and _step_of(line) <= step:
                        file.truncate(end)
                        return
                    end -= len(line)
            file.truncate(0)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The objects of a log file, up to a line that a killed run left unfinished."""
        path = self.path / name
        objects = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                objects.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return objects

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one object to a log file."""
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the final figures, and with them the mark that the run is finished."""
        write_json(self.path / self.last_file, metrics)


def _step_of(line: bytes) -> float:
    """The step of a log's line; infinity for a line that is none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def checkpoint_step(checkpoint: str | Path) -> int:
    """The optimizer step that a checkpoint was written after."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def _is_complete(checkpoint: Path) -> bool:
    """Whether the Trainer wrote the checkpoint to its end: its own state is the last of the files."""
    try:
        return checkpoint_step(checkpoint) > 0
    except (OSError, ValueError, KeyError):
        return False
