"""Pretraining of a masked language model: raw text in, a model folder that `from_pretrained` loads out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_pt_utils import get_model_param_count

from bert.dry_run import plan_of_run
from bert.flops import forward_flops_per_sequence
from bert.masking import MaskingCollator
from bert.metrics import masked_lm_metrics
from bert.model import build_model
from bert.model_options import model_config, num_positions
from bert.options import Options, parse_options
from bert.prepare import prepare_corpus
from bert.prepared import PreparedData
from bert.probe import GlueProbe, check_probe
from bert.run_kind import MASKED_LM
from bert.samples import TrainingBlocks, ValidationBlocks
from nlp_adan.pretraining.costs import TRAINING_PER_FORWARD
from nlp_adan.pretraining.flow import Begin, Beginning, Pretraining, conduct
from nlp_adan.pretraining.plan import format_plan
from nlp_adan.training.budget import RunClock
from nlp_adan.training.callbacks import RunLog
from nlp_adan.training.control import RunControl
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.hardware import peak_flops
from nlp_adan.training.meter import Meter
from nlp_adan.training.pretraining import PretrainingEngine
from nlp_adan.training.run_folder import RunFolder


def main(words: Sequence[str]) -> None:
    """`run_pretrain.py bert WORDS`: see `nlp_adan.pretraining.flow.conduct`."""
    quiet_libraries()
    conduct(pretraining(words))


def pretraining(words: Sequence[str]) -> MaskedLMPretraining:
    """A run of a BERT with these options, to be conducted. Raises UserError for a mistake in them."""
    return MaskedLMPretraining(parse_options(words))


class MaskedLMPretraining(Pretraining[PreparedData]):
    """Masked language modelling on prepared blocks."""

    options: Options
    _tokenizer: PreTrainedTokenizerBase
    kind = MASKED_LM
    loss_name = "eval_mlm_loss"
    loss_in_words = "validation MLM loss, nats a masked token"

    def plan(self) -> str:
        """See `Pretraining.plan`."""
        return format_plan(plan_of_run(self.options, self.options.plan))

    def check(self) -> None:
        """See `Pretraining.check`: the GLUE data and tasks of the probes."""
        check_probe(self.options.probe)

    def prepare(self) -> PreparedData:
        """Token blocks of the prepared folder, from the cache, or made now."""
        data, model = self.options.data, self.options.model
        tokenizer = data.tokenizer or model.model_name_or_path
        prepared, self._tokenizer = prepare_corpus(dataclasses.replace(data, tokenizer=tokenizer), given=data.given)
        return prepared

    def sequence_length(self, data: PreparedData) -> int:
        """See `Pretraining.sequence_length`."""
        return data.block_size

    def make_trainer(self, data: PreparedData, run: RunFolder, begin: Begin) -> PretrainingEngine:
        """See `Pretraining.make_trainer`."""
        tokenizer = self._tokenizer
        config = model_config(self.options.model, tokenizer, data.block_size)
        tokenizer.model_max_length = num_positions(config)
        return make_trainer(self.options, data, tokenizer, config, run, begin)

    def beginning(self, model: PreTrainedModel, data: PreparedData) -> str:
        """See `Pretraining.beginning`."""
        args: Any = self.options.engine
        hours = self.options.budget.max_hours
        length = f"{args.max_steps:,} steps" if hours is None else f"{hours:g} hours"
        return (
            f"{model.config.model_type}: {get_model_param_count(model) / 1e6:.1f} M parameters, "
            f"{len(data.train):,} training blocks of {data.block_size} tokens; {length} of "
            f"{args.num_sequences_per_step} blocks a step on {args.world_size} rank(s), optimizer {args.optim.value}"
        )

    def result(self, metrics: Mapping[str, Any]) -> str:
        """The final figures beside what guessing reaches."""
        return (
            f"validation MLM loss {metrics['eval_mlm_loss']:.3f} nats "
            f"(unigram cross-entropy of the same tokens: {metrics['eval_unigram_cross_entropy']:.3f}), "
            f"top-5 accuracy {metrics['eval_top5_accuracy']:.3f} "
            f"(always the five commonest tokens: {metrics['eval_five_commonest_accuracy']:.3f})"
        )


def make_trainer(
    options: Options,
    prepared: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    run: RunFolder,
    begin: Begin,
) -> PretrainingEngine:
    """The engine, set up for masked language modelling on prepared blocks. `begin` is called by `Beginning`."""
    data, engine = options.data, options.engine
    collator = MaskingCollator(
        mask_token_id=tokenizer.mask_token_id,
        special_token_ids=tokenizer.all_special_ids,
        vocab_size=prepared.vocab_size,
        mask_probability=data.mask_probability,
        seed=engine.seed_of_data,
        pad_positions=bool(engine.torch_compile),
    )
    set_seed(engine.seed)
    model = build_model(config, options.model.model_name_or_path)
    trainer = PretrainingEngine(
        model=model,
        args=engine,
        data_collator=collator,
        processing_class=tokenizer,
        train_dataset=TrainingBlocks(prepared.train, engine.seed_of_data),
        eval_dataset=ValidationBlocks(prepared.valid, data.max_valid_blocks),
        compute_metrics=lambda prediction: masked_lm_metrics(prediction, prepared.unigram_counts),
        callbacks=[Beginning(begin), RunLog(run)],
        meter=make_meter(options, model, prepared.block_size),
        control=RunControl(RunClock(), options.budget.max_hours, run.path),
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
