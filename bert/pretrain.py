"""Pretraining of a masked language model: raw text in, a model folder that `from_pretrained` loads out."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import get_model_param_count

from bert.dry_run import plan_of_run
from bert.flops import TRAINING_PER_FORWARD, forward_flops_per_sequence
from bert.masking import MaskingCollator
from bert.metrics import masked_lm_metrics
from bert.model import build_model
from bert.model_card import CARD, write_model_card
from bert.model_options import model_config, num_positions
from bert.options import Options, parse_options
from bert.plan import format_plan
from bert.prepare import prepare_corpus
from bert.prepared import PreparedData
from bert.probe import GlueProbe, check_probe
from bert.report import write_pretraining_report
from bert.samples import TrainingBlocks, ValidationBlocks
from nlp_adan.errors import UserError
from nlp_adan.storage import write_json
from nlp_adan.training.agreement import wait_for_all_ranks
from nlp_adan.training.budget import RunClock
from nlp_adan.training.callbacks import RunLog
from nlp_adan.training.checkpoints import check_start, checkpoint_step
from nlp_adan.training.control import RunControl
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.hardware import peak_flops
from nlp_adan.training.meter import Meter
from nlp_adan.training.pretraining import PretrainingEngine
from nlp_adan.training.run_folder import RunFolder
from nlp_adan.training.signals import RESUME_EXIT_CODE

DATA_RECORD = "data.json"  # in the run's folder: which prepared data it trains on


def main(words: Sequence[str]) -> None:
    """`run_pretrain.py bert WORDS`: train, save, evaluate; returns when the run is finished.

    Exits with `RESUME_EXIT_CODE` where a signal ended it early, after a checkpoint.
    """
    quiet_libraries()
    options = parse_options(words)
    engine = options.engine
    if options.plan.dry_run:
        if engine.process_index == 0:
            print(format_plan(plan_of_run(options, options.plan)))
        return
    run = RunFolder(engine.output_dir)
    recorded = options.resolved()  # before the engine fills in what follows from them
    checkpoint = run.checkpoint_to_resume(recorded, engine.resume, engine.world_size, identified=frozenset({"data"}))
    if run.finished and (run.settings or {}).get("data") == recorded["data"]:
        tell_finished(run, engine)
        return
    # Every rank has looked at the folder before any of them leaves this block, and rank 0 writes into it.
    with engine.main_process_first(desc="data preparation"):
        if engine.process_index == 0:
            check_probe(options.probe)
        prepared, tokenizer = prepare(options)
    check_same_data(run, prepared, checkpoint)
    if run.finished:
        tell_finished(run, engine)
        return
    if checkpoint is not None:
        check_start(checkpoint, engine.world_size, engine.num_sequences_per_step)
    config = model_config(options.model, tokenizer, prepared.block_size)
    tokenizer.model_max_length = num_positions(config)

    def begin(model: PreTrainedModel) -> None:
        run.claim(recorded, resumed_step=checkpoint_step(checkpoint) if checkpoint else 0)
        write_json(run.path / DATA_RECORD, {"key": prepared.manifest["key"], "folder": str(prepared.folder)})
        print_beginning(model, prepared, options)

    try:
        trainer = make_trainer(options, prepared, tokenizer, config, run, begin)
        trainer.train(resume_from_checkpoint=checkpoint)
    except Exception:
        if engine.process_index == 0:
            run.remove_if_empty()  # the Trainer makes it before the run begins
        raise
    stop_if_asked(trainer, run)
    finish(trainer, run, prepared)


class Beginning(TrainerCallback):
    """Has rank 0 do something when optimizer, schedule and checkpoint stand: what fails before leaves no trace."""

    def __init__(self, act: Callable[[PreTrainedModel], None]) -> None:
        self.act = act

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.act(kwargs["model"])


def tell_finished(run: RunFolder, engine: TrainingArguments) -> None:
    """Say that the run is finished, and write what a start that was killed at its very end did not."""
    if engine.process_index == 0:
        if not (run.path / CARD).is_file():  # ended between its last figures and its report
            describe(run)
        print(f"{run.path} holds this run, finished: nothing to do")


def stop_if_asked(trainer: PretrainingEngine, run: RunFolder) -> None:
    """Leave with `RESUME_EXIT_CODE` where a signal ended the training."""
    stopped_by = trainer.run_control.stopped_by
    if stopped_by is None:
        return
    wait_for_all_ranks()  # a launcher kills the other ranks, which may be writing, as soon as one of them ends
    if trainer.is_world_process_zero():
        print(
            f"stopped by {stopped_by} after step {trainer.state.global_step:,}, which is saved; "
            f"go on with the same command and `--resume auto` (exit code {RESUME_EXIT_CODE})\nrun: {run.path}",
            flush=True,
        )
    sys.exit(RESUME_EXIT_CODE)


def finish(trainer: PretrainingEngine, run: RunFolder, prepared: PreparedData) -> None:
    """Save the model, evaluate it, mark the run as finished, and write its report and the model's card."""
    trainer.save_model()
    steps = trainer.state.global_step
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
        # The weights are those of that step: so are the figures that follow.
        trainer.state.global_step = checkpoint_step(trainer.state.best_model_checkpoint)
    metrics = trainer.evaluate()
    if not math.isfinite(metrics["eval_mlm_loss"]):
        raise trainer.diverged("validation loss", metrics["eval_mlm_loss"])
    if not trainer.is_world_process_zero():
        return
    metrics["step"] = trainer.state.global_step
    metrics["trained_seconds"] = round(trainer.run_control.clock.seconds, 3)
    metrics["trained_tokens"] = steps * trainer.meter.tokens_per_step
    if trainer.meter.flops_per_step is not None:
        metrics["trained_flops"] = steps * trainer.meter.flops_per_step
    run.finish(metrics)
    describe(run, prepared.manifest)
    print_result(metrics, run.path)


def describe(run: RunFolder, manifest: Mapping[str, Any] | None = None) -> None:
    """The report of a finished run, then the card of its model."""
    write_pretraining_report(run, manifest)
    write_model_card(run, manifest)


def check_same_data(run: RunFolder, prepared: PreparedData, checkpoint: str | None) -> None:
    """Refuse to go on with other text or another tokenizer than the run, or the checkpoint's run, began with."""
    for folder in {run.path, *([] if checkpoint is None else [Path(checkpoint).parent])}:
        record = folder / DATA_RECORD
        if not record.is_file():
            if checkpoint is not None and folder == Path(checkpoint).parent:
                raise UserError(
                    f"--resume: no {DATA_RECORD} in {str(folder)!r} says on which data {Path(checkpoint).name} was "
                    "trained; name a checkpoint in its run's folder"
                )
            continue
        if json.loads(record.read_text(encoding="utf-8"))["key"] != prepared.manifest["key"]:
            raise UserError(
                f"--resume: the data or the tokenizer changed since {str(folder)!r} began; "
                f"bring them back, or start again in another --output_dir"
            )


def prepare(options: Options) -> tuple[PreparedData, PreTrainedTokenizerBase]:
    """Token blocks and tokenizer for the options: of the prepared folder, from the cache, or made now."""
    tokenizer = options.data.tokenizer or options.model.model_name_or_path
    return prepare_corpus(dataclasses.replace(options.data, tokenizer=tokenizer))


def make_trainer(
    options: Options,
    prepared: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    run: RunFolder,
    begin: Callable[[PreTrainedModel], None],
) -> PretrainingEngine:
    """The engine, set up for masked language modelling on prepared blocks. `begin` is called by `Beginning`."""
    data, engine = options.data, options.engine
    samples_per_step = engine.num_sequences_per_step
    collator = MaskingCollator(
        mask_token_id=tokenizer.mask_token_id,
        special_token_ids=tokenizer.all_special_ids,
        vocab_size=prepared.vocab_size,
        mask_probability=data.mask_probability,
        seed=options.data_seed,
        pad_positions=bool(engine.torch_compile),
    )
    set_seed(engine.seed)
    model = build_model(config, options.model.model_name_or_path)
    trainer = PretrainingEngine(
        model=model,
        args=engine,
        data_collator=collator,
        processing_class=tokenizer,
        train_dataset=TrainingBlocks(prepared.train, options.data_seed),
        eval_dataset=ValidationBlocks(prepared.valid, data.max_valid_blocks),
        compute_metrics=lambda prediction: masked_lm_metrics(prediction, prepared.unigram_counts),
        callbacks=[Beginning(begin), RunLog(run)],
        meter=make_meter(options, model, prepared.block_size),
        control=RunControl(RunClock(), options.budget.max_hours, samples_per_step, run.path),
    )
    control, meter = trainer.run_control, trainer.meter
    trainer.add_callback(
        GlueProbe(
            options.probe,
            run,
            lambda folder: trainer.save_model(folder, _internal_call=True),  # not to the hub
            log=trainer.log,
            clocks=(control.clock, meter),
            interrupted=lambda: control.asked_to_stop,
        )
    )
    return trainer


def make_meter(options: Options, model: PreTrainedModel, block_size: int) -> Meter:
    """The meter of a run: what a step computes, and what its devices could."""
    engine = options.engine
    sequences = engine.num_sequences_per_step
    forward = forward_flops_per_sequence(
        model.config, block_size, options.data.mask_probability, bool(model.sparse_last_layer)
    )
    peak = peak_flops(torch.cuda.get_device_name(engine.device)) if engine.device.type == "cuda" else None
    return Meter(
        tokens_per_step=sequences * block_size,
        flops_per_step=TRAINING_PER_FORWARD * forward * sequences,
        peak_flops=None if peak is None else peak * engine.world_size,
    )


def print_beginning(model: PreTrainedModel, prepared: PreparedData, options: Options) -> None:
    """One line about the run that begins."""
    args: Any = options.engine
    hours = options.budget.max_hours
    length = f"{args.max_steps:,} steps" if hours is None else f"{hours:g} hours"
    print(
        f"{model.config.model_type}: {get_model_param_count(model) / 1e6:.1f} M parameters, "
        f"{len(prepared.train):,} training blocks of {prepared.block_size} tokens; {length} of "
        f"{args.num_sequences_per_step} blocks a step on {args.world_size} rank(s), optimizer {args.optim.value}",
        flush=True,
    )


def print_result(metrics: dict[str, Any], folder: Path) -> None:
    """The final figures beside what guessing reaches."""
    print(
        f"validation MLM loss {metrics['eval_mlm_loss']:.3f} nats "
        f"(unigram cross-entropy of the same tokens: {metrics['eval_unigram_cross_entropy']:.3f}), "
        f"top-5 accuracy {metrics['eval_top5_accuracy']:.3f} "
        f"(always the five commonest tokens: {metrics['eval_five_commonest_accuracy']:.3f})\n"
        f"model:  {folder}\n"
        f"report: {folder / 'report.html'}, {folder / 'report.md'}",
        flush=True,
    )
