"""GLUE probes: while a model is pretrained, every so many steps a short fine-tuning of what it has become.

A probe is a process of its own (`python -m glue_eval`) on a copy of the weights: the training process draws no random
number for it, and ends with the same weights with probes and without.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adan.errors import EXIT_CODE, UserError
from nlp_adan.training.environment import PROJECT_FOLDER
from nlp_adan.training.recipe import check_range
from nlp_adan.training.run_folder import RunFolder

FOLDER = ".probe"  # in the run's folder, while a probe is under way
SAMPLE = "sample"  # glue_eval's word for its generated tasks
POLL_SECONDS = 0.2
SHOWN_LINES = 15
# What launchers tell a rank about itself and the others: with it a probe would take itself for one rank of several.
LAUNCHERS_OWN = (
    "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "CROSS_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_",
    "DEEPSPEED_", "OMPI_", "PMI_", "PMIX_", "MV2_",
)  # fmt: skip


@dataclasses.dataclass
class ProbeOptions:
    """Fine-tuning on GLUE tasks while the model is pretrained."""

    glue_probe_every: int = dataclasses.field(
        default=0,
        metadata={"help": "Fine-tune a copy of the model every so many steps and log its scores; 0: never."},
    )
    glue_probe_tasks: str = dataclasses.field(
        default="CoLA,SST-2", metadata={"help": "The probe's tasks, with commas between, or `all`."}
    )
    glue_probe_data: str = dataclasses.field(
        default=SAMPLE, metadata={"help": "The probe's GLUE folder, or `sample`: the generated tasks."}
    )
    glue_probe_max_steps: int = dataclasses.field(
        default=200, metadata={"help": "Optimizer steps of a probe on each of its tasks."}
    )

    def __post_init__(self) -> None:
        check_range("glue_probe_every", self.glue_probe_every, 0)
        check_range("glue_probe_max_steps", self.glue_probe_max_steps, 1)


class Pausable(Protocol):
    """A clock of the training's time."""

    def pause(self) -> None:
        """What follows is not training."""

    def resume(self) -> None:
        """Training goes on."""


def check_probe(options: ProbeOptions) -> None:
    """Look at the probe's tasks and data before anything is trained. Takes some seconds; one rank calls it.

    Raises: UserError for an unknown task, and for GLUE files that are missing or bad.
    """
    if not options.glue_probe_every:
        return
    words = _glue_words(options, "check-data")
    done = subprocess.run(words, env=probe_environment(os.environ), capture_output=True, text=True)
    if done.returncode == EXIT_CODE:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise UserError(f"--glue_probe_tasks/--glue_probe_data: {' '.join(told) or done.stderr.strip()}")
    if done.returncode:
        raise UserError(f"--glue_probe_every: probes cannot run here:\n{_last_lines(done.stderr)}")


class GlueProbe(TrainerCallback):
    """Runs a probe at each multiple of `glue_probe_every` steps. Add it after the other callbacks.

    All ranks save the model together (under ZeRO-3 each has a part of it), rank 0 runs the probe, the others wait. The
    scores, fractions, are a line of eval.jsonl: {"step", "probe": {task: {metric: value}}, "sample_tasks",
    "seconds"}. A probe that fails says so, and the training goes on.

    Args:
        run: where eval.jsonl is, and for a while the copy of the model.
        save_model: `Trainer.save_model`; every rank calls it.
        log: `Trainer.log`; rank 0 calls it with {"probe_CoLA_matthews": ...}, or "probe_sample_CoLA_matthews".
        clocks: what counts the training's time, which a probe's time is not.
        interrupted: whether the run has been asked to stop; a probe that is under way is then ended.
    """

    def __init__(
        self,
        options: ProbeOptions,
        run: RunFolder,
        save_model: Callable[[str], None],
        log: Callable[[dict[str, float]], None] | None = None,
        clocks: Sequence[Pausable] = (),
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.options = options
        self.run = run
        self.save_model = save_model
        self.log = log
        self.clocks = clocks
        self.interrupted = interrupted

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Probe, if it is time to; not where the run has been told to stop before its last step."""
        every = self.options.glue_probe_every
        cut_short = control.should_training_stop and state.global_step < state.max_steps
        if every and state.global_step % every == 0 and not cut_short:
            log_is_due = control.should_log
            with self._not_training():
                self._probe(args, state.global_step)
            control.should_log = log_is_due  # logging the scores counts as the step's own line

    @contextlib.contextmanager
    def _not_training(self) -> Iterator[None]:
        for clock in self.clocks:
            clock.pause()
        try:
            yield
        finally:
            for clock in self.clocks:
                clock.resume()

    def _probe(self, args: TrainingArguments, step: int) -> None:
        began = time.monotonic()
        folder = self.run.path / FOLDER
        is_first = args.process_index == 0
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        try:
            self.save_model(str(folder / "model"))
            if is_first:
                scores, is_sample = self._scores(args, folder)
                seconds = round(time.monotonic() - began, 1)
                self._tell({"step": step, "probe": scores, "sample_tasks": is_sample, "seconds": seconds})
        except Exception as error:
            if not is_first:
                raise
            what = "was given up" if self.interrupted() else "FAILED, training goes on"
            print(f"\nwarning: the GLUE probe at step {step:,} {what}: {error}", flush=True)
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)
        args.distributed_state.wait_for_everyone()

    def _scores(self, args: TrainingArguments, folder: Path) -> tuple[dict[str, dict[str, float | None]], bool]:
        """Fine-tune the model in `folder`; the scores by task, and whether the tasks are the generated ones.

        Raises: RuntimeError with the last lines of a probe that failed.
        """
        words = [
            *_glue_words(self.options, "run"), "--model", str(folder / "model"), "--seeds", "1",
            "--max_steps", str(self.options.glue_probe_max_steps), "--output_dir", str(folder / "glue"),
            "--report_to", "none", "--disable_tqdm", "True", "--use_cpu", str(args.device.type == "cpu"),
        ]  # fmt: skip
        output = folder / "output.txt"
        # The other ranks wait no longer than ddp_timeout for this one.
        deadline = time.monotonic() + 0.9 * args.ddp_timeout
        with output.open("w", encoding="utf-8") as file:
            environment = probe_environment(os.environ, args.device)
            process = subprocess.Popen(words, env=environment, stdout=file, stderr=subprocess.STDOUT)
            ended_by = ""
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                if self.interrupted() or time.monotonic() > deadline:
                    ended_by = "the run is to stop" if self.interrupted() else "it took too long (--ddp_timeout)"
                    process.kill()
                    process.wait()
        if ended_by or process.returncode:
            told = _last_lines(output.read_text(encoding="utf-8", errors="replace"))
            raise RuntimeError(ended_by or f"exit code {process.returncode}, its last lines:\n{told}")
        report = json.loads((folder / "glue" / "report.json").read_text(encoding="utf-8"))
        return {result["task"]: result["scores"] for result in report["runs"]}, bool(report["is_sample"])

    def _tell(self, line: dict[str, Any]) -> None:
        """To eval.jsonl, to `log` and to the screen."""
        self.run.append("eval.jsonl", line)
        named = {(task, metric): value for task, scores in line["probe"].items() for metric, value in scores.items()}
        known = {name: value for name, value in named.items() if value is not None}  # None: not a number
        if self.log is not None:
            prefix = "probe_sample" if line["sample_tasks"] else "probe"
            self.log({f"{prefix}_{task}_{metric}": value for (task, metric), value in known.items()})
        scores = ", ".join(f"{task} {metric} {value:.3f}" for (task, metric), value in known.items())
        what = "sample tasks, not GLUE" if line["sample_tasks"] else "GLUE"
        print(f"\nprobe at step {line['step']:,} ({what}): {scores} ({line['seconds']:.0f} s)", flush=True)


def probe_environment(environ: Mapping[str, str], device: torch.device | None = None) -> dict[str, str]:
    """The environment of a probe: without the launcher's variables, with the project importable.

    device: of the rank that starts it; where it is a GPU, the probe sees this one only.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(LAUNCHERS_OWN)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT_FOLDER), environ.get("PYTHONPATH"))))
    if device is not None and device.type == "cuda":
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        index = device.index or 0
        kept["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index] if visible else str(index)
    return kept


def _glue_words(options: ProbeOptions, subcommand: str) -> list[str]:
    return [
        sys.executable, "-m", "glue_eval", subcommand, "--tasks", options.glue_probe_tasks,
        "--data", options.glue_probe_data, "--allow_partial", "True",
    ]  # fmt: skip


def _last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-SHOWN_LINES:])
