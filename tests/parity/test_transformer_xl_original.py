"""Against the plain model in the research code's layout: losses and memories of its checkpoints, loaded into ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.transformer_xl_original import OPTIONS, Original
from transformer_xl import TransformerXLConfig, TransformerXLForCausalLM
from transformer_xl.convert import build_model

CUTOFFS = {"cutoffs": [12, 30, 41], "tie_projs": [False, True, True, True]}
CASES: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm": {"pre_lnorm": True},
    "not tied": {"tie_weight": False},
    "odd width of heads": {"n_head": 3, "d_head": 5},
    "narrow embedding": {"d_embed": 6, "tie_projs": [True]},
    "clusters": CUTOFFS,
    "clusters, narrow embedding": {**CUTOFFS, "d_embed": 6},
    "clusters, own projections": {**CUTOFFS, "d_embed": 6, "tie_projs": [False]},
    "div_val 2": {**CUTOFFS, "div_val": 2},
    "div_val 2, one cluster": {"div_val": 2},
    "div_val 2, not tied": {**CUTOFFS, "div_val": 2, "tie_weight": False, "tie_projs": [False] * 4},
    "div_val 2, all tied": {**CUTOFFS, "div_val": 2, "tie_projs": [True] * 4},
    "div_val 4": {"cutoffs": [20], "div_val": 4, "tie_projs": [False, True], "pre_lnorm": True},
    "clamp_len": {"clamp_len": 3},
    "same_length": {"same_length": True},
    "same_length, long memory": {"same_length": True, "mem_len": 17, "clamp_len": 9},
    "memory shorter than a segment": {"mem_len": 2},
    "no memory": {"mem_len": 0},
}


def configuration(options: dict[str, Any]) -> TransformerXLConfig:
    """Ours for the research code's options."""
    ours: dict[str, Any] = {{"n_token": "vocab_size"}.get(name, name): value for name, value in options.items()}
    return TransformerXLConfig(**ours)


def pair(options: dict[str, Any]) -> tuple[Original, TransformerXLForCausalLM]:
    """The plain model with drawn parameters, and ours of its state dict; in float32, without dropout."""
    torch.manual_seed(0)
    theirs = Original(**options).randomize().eval()
    return theirs, build_model(theirs.state_dict(), configuration({**OPTIONS, **options}), "state")


def segments(lengths: Sequence[int], num_tokens: int = 50, batch: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets, each (batch, seq), of segments that follow each other."""
    generator = torch.Generator().manual_seed(1)
    stream = torch.randint(num_tokens, (batch, sum(lengths) + 1), generator=generator)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [(stream[:, s : s + n], stream[:, s + 1 : s + n + 1]) for s, n in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_same_losses_and_memories_over_segments(case: str) -> None:
    """Losses of about 10 to 1e-5 (measured: 1.4e-6); memories of about 1 to 1e-5."""
    theirs, ours = pair(CASES[case])
    mems: Any = None
    memories: list[Tensor] = []
    with torch.no_grad():
        for inputs, targets in segments([5, 5, 3, 5, 1, 6]):
            losses, memories = theirs(inputs.t(), targets.t(), *memories)
            output = ours(inputs, mems, targets)
            mems = output.mems
            torch.testing.assert_close(output.losses, losses.t(), rtol=0, atol=1e-5)
            torch.testing.assert_close(output.loss, losses.mean(), rtol=0, atol=1e-5)
            assert output.logits is None
            for found, memory in zip(mems, memories, strict=False):
                torch.testing.assert_close(found, memory.transpose(0, 1), rtol=0, atol=1e-5)
    assert len(mems) == (2 if OPTIONS["mem_len"] and CASES[case].get("mem_len", 1) else 0)


@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_dropout_in_the_same_places(pre_lnorm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own share: a dropout that scales instead of drawing shows where it is left out or too many."""

    def scaled(given: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return given * (1 - p) if training else given

    monkeypatch.setattr(torch.nn.functional, "dropout", scaled)
    theirs, ours = pair({**CUTOFFS, "pre_lnorm": pre_lnorm, "dropout": 0.2, "dropatt": 0.3})
    first = segments([5])[0][0]
    without = ours(first).logits
    theirs.train()
    ours.train()
    mems: Any = None
    memories: list[Tensor] = []
    for inputs, targets in segments([5, 5]):
        losses, memories = theirs(inputs.t(), targets.t(), *memories)
        output = ours(inputs, mems, targets)
        mems = output.mems
        torch.testing.assert_close(output.losses, losses.t(), rtol=0, atol=1e-5)
        torch.testing.assert_close(mems[1], memories[1].transpose(0, 1), rtol=0, atol=1e-5)
    assert not torch.allclose(ours(first).logits, without, atol=0.01)
