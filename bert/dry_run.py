"""`run_pretrain.py bert ... --dry_run`: the plan of a command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert.costs import masked_lm_costs
from bert.model_options import SPECIAL_TOKENS, model_config
from bert.prepare import prepare_corpus
from bert.tokenizer import load_tokenizer
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.corpora.manifest import is_prepared
from nlp_adan.pretraining.plan import Plan, make_plan
from nlp_adan.pretraining.plan_options import PlanOptions, workload_of_run

if TYPE_CHECKING:
    from bert.options import Options

PAD_ID = 1  # of the tokenizers trained here; RoBERTa counts its positions on from there


class _PlannedTokenizer:
    """Stands for a tokenizer that is still to be trained: its size and its special tokens' ids."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        for name in (*SPECIAL_TOKENS, "mask_token_id"):
            setattr(self, name, PAD_ID if name == "pad_token_id" else 0)

    def get_vocab(self) -> dict[str, int]:
        """Its last token stands for all."""
        return {"last": self.vocab_size - 1}


def plan_of_run(options: Options, plan: PlanOptions) -> Plan:
    """The plan of a command line, and of the prepared data that its `--data` names. Reads no raw text.

    Raises: UserError for what the run would refuse too: sizes that do not fit each other, an unknown tokenizer, text
        that is not there.
    """
    data = dataclasses.replace(options.data, tokenizer=options.data.tokenizer or options.model.model_name_or_path)
    num_train_blocks = None
    tokenizer: Any = _PlannedTokenizer(data.vocab_size)
    if data.data is not None and is_prepared(Path(data.data)):
        prepared, tokenizer = prepare_corpus(data, given=options.data.given)
        num_train_blocks = len(prepared.train)
    else:
        if data.data is not None:
            open_corpus(data.data, data.encoding, data.text_column)
        if data.tokenizer is not None:
            tokenizer = load_tokenizer(data.tokenizer)
    workload = workload_of_run(options, plan, data.block_size, num_train_blocks, "blocks")
    costs = masked_lm_costs(
        model_config(options.model, tokenizer, data.block_size),
        data.block_size,
        data.mask_probability,
        workload.bf16,
        workload.activation_checkpointing,
    )
    return make_plan(costs, workload, plan.devices(options.engine.world_size))
