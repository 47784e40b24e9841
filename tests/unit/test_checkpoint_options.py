"""Options that would lose optimizer states, or let a checkpoint run code, are refused while they are read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint import FileSystemReader
from transformers.integrations import deepspeed as hf_deepspeed

from bert.options import parse_options
from nlp_adan.errors import UserError
from nlp_adan.training.deepspeed_checks import check_deepspeed_config
from tests.unit.malicious_files import pickled

OUTPUT = ["--output_dir", "runs/never"]


@pytest.fixture(autouse=True)
def no_deepspeed_left() -> Iterator[None]:
    yield
    hf_deepspeed.unset_hf_deepspeed_config()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"checkpoint": {"load_universal": True}}, "load_universal: true .*two of Adan's four states.*`--resume`"),
        ({"checkpoint": {"writer": {"type": "python", "decoupled": True}}}, "writer: .*decoupled.* take it out"),
        ({"checkpoint": {"parallel_write": {"pipeline_stage": True}}}, "parallel_write: .*take it out"),
        ({"checkpoint": {"use_node_local_storage": True}}, "use_node_local_storage: true .*one folder"),
        ({"datastates_ckpt": {"host_cache_size": 16}}, "datastates_ckpt: .*take it out"),
        ({"elasticity": {"enabled": True}}, "elasticity.enabled: true .*`--global_batch_size`"),
        ({"zero_optimization": {"stage": 2, "elastic_checkpoint": True}}, "elastic_checkpoint: true .*`--resume`"),
        ({"zero_optimization": {"stage": 2, "pipeline_loading_checkpoint": True}}, "pipeline_loading_checkpoint"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/x"}}},
            r'offload_optimizer\.device: "nvme" .*`"device": "cpu"`',
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/x"}}},
            r'offload_param\.device: "nvme" .*`"device": "cpu"`',
        ),
    ],
)
def test_a_deepspeed_setting_that_would_lose_states_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **changes}))
    with pytest.raises(UserError, match=told) as caught:
        parse_options(["--deepspeed", str(path), *OUTPUT])
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_settings_that_are_off_or_harmless_are_taken() -> None:
    zero = {"stage": 2, "elastic_checkpoint": False, "offload_optimizer": {"device": "cpu"}, "offload_param": None}
    check_deepspeed_config(
        {
            "checkpoint": {"load_universal": False, "writer": None, "tag_validation": "Warn"},
            "elasticity": {"enabled": False},
            "zero_optimization": zero,
        },
        "ds.json",
    )


@pytest.mark.parametrize("chosen", ["SHARDED_STATE_DICT", "sharded_state_dict", "LOCAL_STATE_DICT", "3"])
def test_sharded_states_of_fsdp_are_refused(chosen: str) -> None:
    """torch would unpickle the `.metadata` beside them."""
    words = ["--fsdp", "full_shard", "--fsdp_config", json.dumps({"fsdp_state_dict_type": chosen}), *OUTPUT]
    with pytest.raises(
        UserError, match=rf"--fsdp_config: the state_dict_type '?{chosen}'? makes .* say FULL_STATE_DICT"
    ):
        parse_options(words)


def test_torch_runs_what_the_list_of_sharded_states_says(tmp_path: Path) -> None:
    """The reason for the refusal: where this fails, torch has mended it, and the refusal can go."""
    (tmp_path / ".metadata").write_bytes(pickled(tmp_path / "marker"))
    with contextlib.suppress(AttributeError):  # for it is no list
        FileSystemReader(tmp_path).read_metadata()
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("config", [{}, {"state_dict_type": "full_state_dict"}, {"state_dict_type": "1"}])
def test_whole_states_of_fsdp_are_taken(config: dict[str, str]) -> None:
    """So far as to the check that follows."""
    with pytest.raises(UserError, match=r"--fsdp: .*one process"):
        parse_options(["--fsdp", "full_shard", "--fsdp_config", json.dumps(config), *OUTPUT])


def test_the_fsdp_of_accelerates_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"accelerate's configuration: .*'SHARDED_STATE_DICT'"):
        parse_options(OUTPUT)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    assert parse_options(OUTPUT).engine.output_dir == "runs/never"
