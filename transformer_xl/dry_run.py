"""`run_pretrain.py transformer_xl ... --dry_run` and `lstm ... --dry_run`: the plan of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nlp_adan.corpora.manifest import is_prepared
from nlp_adan.corpora.pretrained_tokenizer import num_token_ids
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan import Plan, batch_sizes, make_plan
from nlp_adan.pretraining.plan_options import PlanOptions, workload_of_run

from .costs import language_model_costs
from .flops import counted_tail_share, mean_segment_length
from .loading import check_same_vocabulary
from .prepare import prepare_stream, tokenization
from .stream import PreparedStream, StreamSegments
from .texts import open_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .options import Options

NUM_BYTES = 256
# What the recipes of published runs are of, and how many words that text has.
PUBLISHED_VOCABULARIES = {"wt103": ("WikiText-103", 267_735), "ptb": ("the Penn Treebank", 10_000)}


def plan_of_run(options: Options, plan: PlanOptions) -> Plan:
    """The plan of a command line, and of the prepared stream that its `--data` names. Reads no raw text.

    Raises: UserError for what the run would refuse too: sizes that do not fit each other, text that is not there; and
        where the size of the vocabulary cannot be known.
    """
    data, model, engine = options.data, options.model, options.engine
    stream = None
    if data.data is not None and is_prepared(Path(data.data).expanduser()):
        stream = prepare_stream(data, given=data.given)
    vocab_size, vocabulary = _vocabulary(options, stream)
    config = model.config(vocab_size)
    mean_length = mean_segment_length(model.tgt_len, model.random_lengths)
    workload = workload_of_run(options, plan, mean_length, None, "segments")
    devices = plan.devices(engine.world_size)
    global_batch, micro_batch = batch_sizes(workload, devices.world_size)
    tail_share = None
    if stream is not None:
        seed = engine.seed_of_data if model.random_lengths else None
        segments = StreamSegments(stream.train, global_batch, model.tgt_len, random_seed=seed)
        tail_share = counted_tail_share(config, stream.train_counts)
        workload = workload_of_run(options, plan, mean_length, segments.num_samples, "segments")
    costs = language_model_costs(
        config,
        model.tgt_len,
        model.mem_len,
        mean_length=mean_length,
        micro_batch=micro_batch,
        bf16=workload.bf16,
        activation_checkpointing=workload.activation_checkpointing,
        tail_share=tail_share,
        vocabulary=vocabulary,
    )
    return make_plan(costs, workload, devices)


def _vocabulary(options: Options, stream: PreparedStream | None) -> tuple[int, str]:
    """The number of tokens, and the same in words, with where it is from."""
    data = options.data
    if stream is not None:
        _check_model(options, stream.tokenizer())
        return stream.vocab_size, f"{stream.vocab_size:,}, those of {stream.folder}"
    rules, tokenizer = tokenization(data)
    unit = rules.unit
    if data.data is not None:
        open_texts(data.data, unit, data.encoding, data.text_column, data.valid_fraction, data.test_fraction)
    if tokenizer is not None:
        _check_model(options, tokenizer)
        size = num_token_ids(tokenizer)
        return size, f"{size:,}, those of --tokenizer"
    if options.model.model_name_or_path is not None:
        size = options.model.config(None).vocab_size
        return size, f"{size:,}, those of --model_name_or_path"
    if unit == "byte":
        return NUM_BYTES, f"{NUM_BYTES}, bytes"
    if data.max_vocab is not None:
        return data.max_vocab, f"{data.max_vocab:,} at most (--max_vocab); the text is not counted yet"
    corpus, size = PUBLISHED_VOCABULARIES.get(data.recipe.partition("-")[0], ("", 0))
    if not size or unit != "word":
        raise UserError(
            f"--dry_run: how many {unit}s the vocabulary has is not known before the text is counted; give "
            "`--max_vocab N`, or as --data a stream that is prepared"
        )
    return size, f"{size:,}, the words of {corpus}: assumed, the text is not counted yet"


def _check_model(options: Options, tokenizer: PreTrainedTokenizerBase) -> None:
    if options.model.model_name_or_path is not None:
        check_same_vocabulary(options.model.model_name_or_path, tokenizer)
