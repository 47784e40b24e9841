"""Utilisation of a GPU by the paper's Transformer-XL for WikiText-103: a plain loop in bfloat16, compiled and not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from benchmarks.step_rate import TIMED_STEPS, step_rate
from nlp_adan import Adan
from transformer_xl import TransformerXLConfig, TransformerXLForCausalLM
from transformer_xl.flops import counted_tail_share, training_flops_per_segment

BATCH = 60  # the paper's, on one device
NUM_SEGMENTS = 4  # different ones, in turn
CLIP = 0.25


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table: a model trained on segments of its `tgt_len` tokens."""

    name: str
    compiled: bool
    config: TransformerXLConfig = dataclasses.field(default_factory=TransformerXLConfig)
    batch: int = BATCH


CASES = tuple(Case(f"wt103-base{', compiled' if compiled else ''}", compiled) for compiled in (False, True))


def zipf_tokens(num_tokens: tuple[int, ...], vocabulary: int, seed: int = 0) -> torch.Tensor:
    """Random tokens, int64, whose frequency falls as 1 / rank, as that of words does."""
    weights = 1 / np.arange(1, vocabulary + 1)
    drawn = np.random.default_rng(seed).choice(vocabulary, size=num_tokens, p=weights / weights.sum())
    return torch.from_numpy(drawn)


def measure(case: Case, device: torch.device, steps: int = TIMED_STEPS) -> dict[str, Any]:
    """Train a case; milliseconds a step, tokens and FLOPs a second, MFU."""
    torch.manual_seed(0)
    config = case.config
    length = config.tgt_len
    model: Any = TransformerXLForCausalLM(config).to(device).train()
    optimizer = Adan(model.parameters(), lr=1e-4, weight_decay=0.02)
    compiled = torch.compile(model) if case.compiled else model
    tokens = zipf_tokens((NUM_SEGMENTS, case.batch, length + 1), config.vocab_size)
    counts = np.bincount(tokens[..., 1:].numpy().ravel(), minlength=config.vocab_size)
    tokens = tokens.to(device)
    mems = None

    def step(number: int) -> None:
        nonlocal mems
        segment = tokens[number % NUM_SEGMENTS]
        with torch.autocast(device.type, torch.bfloat16):
            output = compiled(input_ids=segment[:, :-1], mems=mems, labels=segment[:, 1:])
        mems = output.mems
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    segment_flops = training_flops_per_segment(
        config, length, config.mem_len, micro_batch=case.batch, tail_share=counted_tail_share(config, counts)
    )
    found = step_rate(step, device, case.batch * length, case.batch * segment_flops, steps, cpu_warm_up=2)
    return {"batch": case.batch, **found}


def measure_all(device: torch.device) -> dict[str, dict[str, Any]]:
    """Every case by its name; what fails, such as for lack of memory, with its error."""
    found: dict[str, dict[str, Any]] = {}
    for case in CASES:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        torch.compiler.reset()
        try:
            found[case.name] = measure(case, device)
        except RuntimeError as error:
            found[case.name] = {"error": str(error).partition("\n")[0]}
    return found
