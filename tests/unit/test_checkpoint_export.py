"""Checkpoints for others: their own loaders take what `export` writes, to the bit."""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.commands import main
from nlp_adan.training.checkpoint.exporting import _save, export
from nlp_adan.training.checkpoint.fragments import Fragment, Layout, ParameterFacts, fragments_of
from nlp_adan.training.checkpoint.resharding import reshard
from tests.unit.checkpoint_folders import Small, make_checkpoint, train


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others use takes a tenth of a second and more for each sync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Types, dtypes and bits, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (item, twin) in enumerate(zip(one, other, strict=True)):
            assert_equal(item, twin, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    else:
        assert one == other, where


def shuffled_groups(model: Small) -> list[dict[str, Any]]:
    """Not in the order of the model's parameters."""
    return [{"params": [model.second.bias, model.first.weight, model.unused]}, {"params": [model.scale]}]


def test_official_file_to_ours_and_back(tmp_path: Path) -> None:
    """What the authors' code saves, through a checkpoint of two ranks and another of three under ZeRO-3, unchanged."""
    model = Small()
    groups = shuffled_groups(model)
    draw = torch.Generator().manual_seed(1)
    names = ("exp_avg", "exp_avg_sq", "exp_avg_diff", "neg_pre_grad")
    shapes = [param.shape for group in groups for param in group["params"]]
    common = {"eps": 1e-8, "max_grad_norm": 0.0, "foreach": True, "fused": False}
    theirs = {
        "state": {
            number: {name: torch.randn(shape, generator=draw) for name in names}
            for number, shape in enumerate(shapes)
            if number != 2  # it never had a gradient
        },
        "param_groups": [
            {"lr": 0.1 + 0.2, "betas": (0.98, 0.92, 0.99), "weight_decay": 0.02, "no_prox": False, "step": 7}
            | {**common, "params": [0, 1, 2]},
            {"lr": 1e-5, "betas": (0.9, 0.9, 0.999), "weight_decay": 0.0, "no_prox": True, "step": 5}
            | {**common, "params": [3]},
        ],
    }
    torch.save(theirs, tmp_path / "official.pt")
    optimizer = Adan(groups, lr=1.0)
    optimizer.load_state_dict(read(tmp_path / "official.pt"))
    checkpoint = make_checkpoint(tmp_path, 7, model, optimizer)
    reshard(checkpoint, tmp_path / "resharded", 3, 3)
    for source in (checkpoint, tmp_path / "resharded"):
        output = tmp_path / f"from-{source.name}"
        assert main(["export", str(source), "--output_dir", str(output)]) == 0
        assert_equal(read(output / "optimizer_official.pt"), theirs)
        names_in_order = json.loads((output / "optimizer.json").read_text())["groups"]
        assert [group["parameters"] for group in names_in_order] == [
            ["second.bias", "first.weight", "unused"],
            ["scale"],
        ]


@pytest.mark.parametrize("make", [Adan, torch.optim.AdamW, torch.optim.SGD], ids=lambda make: make.__name__)
def test_optimizer_pt_is_torchs_own(make: Any, tmp_path: Path) -> None:
    model = Small()
    more: dict[str, Any] = {"momentum": 0.9} if make is torch.optim.SGD else {"fused": False}
    optimizer = make(shuffled_groups(model), lr=1e-2, **more)
    train(model, optimizer, range(3))
    checkpoint = make_checkpoint(tmp_path, 3, model, optimizer, ranks=3)
    output = tmp_path / "exported"
    notes = export(checkpoint, output, "float32")
    assert_equal(read(output / "optimizer.pt"), optimizer.state_dict())
    assert (output / "optimizer_official.pt").exists() == (make is Adan)
    assert notes[1] == f"optimizer.pt: the state dict of {make.__name__}, 3 parameters with state"

    twin = Small()
    twin.load_state_dict(load_file(output / "model.safetensors"))
    loaded = make(shuffled_groups(twin), lr=1.0, **more)
    loaded.load_state_dict(read(output / "optimizer.pt"))
    train(model, optimizer, range(3, 6))
    train(twin, loaded, range(3, 6))
    assert_equal(dict(twin.state_dict()), dict(model.state_dict()))


def test_a_large_file_holds_each_element_once(tmp_path: Path) -> None:
    """Also where a tensor was read as a part of a larger one."""
    model = nn.Linear(300, 300)
    optimizer = Adan(model.parameters(), fused=False)
    model.weight.grad, model.bias.grad = torch.ones(300, 300), torch.ones(300)
    optimizer.step()
    checkpoint = make_checkpoint(tmp_path, 1, model, optimizer)
    export(checkpoint, tmp_path / "exported", "float32")
    state = 4 * 4 * (300 * 300 + 300)
    for name in ("optimizer.pt", "optimizer_official.pt"):
        assert state < (tmp_path / "exported" / name).stat().st_size < 1.05 * state


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_no_defect_of_torchs() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        _save({"weight": torch.ones(1_000_000)}, Path("/dev/full"))


def test_steps_that_the_official_format_cannot_tell_apart(tmp_path: Path) -> None:
    model = Small()
    optimizer = Adan(shuffled_groups(model), fused=False)
    train(model, optimizer, range(2))
    optimizer.state[model.first.weight]["step"] += 3
    notes = export(make_checkpoint(tmp_path, 2, model, optimizer), tmp_path / "exported", "float32")
    assert notes[-1] == (
        "optimizer_official.pt: group 0 counts 5 steps, for all of its parameters; here they count 2 to 5"
    )
    assert read(tmp_path / "exported" / "optimizer_official.pt")["param_groups"][0]["step"] == 5


def test_what_the_official_format_does_not_have(tmp_path: Path) -> None:
    model = Small()
    optimizer = Adan(shuffled_groups(model), maximize=True, fused=False)
    train(model, optimizer, range(2))
    notes = export(make_checkpoint(tmp_path, 2, model, optimizer), tmp_path / "exported", "float32")
    assert notes[-1].startswith("no optimizer_official.pt: Adan: maximize=True has no counterpart")
    assert not (tmp_path / "exported" / "optimizer_official.pt").exists()
    assert_equal(read(tmp_path / "exported" / "optimizer.pt"), optimizer.state_dict())


def with_masters(model: nn.Module) -> Layout:
    """One rank of an engine that keeps a bfloat16 model's parameters in float32, in one flat tensor."""
    params = dict(model.named_parameters())
    numels = [param.numel() for param in params.values()]
    owner = torch.cat([param.detach().float().reshape(-1) for param in params.values()])
    owner += 1e-4 * owner.abs() * torch.rand(owner.shape, generator=torch.Generator().manual_seed(2))
    fragments, offset = [], 0
    for name, numel in zip(params, numels, strict=True):
        fragments.append(Fragment(name, 0, numel, owner, offset))
        offset += numel
    for fragment, param in zip(fragments, params.values(), strict=True):
        param.data.copy_(fragment.of(owner).view(param.shape))
    facts = {name: ParameterFacts(tuple(param.shape), param.dtype) for name, param in params.items()}
    return Layout(Adan([owner], fused=False), fragments, [list(params)], facts, replicated=False, zero_stage=2)


def test_float32_masters_take_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Small(torch.bfloat16)
    model.register_buffer("count", torch.arange(3))
    layout = with_masters(model)
    layout.base.param_groups[0]["params"][0].grad = torch.ones(71)
    checkpoint = make_checkpoint(tmp_path, 1, model, [layout], ranks=1, stage=2)
    main(["export", str(checkpoint), "--output_dir", str(tmp_path / "exact")])
    assert "6 tensors of the model are now float32, with all the bits" in capsys.readouterr().out
    exported = load_file(tmp_path / "exact" / "model.safetensors")
    assert exported.keys() == model.state_dict().keys() and torch.equal(exported.pop("count"), torch.arange(3))
    for fragment in layout.fragments:
        exact = exported[fragment.name]
        assert exact.dtype == torch.float32 and torch.equal(exact.reshape(-1), fragment.of(fragment.owner))
        assert torch.equal(exact.bfloat16(), model.state_dict()[fragment.name])
    assert any(not torch.equal(exact, exact.bfloat16().float()) for exact in exported.values())
    config = json.loads((tmp_path / "exact" / "config.json").read_text())
    assert config == {"model_type": "tiny", "architectures": ["Tiny"], "dtype": "float32"}

    main(["export", str(checkpoint), "--output_dir", str(tmp_path / "rounded"), "--dtype", "as_trained"])
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "rounded" / name).read_bytes() == (checkpoint / name).read_bytes()
    assert {path.name for path in (tmp_path / "rounded").iterdir()} == {
        "config.json", "model.safetensors", "optimizer.json", "optimizer.pt", "optimizer_official.pt",
        "rng_state.pth", "scheduler.pt", "tokenizer.json", "trainer_state.json",
    }  # fmt: skip


def test_masters_of_another_model(tmp_path: Path) -> None:
    model = Small(torch.bfloat16)
    layout = with_masters(model)
    model.first.bias.data.add_(1)
    checkpoint = make_checkpoint(tmp_path, 1, model, [layout], ranks=1)
    with pytest.raises(UserError, match=r"float32 weights of first.bias are not those .*`--dtype as_trained` takes"):
        export(checkpoint, tmp_path / "exported", "float32")
    model.first.register_parameter("bias", None)
    checkpoint = make_checkpoint(tmp_path, 2, model, [layout], ranks=1)
    with pytest.raises(UserError, match=r"the model's files have no 'first.bias', of which the optimizer has the fl"):
        export(checkpoint, tmp_path / "exported", "float32")
    assert not (tmp_path / "exported").exists()
    export(checkpoint, tmp_path / "exported", "as_trained")


def test_bits_that_adan_keeps_of_a_bfloat16_model(tmp_path: Path) -> None:
    """The weights are those of a float32 model that had the same gradients."""
    model, twin = Small(torch.bfloat16), Small()
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    optimizers = [
        Adan(model.parameters(), lr=1e-2, fused=False, state_dtype="float32"),
        Adan(twin.parameters(), lr=1e-2, fused=False),
    ]
    for step in range(3):
        for param, other in zip(model.parameters(), twin.parameters(), strict=True):
            param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(step)).bfloat16()
            other.grad = param.grad.float()
        for optimizer in optimizers:
            optimizer.step()
    export(make_checkpoint(tmp_path, 3, model, optimizers[0]), tmp_path / "exported", "float32")
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert_equal(exported, dict(twin.state_dict()))
    assert any(not torch.equal(weight, model.state_dict()[name].float()) for name, weight in exported.items())


@pytest.fixture(scope="module")
def tiny_bert() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    yield transformers, transformers.BertForMaskedLM(config)


def saved_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_from_pretrained_takes_it(tiny_bert: Any, tmp_path: Path) -> None:
    """A bfloat16 model in several files, with a tied weight."""
    transformers, model = tiny_bert
    model = copy.deepcopy(model).bfloat16()
    layout = with_masters(model)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(tmp_path / "saved", max_shard_size="8KB")
    assert (tmp_path / "saved" / "model.safetensors.index.json").exists()
    checkpoint = make_checkpoint(
        tmp_path, 1, model, [layout], ranks=1, more=saved_files(tmp_path / "saved"), weights=False
    )
    export(checkpoint, tmp_path / "exported", "float32")
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "exported")
    weights = dict(loaded.named_parameters())
    assert weights.keys() == dict(model.named_parameters()).keys()
    for fragment in layout.fragments:
        weight = weights[fragment.name]
        assert weight.dtype == torch.float32 and torch.equal(weight.reshape(-1), fragment.of(fragment.owner))
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * sum(weight.numel() for weight in weights.values())


def test_a_plain_trainer_goes_on(tiny_bert: Any, tmp_path: Path) -> None:
    """With Hugging Face's own Trainer, as if its run had never been ours."""
    transformers, model = tiny_bert
    draw = torch.Generator().manual_seed(3)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 50, (16, 8), generator=draw)]

    def trainer(name: str, steps: int) -> tuple[Any, Any, Any]:
        mine = copy.deepcopy(model)
        optimizer = Adan(mine.parameters(), lr=1e-3, fused=False)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        arguments = transformers.TrainingArguments(
            str(tmp_path / name), max_steps=steps, per_device_train_batch_size=2, use_cpu=True, save_strategy="no",
            report_to=[], disable_tqdm=True,
        )  # fmt: skip
        made = transformers.Trainer(mine, arguments, train_dataset=rows, optimizers=(optimizer, schedule))
        return made, mine, optimizer

    whole, expected, _ = trainer("whole", 6)
    whole.train()

    begun, half, optimizer = trainer("begun", 3)
    begun.train()
    half.save_pretrained(tmp_path / "saved")
    begun.state.save_to_json(str(tmp_path / "saved" / "trainer_state.json"))
    begun._save_rng_state(str(tmp_path / "saved"))
    buffer = io.BytesIO()
    torch.save(begun.lr_scheduler.state_dict(), buffer)
    more = {**saved_files(tmp_path / "saved"), "scheduler.pt": buffer.getvalue()}
    layout = fragments_of(half, optimizer)
    checkpoint = make_checkpoint(tmp_path, 3, half, [layout], ranks=1, more=more, weights=False)
    export(checkpoint, tmp_path / "exported", "float32")

    resumed, found, _ = trainer("resumed", 6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "exported"))
    assert resumed.state.global_step == 6
    assert_equal(dict(found.state_dict()), dict(expected.state_dict()))


def test_weights_that_are_float32_already(tmp_path: Path) -> None:
    model = Small()
    optimizer = Adan(model.parameters(), fused=False)
    train(model, optimizer, range(1))
    checkpoint = make_checkpoint(tmp_path, 1, model, optimizer)
    notes = export(checkpoint, tmp_path / "exported", "float32")
    assert notes[0] == "the weights are float32 as trained"
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "exported" / name).read_bytes() == (checkpoint / name).read_bytes()
