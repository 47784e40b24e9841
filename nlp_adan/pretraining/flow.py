"""A pretraining run from its options to a finished folder, the same for every family of models.

Nothing is written before options, data and model are found good; a signal ends the run with a checkpoint and the exit
code that says so; what is written last marks the run as finished.
"""

from __future__ import annotations

import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adan.errors import UserError
from nlp_adan.pretraining.card import CARD, write_model_card
from nlp_adan.pretraining.peak_memory import optimizer_state_bytes, peak_memory
from nlp_adan.pretraining.report import write_pretraining_report
from nlp_adan.pretraining.run_kind import RunKind
from nlp_adan.storage import write_json
from nlp_adan.training.agreement import fail_together, wait_at_most, wait_for_all_ranks
from nlp_adan.training.checkpoint.composing import is_of_the_disk
from nlp_adan.training.checkpoint.manifest import checkpoint_step
from nlp_adan.training.hub import NotSent
from nlp_adan.training.pretraining import PretrainingEngine
from nlp_adan.training.resuming import check_batches, find_checkpoint, lock_run
from nlp_adan.training.run_folder import RunFolder
from nlp_adan.training.signals import RESUME_EXIT_CODE
from nlp_adan.weights import only_data

DATA_RECORD = "data.json"  # in the run's folder: which prepared data it trains on


class PreparedFolder(Protocol):
    """Prepared data of any kind: a folder whose manifest has a key."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        ...

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What it is made of; "key" names that."""
        ...


Data = TypeVar("Data", bound=PreparedFolder)
Begin = Callable[[PreTrainedModel], None]


class Pretraining(ABC, Generic[Data]):
    """What a family of models makes of its options.

    Args:
        options: with `engine` (`PretrainingOptions`), `plan` and `resolved()`.

    watchers: further callbacks of the engine's. is_described: whether a finished run is given a report, and its model a
    card.
    """

    kind: RunKind  # what reports and cards say of it
    loss_name: str  # the figure of an evaluation that must be a number
    loss_in_words: str  # what that is, with its unit

    def __init__(self, options: Any) -> None:
        self.options = options
        self.watchers: list[TrainerCallback] = []
        self.is_described = True

    @abstractmethod
    def plan(self) -> str:
        """What `--dry_run` prints."""

    def check(self) -> None:
        """Raise a UserError for what cannot work, before data are prepared; rank 0 calls it."""

    @abstractmethod
    def prepare(self) -> Data:
        """The prepared data: opened, or made now."""

    @abstractmethod
    def sequence_length(self, data: Data) -> int:
        """Tokens of a sequence."""

    @abstractmethod
    def make_trainer(self, data: Data, run: RunFolder, begin: Begin) -> PretrainingEngine:
        """The engine, with `Beginning(begin)` among its callbacks."""

    @abstractmethod
    def beginning(self, model: PreTrainedModel, data: Data) -> str:
        """One line about the run that begins."""

    def final_metrics(self, trainer: PretrainingEngine, data: Data) -> dict[str, float]:
        """The figures of the trained model; every rank calls it."""
        return trainer.evaluate()

    @abstractmethod
    def result(self, metrics: Mapping[str, Any]) -> str:
        """The final figures in words."""


class Beginning(TrainerCallback):
    """Has rank 0 do something when optimizer, schedule and checkpoint stand: what fails before leaves no trace."""

    def __init__(self, act: Begin) -> None:
        self.act = act

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.act(kwargs["model"])


def conduct(family: Pretraining[Data]) -> None:
    """Train, save, evaluate; returns when the run is finished.

    Exits with `RESUME_EXIT_CODE` where a signal ended it early, after a checkpoint.
    """
    options = family.options
    engine = options.engine
    if options.plan.dry_run:
        if engine.process_index == 0:
            print(family.plan())
        return
    run = RunFolder(engine.output_dir)
    recorded = options.resolved()  # before the engine fills in what follows from them
    run.check(recorded, engine.resume, engine.world_size, identified=frozenset({"data"}))
    if run.finished and (run.settings or {}).get("data") == recorded["data"]:
        _tell_finished(family, run)
        return
    wait_at_most(engine.ddp_timeout)
    lock_run(run.path, engine.process_index)
    try:
        _train(family, run, recorded)
    except Exception:
        if engine.process_index == 0:
            run.remove_if_empty()
        raise


def _train(family: Pretraining[Data], run: RunFolder, recorded: dict[str, Any]) -> None:
    engine = family.options.engine
    checkpoint = find_checkpoint(run.path, engine.resume, engine.process_index)
    # Every rank has looked at the folder before any of them leaves this block, and rank 0 writes into it.
    with engine.main_process_first(desc="data preparation"):
        if engine.process_index == 0:
            family.check()
        data = family.prepare()
    _check_same_data(run, data, checkpoint)
    if run.finished:
        _tell_finished(family, run)
        return
    if checkpoint is not None:
        check_batches(checkpoint, engine.num_sequences_per_step)

    def begin(model: PreTrainedModel) -> None:
        try:
            run.claim(recorded, resumed_step=checkpoint_step(checkpoint) if checkpoint else 0)
            write_json(run.path / DATA_RECORD, {"key": data.manifest["key"], "folder": str(data.folder)})
        except OSError as error:
            raise UserError(
                f"--output_dir: {error.filename or run.path}: {error.strerror}; make room, or choose another folder"
            ) from error
        print(family.beginning(model, data), flush=True)

    trainer = family.make_trainer(data, run, begin)
    for watcher in family.watchers:
        trainer.add_callback(watcher)
    with only_data(f"--resume: {checkpoint}", "Go on from a checkpoint of your own"):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    _stop_if_asked(trainer, run)
    _finish(family, trainer, run, data)


def describe(run: RunFolder, kind: RunKind, manifest: Mapping[str, Any] | None = None) -> None:
    """The report of a finished run, then the card of its model."""
    write_pretraining_report(run, kind, manifest)
    write_model_card(run, kind, manifest)


def _tell_finished(family: Pretraining[Data], run: RunFolder) -> None:
    """Say that the run is finished, and write what a start that was killed at its very end did not."""
    if family.options.engine.process_index == 0:
        if family.is_described and not (run.path / CARD).is_file():  # ended between its last figures and its report
            describe(run, family.kind)
        print(f"{run.path} holds this run, finished: nothing to do")


def _check_same_data(run: RunFolder, data: PreparedFolder, checkpoint: Path | None) -> None:
    """Refuse to go on with other text or another tokenizer than the run, or the checkpoint's run, began with."""
    for folder in {run.path, *([] if checkpoint is None else [checkpoint.parent])}:
        record = folder / DATA_RECORD
        if not record.is_file():
            if checkpoint is not None and folder == checkpoint.parent:
                raise UserError(
                    f"--resume: no {DATA_RECORD} in {str(folder)!r} says on which data {checkpoint.name} was trained; "
                    "name a checkpoint in its run's folder"
                )
            continue
        if json.loads(record.read_text(encoding="utf-8"))["key"] != data.manifest["key"]:
            raise UserError(
                f"--resume: the data or the tokenizer changed since {str(folder)!r} began; "
                f"bring them back, or start again in another --output_dir"
            )


def _stop_if_asked(trainer: PretrainingEngine, run: RunFolder) -> None:
    """Leave with `RESUME_EXIT_CODE` where a signal ended the training."""
    stopped_by = trainer.run_control.stopped_by
    if stopped_by is None:
        return
    failed = trainer.finish_saving()
    wait_for_all_ranks()  # a launcher kills the other ranks, which may be writing, as soon as one of them ends
    if failed is not None:
        raise UserError(
            f"stopped by {stopped_by} after step {trainer.state.global_step:,}, but {failed}; make room, then go on "
            "from the checkpoint before with the same command and `--resume auto`"
        )
    if trainer.is_world_process_zero():
        print(
            f"stopped by {stopped_by} after step {trainer.state.global_step:,}, which is saved; "
            f"go on with the same command and `--resume auto` (exit code {RESUME_EXIT_CODE})\nrun: {run.path}",
            flush=True,
        )
    sys.exit(RESUME_EXIT_CODE)


def _save_model(trainer: PretrainingEngine, run: RunFolder) -> NotSent | None:
    """Write the model, and send it to the hub where that is asked for; the error where that failed."""
    error = not_sent = None
    try:
        trainer.save_model()
    except NotSent as caught:
        not_sent = caught
    except Exception as caught:
        if not is_of_the_disk(caught):
            raise
        error = UserError(
            f"{run.path}: the trained model could not be saved ({caught}); make room, then the same command with "
            "`--resume auto` goes on from the last checkpoint"
        )
    fail_together(error)
    return not_sent


def _finish(family: Pretraining[Data], trainer: PretrainingEngine, run: RunFolder, data: Data) -> None:
    """Save the model, evaluate it, mark the run as finished, and write its report and the model's card."""
    not_sent = _save_model(trainer, run)
    steps = trainer.state.global_step
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
        # The weights are those of that step: so are the figures that follow.
        trainer.state.global_step = checkpoint_step(Path(trainer.state.best_model_checkpoint))
    metrics: dict[str, Any] = family.final_metrics(trainer, data)
    if not math.isfinite(metrics[family.loss_name]):
        raise trainer.diverged("validation loss", metrics[family.loss_name])
    if not trainer.is_world_process_zero():
        return
    metrics["step"] = trainer.state.global_step
    metrics["trained_seconds"] = round(trainer.run_control.clock.seconds, 3)
    metrics["trained_tokens"] = steps * trainer.meter.tokens_per_step
    if trainer.meter.flops_per_step is not None:
        metrics["trained_flops"] = steps * trainer.meter.flops_per_step
    metrics["optimizer_state_bytes"] = optimizer_state_bytes(trainer.optimizer)
    metrics.update(peak_memory(trainer.args.device))
    run.finish(metrics)
    told = [family.result(metrics), f"model:  {run.path}"]
    if family.is_described:
        describe(run, family.kind, data.manifest)
        told.append(f"report: {run.path / 'report.html'}, {run.path / 'report.md'}")
    print("\n".join(told), flush=True)
    if not_sent is not None:
        raise not_sent
