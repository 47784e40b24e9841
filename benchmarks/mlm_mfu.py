"""Utilisation of a GPU by the masked LM: a plain loop, bfloat16, SDPA attention, compiled and not.

Imports torch, transformers, numpy and those of our modules that need nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BertConfig

from benchmarks.step_rate import TIMED_STEPS, step_rate
from bert.flops import forward_flops_per_sequence
from bert.masking import MaskingCollator
from bert.model import build_model
from nlp_adan import Adan
from nlp_adan.pretraining.costs import TRAINING_PER_FORWARD

MASK_PROBABILITY = 0.15
VOCABULARY = 30592  # BERT's 30,522, rounded up to a multiple of 64
NUM_BATCHES = 4  # different ones, in turn


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    layers: int
    hidden: int
    heads: int
    length: int
    batch: int
    compiled: bool

    def config(self, vocabulary: int) -> BertConfig:
        """BERT with dropout, as it is trained."""
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=max(self.length, 512),
        )
        config._attn_implementation = "sdpa"
        return config


# 65,536 tokens a step for base, 32,768 for large: room enough on a device of 40 GB.
CASES = tuple(
    Case(
        f"BERT-{name}, {length} tokens{', compiled' if compiled else ''}",
        layers,
        hidden,
        heads,
        length,
        batch,
        compiled,
    )
    for name, layers, hidden, heads, tokens in (("base", 12, 768, 12, 65536), ("large", 24, 1024, 16, 32768))
    for length in (128, 512)
    for batch in (tokens // length,)
    for compiled in (False, True)
)


def measure(case: Case, device: torch.device, vocabulary: int = VOCABULARY, steps: int = TIMED_STEPS) -> dict[str, Any]:
    """Train a case on random tokens; milliseconds a step, tokens and FLOPs a second, MFU."""
    torch.manual_seed(0)
    config = case.config(vocabulary)
    model: Any = build_model(config).to(device).train()
    sparse_last_layer = model.sparse_last_layer
    optimizer = Adan(model.parameters(), lr=1e-4, weight_decay=0.02)
    compiled = torch.compile(model) if case.compiled else model
    batches = [make_batch(case, vocabulary, number, device) for number in range(NUM_BATCHES)]

    def step(number: int) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(**batches[number % NUM_BATCHES])["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    forward = forward_flops_per_sequence(config, case.length, MASK_PROBABILITY, sparse_last_layer)
    flops = TRAINING_PER_FORWARD * forward * case.batch
    found = step_rate(step, device, case.batch * case.length, flops, steps, cpu_warm_up=1)
    return {"batch": case.batch, **found}


def make_batch(case: Case, vocabulary: int, number: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random tokens, masked as in training."""
    generator = np.random.default_rng(number)
    collator = MaskingCollator(
        mask_token_id=4,
        special_token_ids=range(5),
        vocab_size=vocabulary,
        mask_probability=MASK_PROBABILITY,
        seed=0,
        pad_positions=True,
    )
    batch = collator(
        {
            "input_ids": generator.integers(5, vocabulary, (case.batch, case.length)),
            "sample": np.arange(case.batch),
            "epoch": np.full(case.batch, number),
        }
    )
    return {name: tensor.to(device) for name, tensor in batch.items()}


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
