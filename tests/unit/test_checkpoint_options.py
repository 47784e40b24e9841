"""Options that would lose optimizer states, or let a checkpoint run code, are refused while they are read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from transformers import TrainingArguments
from transformers.integrations import deepspeed as hf_deepspeed
from transformers.training_args import ParallelMode

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
def test_whole_states_of_fsdp_are_taken(config: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """So far as to the checks that follow."""
    words = ["--fsdp", "full_shard", "--fsdp_config", json.dumps(config), *OUTPUT]
    with pytest.raises(UserError, match=r"--fsdp: .*on a CPU.*`--deepspeed"):
        parse_options(words)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cuda"))
    monkeypatch.setattr(TrainingArguments, "parallel_mode", ParallelMode.NOT_PARALLEL)
    with pytest.raises(UserError, match=r"--fsdp: .*one process.*`torchrun"):
        parse_options(words)


def test_fsdp_on_cpu_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate would train the whole model on each, without a word."""
    monkeypatch.setattr(TrainingArguments, "parallel_mode", ParallelMode.DISTRIBUTED)
    with pytest.raises(UserError, match=r"--fsdp: .*each rank would train the whole model on a CPU; .*zero2.json`"):
        parse_options(["--fsdp", "full_shard", *OUTPUT])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fsdp_config", '{"version": 2}'], "--fsdp_config: it is about `--fsdp`, which is not given"),
        (["--fsdp", "--deepspeed", "ds_configs/zero2.json"], "--fsdp: beside `--deepspeed`.*choose one"),
    ],
)
def test_fsdp_where_it_would_not_act(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_options([*words, *OUTPUT])


def test_the_fsdp_of_accelerates_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"accelerate's configuration: .*'SHARDED_STATE_DICT'"):
        parse_options(OUTPUT)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    with pytest.raises(UserError, match=r"accelerate's configuration: FSDP: .*on a CPU"):
        parse_options(OUTPUT)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cuda"))
    monkeypatch.setattr(TrainingArguments, "parallel_mode", ParallelMode.DISTRIBUTED)
    assert parse_options(OUTPUT).engine.output_dir == "runs/never"
