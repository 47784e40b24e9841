"""`run_pretrain.py bert ... --dry_run`: the options of the plan, and the plan of a command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bert.model_options import SPECIAL_TOKENS, model_config
from bert.plan import GIB, Devices, Plan, Workload, make_plan
from bert.prepare import prepare_corpus
from bert.tokenizer import load_tokenizer
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.corpora.manifest import is_prepared
from nlp_adan.errors import UserError
from nlp_adan.training.hardware import peak_flops
from nlp_adan.training.recipe import check_range

if TYPE_CHECKING:
    from bert.options import Options

PAD_ID = 1  # of the tokenizers trained here; RoBERTa counts its positions on from there
_DETAILS = ("flops_per_second", "plan_ranks", "plan_device", "plan_memory_gib")


@dataclass
class PlanOptions:
    """What a run would take, told before it begins."""

    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the run; prepare and train nothing."})
    flops_per_second: float | None = field(
        default=None,
        metadata={"help": "Of --dry_run: what a device sustains; default: 40 %% of its peak, where that is known."},
    )
    plan_ranks: int | None = field(
        default=None, metadata={"help": "Of --dry_run: the ranks to plan for; default: those of this start."}
    )
    plan_device: str | None = field(
        default=None,
        metadata={"help": "Of --dry_run: the device, as 'NVIDIA A100-SXM4-80GB'; default: this machine's."},
    )
    plan_memory_gib: float | None = field(
        default=None, metadata={"help": "Of --dry_run: a device's memory in GiB; default: that of this machine's."}
    )

    def __post_init__(self) -> None:
        given = [name for name in _DETAILS if getattr(self, name) is not None]
        if given and not self.dry_run:
            raise UserError(f"--{given[0]} is of the plan: add `--dry_run`, or leave it out")
        for name in ("flops_per_second", "plan_ranks", "plan_memory_gib"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, 1 if name == "plan_ranks" else 1e-3)

    def devices(self, world_size: int) -> Devices:
        """The devices to plan for; `world_size`: the ranks of this start."""
        name, memory = self.plan_device, None
        if name is None and torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            name, memory = properties.name, float(properties.total_memory)
        if self.plan_memory_gib is not None:
            memory = self.plan_memory_gib * GIB
        return Devices(self.plan_ranks or world_size, name, memory, self.flops_per_second)


class _PlannedTokenizer:
    """Stands for a tokenizer that is still to be trained: its size and its special tokens' ids."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        for name in (*SPECIAL_TOKENS, "mask_token_id"):
            setattr(self, name, PAD_ID if name == "pad_token_id" else 0)

    def get_vocab(self) -> dict[str, int]:
        """Its last token stands for all."""
        return {"last": self.vocab_size - 1}


def _configuration_name(deepspeed: Any) -> str | None:
    """What the plan calls a DeepSpeed configuration: its file's name, or that it came as JSON."""
    if isinstance(deepspeed, str):
        return Path(deepspeed).stem
    return "JSON" if deepspeed else None


def plan_of_run(options: Options, plan: PlanOptions) -> Plan:
    """The plan of a command line, and of the prepared data that its `--data` names. Reads no raw text.

    Raises: UserError for what the run would refuse too: sizes that do not fit each other, an unknown tokenizer, text
        that is not there.
    """
    engine = options.engine
    given: Any = engine
    data = dataclasses.replace(options.data, tokenizer=options.data.tokenizer or options.model.model_name_or_path)
    num_train_blocks = None
    tokenizer: Any = _PlannedTokenizer(data.vocab_size)
    if data.data is not None and is_prepared(Path(data.data)):
        prepared, tokenizer = prepare_corpus(data)
        num_train_blocks = len(prepared.train)
    else:
        if data.data is not None:
            open_corpus(data.data, data.encoding, data.text_column)
        if data.tokenizer is not None:
            tokenizer = load_tokenizer(data.tokenizer)
    # A GPU that is planned for, not this machine's, would choose bfloat16 too (nlp_adan.training.precision).
    chooses_bf16 = engine.chose_precision and plan.plan_device is not None and peak_flops(plan.plan_device) is not None
    workload = Workload(
        block_size=data.block_size,
        mask_probability=data.mask_probability,
        micro_batch_size=engine.per_device_train_batch_size,
        global_batch_size=engine.global_batch_size,
        accumulation_steps=given.gradient_accumulation_steps,
        num_train_blocks=num_train_blocks,
        max_steps=given.max_steps if given.max_steps > 0 else None,
        max_hours=options.budget.max_hours,
        num_train_epochs=given.num_train_epochs,
        optim=str(getattr(engine.optim, "value", engine.optim)),
        optim_args=given.optim_args,
        bf16=given.bf16 or given.fp16 or chooses_bf16,
        activation_checkpointing=given.activation_checkpointing,
        deepspeed=_configuration_name(given.deepspeed),
    )
    return make_plan(model_config(options.model, tokenizer, data.block_size), workload, plan.devices(given.world_size))
