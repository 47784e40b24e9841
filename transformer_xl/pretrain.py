"""Pretraining of a Transformer-XL or an LSTM: raw text in, a model folder that `from_pretrained` loads out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig, PreTrainedModel, set_seed

from nlp_adan.pretraining.flow import Begin, Beginning, Pretraining, conduct
from nlp_adan.pretraining.plan import format_plan
from nlp_adan.training.budget import RunClock
from nlp_adan.training.callbacks import RunLog
from nlp_adan.training.control import RunControl
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.hardware import peak_flops
from nlp_adan.training.meter import Meter
from nlp_adan.training.pretraining import PretrainingEngine
from nlp_adan.training.recurrent import RecurrentEngine
from nlp_adan.training.run_folder import RunFolder
from nlp_adan.training.stream_evaluation import StreamEvaluation

from .dry_run import plan_of_run
from .flops import counted_tail_share, mean_segment_length, training_flops_per_segment
from .loading import check_same_vocabulary
from .model_options import build_model, segments_before
from .options import Options, parse_options
from .parameters import num_parameters, num_parameters_outside_embedding
from .prepare import prepare_stream
from .run_kind import LANGUAGE_MODEL
from .stream import PreparedStream, StreamSegments


def transformer_xl(words: Sequence[str]) -> None:
    """`run_pretrain.py transformer_xl WORDS`: see `nlp_adan.pretraining.flow.conduct`."""
    quiet_libraries()
    conduct(transformer_xl_pretraining(words))


def lstm(words: Sequence[str]) -> None:
    """`run_pretrain.py lstm WORDS`: see `nlp_adan.pretraining.flow.conduct`."""
    quiet_libraries()
    conduct(lstm_pretraining(words))


def transformer_xl_pretraining(words: Sequence[str]) -> StreamPretraining:
    """A run of a Transformer-XL with these options, to be conducted. Raises UserError for a mistake in them."""
    return StreamPretraining(parse_options("transformer_xl", words))


def lstm_pretraining(words: Sequence[str]) -> StreamPretraining:
    """A run of an LSTM with these options, to be conducted. Raises UserError for a mistake in them."""
    return StreamPretraining(parse_options("lstm", words))


class StreamPretraining(Pretraining[PreparedStream]):
    """Language modelling on a stream of tokens, with a memory."""

    options: Options
    kind = LANGUAGE_MODEL
    loss_name = "eval_loss"
    loss_in_words = "validation loss, nats a token"

    def plan(self) -> str:
        """See `Pretraining.plan`."""
        return format_plan(plan_of_run(self.options, self.options.plan))

    def check(self) -> None:
        """See `Pretraining.check`: what the model's options say, before a long text is read."""
        self.options.model.config(None)

    def prepare(self) -> PreparedStream:
        """The stream of a prepared folder, from the cache, or made now."""
        stream = prepare_stream(self.options.data, given=self.options.data.given)
        if self.options.model.model_name_or_path is not None:
            check_same_vocabulary(self.options.model.model_name_or_path, stream.tokenizer())
        return stream

    def sequence_length(self, data: PreparedStream) -> int:
        """See `Pretraining.sequence_length`; the nominal one where segments are of random length."""
        return self.options.model.tgt_len

    def make_trainer(self, data: PreparedStream, run: RunFolder, begin: Begin) -> PretrainingEngine:
        """See `Pretraining.make_trainer`."""
        options, model_options = self.options, self.options.model
        engine: Any = options.engine
        segments = StreamSegments(
            data.train,
            engine.num_sequences_per_step,
            model_options.tgt_len,
            random_seed=engine.seed_of_data if model_options.random_lengths else None,
        )
        config = model_options.config(data.vocab_size)
        tokenizer = data.tokenizer()
        config.bos_token_id = config.pad_token_id = None
        config.eos_token_id = tokenizer.eos_token_id
        set_seed(engine.seed)
        model = build_model(config, model_options.model_name_or_path)
        return RecurrentEngine(
            model=model,
            args=engine,
            processing_class=tokenizer,
            train_dataset=segments,
            evaluation=self.evaluation(data, "valid", config, options.data.max_valid_tokens),
            schedule=options.schedule,
            nominal_length=model_options.tgt_len if model_options.random_lengths else None,
            callbacks=[Beginning(begin), RunLog(run)],
            meter=make_meter(options, config, data.train_counts),
            control=RunControl(RunClock(), options.budget.max_hours, run.path),
        )

    def evaluation(
        self, data: PreparedStream, part: str, config: PretrainedConfig, max_tokens: int | None = None
    ) -> StreamEvaluation:
        """The evaluation of the validation or the test part, read as in training.

        max_tokens: that count at most, from the beginning; None: all.
        """
        length = self.options.model.tgt_len
        return StreamEvaluation(
            tokens=getattr(data, part)[: None if max_tokens is None else max_tokens + 1],  # the first has none before
            length=length,
            batch_size=self.options.engine.per_device_eval_batch_size,
            num_before=segments_before(config, length),
            unit=data.unit_of_loss,
            train_counts=data.train_counts,
        )

    def final_metrics(self, trainer: PretrainingEngine, data: PreparedStream) -> dict[str, float]:
        """Those of the whole validation part and, read this once, of the test part."""
        assert isinstance(trainer, RecurrentEngine)
        metrics, args = trainer.evaluate(), trainer.args
        parts = {"test": "test"} if len(data.test) > 1 else {}
        if len(trainer.stream_evaluation.tokens) < len(data.valid):  # --max_valid_tokens: a line of eval.jsonl, no more
            metrics, parts = {}, {"eval": "valid", **parts}
        for prefix, part in parts.items():
            whole = self.evaluation(data, part, trainer.model.config)
            figures, _ = trainer.measure(whole, whole.batches(args.process_index, args.world_size))
            metrics.update({f"{prefix}_{name}": value for name, value in figures.items()})
        return metrics

    def beginning(self, model: PreTrainedModel, data: PreparedStream) -> str:
        """See `Pretraining.beginning`."""
        args: Any = self.options.engine
        hours = self.options.budget.max_hours
        length = f"{args.max_steps:,} steps" if hours is None else f"{hours:g} hours"
        config = model.config
        return (
            f"{config.model_type}: {num_parameters(config):,} parameters, "
            f"{num_parameters_outside_embedding(config):,} of them outside embedding and softmax; "
            f"{len(data.train):,} training tokens of {data.vocab_size:,} kinds in {args.num_sequences_per_step} "
            f"streams; {length} of {self.options.model.tgt_len} tokens of each on {args.world_size} rank(s), "
            f"optimizer {args.optim.value}"
        )

    def result(self, metrics: Mapping[str, Any]) -> str:
        """The final figures beside what guessing reaches."""
        parts = [_part_result("validation", "eval", metrics)]
        if "test_loss" in metrics:
            parts.append(_part_result("test", "test", metrics))
        unigram = metrics["eval_unigram_cross_entropy"]
        is_characters = "eval_bits_per_character" in metrics
        guess = unigram / np.log(2) if is_characters else np.exp(unigram)
        return f"{', '.join(parts)} (by the frequencies of {'characters' if is_characters else 'words'}: {guess:,.3f})"


def _part_result(name: str, prefix: str, metrics: Mapping[str, Any]) -> str:
    if f"{prefix}_perplexity" in metrics:
        return f"{name} perplexity {metrics[f'{prefix}_perplexity']:,.2f}"
    return f"{name} bits per character {metrics[f'{prefix}_bits_per_character']:.3f}"


def make_meter(options: Options, config: PretrainedConfig, train_counts: npt.NDArray[np.int64]) -> Meter:
    """The meter of a run: what a step computes, and what its devices could.

    train_counts: (vocab,), how often each token occurs in the training part; the tails of an adaptive softmax score
    their own.
    """
    engine: Any = options.engine
    streams = engine.num_sequences_per_step
    length = mean_segment_length(options.model.tgt_len, options.model.random_lengths)
    flops = training_flops_per_segment(
        config,
        length,
        options.model.mem_len,
        micro_batch=engine.per_device_train_batch_size,
        tail_share=counted_tail_share(config, train_counts),
    )
    peak = peak_flops(torch.cuda.get_device_name(engine.device)) if engine.device.type == "cuda" else None
    return Meter(
        tokens_per_step=round(streams * length),
        flops_per_step=flops * streams,
        peak_flops=None if peak is None else peak * engine.world_size,
    )
