"""The optimizer's state in a checkpoint, on two ranks and across ranks and stages: bit by bit what it was."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from nlp_adan.state_formats import STATE_NAMES
from nlp_adan.training.checkpoint.optimizer_state import read_whole_state
from nlp_adan.training.checkpoint.resharding import cut
from nlp_adan.training.checkpoint.zero_fragments import RELIED_UPON
from tests.distributed import launching
from tests.distributed.checkpoint_worker import ACROSS, CASES

WORKER = "tests.distributed.checkpoint_worker"
pytestmark = [pytest.mark.slow, pytest.mark.distributed]
Saved = tuple[Path, dict[str, str]]  # what the worker wrote, and what it printed


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("checkpoints")
    printed: dict[str, str] = {}
    for phase in ("first", "alone", "second"):
        ranks, launcher = (1, (sys.executable,)) if phase == "alone" else (2, launching.TORCHRUN)
        # LOCAL_SIZE is set by DeepSpeed's own launcher: without it DeepSpeed runs `numactl` at every start.
        done = launching.run([*launcher, "-m", WORKER, phase, str(folder)], LOCAL_SIZE=str(ranks))
        assert done.returncode == 0, done.stderr
        lines = [line.removeprefix("CASE ") for line in done.stdout.splitlines() if line.startswith("CASE ")]
        printed |= {name: result for name, _, result in (line.partition(": ") for line in lines)}
    return folder, printed


def whole(checkpoint: Path) -> dict[str, Tensor]:
    """Weights and states by name."""
    found = {f"weight of {name}": value for name, value in load_file(checkpoint / "model.safetensors").items()}
    for name, states in read_whole_state(checkpoint).items():
        found |= {f"{state} of {name}": value for state, value in states.items()}
    return found


def description(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "optimizer" / "optimizer.json").read_text())
    return found


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """What is in only one of them, or differs in a bit or in its dtype."""
    shared = one.keys() & other.keys()
    same = {name for name in shared if one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])}
    return (one.keys() | other.keys()) - same


@pytest.mark.parametrize("name", CASES)
def test_training_goes_on_bit_by_bit_in_new_processes(saved: Saved, name: str) -> None:
    folder = saved[0] / name
    half, end, resumed = (whole(folder / part) for part in ("half", "end", "resumed"))
    assert differences(end, resumed) == set()
    assert description(folder / "end") == description(folder / "resumed")  # options, counters, loss scale
    assert description(folder / "half") != description(folder / "end")
    # Or the comparison would see nothing.
    assert all(word.endswith((" unused", " frozen")) for word in half.keys() - differences(half, end))
    states = {"exp_avg", "exp_avg_sq"} if "AdamW" in name else set(STATE_NAMES)
    masters = {"master"} if CASES[name].dtype != torch.float32 else set()
    assert {word.partition(" of ")[0] for word in end} == {"weight", "step"} | states | masters


def test_every_kind_of_deepspeed_optimizer_is_tested(saved: Saved) -> None:
    """With what is relied upon of each: a version of DeepSpeed without it ends the worker with a message naming it."""
    assert set(RELIED_UPON) <= set(saved[1].values())


def test_float16_skips_steps_and_keeps_its_loss_scale(saved: Saved) -> None:
    half, end = (description(saved[0] / "ZeRO 2, float16" / part)["engine"] for part in ("half", "end"))
    assert half["skipped_steps"] > 0 and half["loss_scale"]["cur_scale"] != 2**17
    assert end["loss_scale"]["cur_iter"] == end["global_steps"] == 6 and end["micro_steps"] == 12


@pytest.mark.parametrize("name", ["DDP", "ZeRO 0, bfloat16"])
def test_ranks_that_have_everything_share_the_writing(saved: Saved, name: str) -> None:
    parts = sorted((saved[0] / name / "end" / "optimizer").glob("part*"))
    tensors = [load_file(part) for part in parts]
    assert len(tensors) == 2 and not tensors[0].keys() & tensors[1].keys()
    sizes = [sum(value.numel() for value in part.values()) for part in tensors]
    assert max(sizes) < 1.25 * min(sizes)


MOVES = [(source, target) for moves in ACROSS.values() for source, _, target in moves if "float32" not in target]


@pytest.mark.parametrize(("source", "target"), MOVES, ids=[target for _, target in MOVES])
def test_across_ranks_and_stages(saved: Saved, source: str, target: str) -> None:
    """Every state, step, master and weight, element by element."""
    before, after = whole(saved[0] / source), whole(saved[0] / target)
    # Never given a gradient, `unused` has no state by itself; beside others in a flat tensor it has zeros.
    new = {f"{state} of unused" for state in ("step", *STATE_NAMES)} if target == "plain to 2" else set()
    assert differences(before, after) == new
    assert not any(after[name].any() for name in new - {"step of unused"})
    told = [{**description(saved[0] / path), "engine": None, "parameters": None} for path in (source, target)]
    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["DDP", "ZeRO 1", "ZeRO 2", "ZeRO 2, bfloat16", "ZeRO 3", "ZeRO 3, bfloat16"])
def test_resharding_deals_out_what_each_rank_has(saved: Saved, name: str) -> None:
    """`reshard` knows nothing of an engine, and cuts where it does."""
    checkpoint = saved[0] / name / "half"
    groups = [group["parameters"] for group in description(checkpoint)["groups"]]
    sizes = {key: math.prod(facts["shape"]) for key, facts in description(checkpoint)["parameters"].items()}
    for part, expected in zip(("00000", "00001"), cut(groups, sizes, 2, CASES[name].stage), strict=True):
        with safe_open(checkpoint / "optimizer" / f"part-{part}-of-00002.safetensors", "pt") as file:
            slices = json.loads(file.metadata()["slices"])
        found = {
            key.removeprefix("exp_avg/"): tuple(ends) for key, ends in slices.items() if key.startswith("exp_avg/")
        }
        with_state = {key: ends for key, *ends in expected if CASES[name].stage or key != "unused"}
        assert found == {key: tuple(ends) for key, ends in with_state.items()}


def test_across_precisions(saved: Saved) -> None:
    """The masters become the weights, and the weights the masters."""
    folder = saved[0]
    masters, floats = whole(folder / "ZeRO 2, bfloat16" / "half"), whole(folder / "bfloat16 to float32")
    trained = [name.removeprefix("master of ") for name in masters if name.startswith("master of ")]
    assert trained and not any(name.startswith("master") for name in floats)
    for name in trained:
        assert torch.equal(masters[f"master of {name}"], floats[f"weight of {name}"])
    floats, masters = whole(folder / "ZeRO 3" / "half"), whole(folder / "float32 to bfloat16")
    for name in trained:
        assert torch.equal(masters[f"master of {name}"], floats[f"weight of {name}"])
        assert torch.equal(masters[f"weight of {name}"], floats[f"weight of {name}"].bfloat16())
        assert torch.equal(masters[f"exp_avg of {name}"], floats[f"exp_avg of {name}"])


def test_another_optimizer_is_refused(saved: Saved) -> None:
    assert "is 'Adan' and this start's is 'AdamW'; resume with the `--optim`" in saved[1]["another optimizer"]
