"""The Transformer-XL as a model of transformers': output, memory, initialisation, folders, and the ways to run it."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from transformer_xl import LanguageModelOutput, TransformerXLConfig, TransformerXLForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 60, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "cutoffs": [20, 35],
    "tgt_len": 6, "mem_len": 8, "dropout": 0.0, "init_std": 0.3, "proj_init_std": 0.3,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "clusters": {},
    "plain": {"cutoffs": []},
    "narrow": {"d_embed": 8},
    "div_val 2, pre-norm": {"div_val": 2, "pre_lnorm": True},
    "not tied": {"tie_weight": False, "div_val": 2, "tie_projs": []},
}


def model(**options: Any) -> TransformerXLForCausalLM:
    """A tiny one, ready to train."""
    torch.manual_seed(0)
    return TransformerXLForCausalLM(TransformerXLConfig(**{**SIZES, **options})).train()


def batch(length: int = 6) -> dict[str, Tensor]:
    """Three columns of a stream."""
    stream = torch.randint(60, (3, length + 1), generator=torch.Generator().manual_seed(1))
    return {"input_ids": stream[:, :-1].contiguous(), "labels": stream[:, 1:].contiguous()}


def test_parameters_of_the_papers_model() -> None:
    """WikiText-103 base: 151,107,538, of which 41,066,400 in the layers; its memory alone is the default's."""
    with torch.device("meta"):
        paper = TransformerXLForCausalLM(TransformerXLConfig())
    assert paper.num_parameters() == 151_107_538
    assert sum(parameter.numel() for parameter in paper.layers.parameters()) == 41_066_400
    assert not [name for name, _ in paper.named_parameters() if "proj" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_output(kind: str) -> None:
    ours = model(**KINDS[kind])
    inputs = batch()
    returned = ours(**inputs)
    assert isinstance(returned, LanguageModelOutput) and returned.logits is None
    output: Any = returned
    assert output.losses.shape == (3, 6) and output.losses.dtype == torch.float32
    assert [tuple(level.shape) for level in output.mems] == [(3, 6, 16)] * 2
    torch.testing.assert_close(output.loss, output.losses.mean())
    quarter = ours(**inputs, num_items_in_batch=torch.tensor(4 * 18)).loss
    torch.testing.assert_close(quarter, output.loss / 4)
    both = ours(**inputs, output_logits=True)
    torch.testing.assert_close(both.logits.exp().sum(-1), torch.ones(3, 6))
    torch.testing.assert_close(both.losses, -both.logits.gather(-1, inputs["labels"][..., None])[..., 0])
    torch.testing.assert_close(both.losses, output.losses)
    alone = ours(inputs["input_ids"])
    assert alone.loss is None and alone.losses is None
    torch.testing.assert_close(alone.logits, both.logits)
    assert ours(inputs["input_ids"], output_logits=False).logits is None
    loss, losses, mems = ours(**inputs, return_dict=False)
    assert torch.equal(loss, output.loss) and torch.equal(losses, output.losses) and len(mems) == 2


def test_ignored_labels_have_no_loss() -> None:
    ours, inputs = model(), batch()
    whole = ours(**inputs).losses
    inputs["labels"][0, 2] = inputs["labels"][2, 5] = -100
    output = ours(**inputs)
    assert output.losses[0, 2] == output.losses[2, 5] == 0
    torch.testing.assert_close(output.losses, whole * (inputs["labels"] != -100))
    torch.testing.assert_close(output.loss, output.losses.sum() / 16)
    inputs["labels"].fill_(-100)
    loss = ours(**inputs).loss
    loss.backward()
    assert loss == 0 and all(not parameter.grad.any() for parameter in ours.parameters())


def test_memory_is_the_inputs_of_the_layers() -> None:
    """Detached; its rows are the last `mem_len`, and a segment that is longer leaves only its own."""
    ours = model()
    seen: list[Tensor] = []
    for layer in ours.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    first, second = batch(6), batch(5)
    mems = ours(**first).mems
    output = ours(mems=mems, **second)
    assert torch.equal(seen[0], ours.embedding(first["input_ids"]))
    for level in range(2):
        assert torch.equal(output.mems[level], torch.cat([seen[level], seen[2 + level]], dim=1)[:, -8:])
        assert not output.mems[level].requires_grad and output.mems[level].is_contiguous()
    long = ours(**batch(12)).mems
    assert torch.equal(long[0], seen[4][:, -8:])
    assert long[0].untyped_storage().nbytes() == long[0].nbytes, "the memory keeps the whole segment alive"


def test_memory_reaches_back_as_far_as_it_is_long() -> None:
    ours = model(mem_len=6).eval()
    stream = torch.randint(60, (1, 24), generator=torch.Generator().manual_seed(2))

    def last_losses(tokens: Tensor) -> Tensor:
        mems = None
        for start in range(0, 24, 6):
            segment = tokens[:, start : start + 6]
            output = ours(segment, mems, segment)
            mems = output.mems
        return output.losses

    expected = last_losses(stream)
    for position in range(18):
        changed = stream.clone()
        changed[0, position] = (changed[0, position] + 1) % 60
        # Two layers: two segments back.
        assert torch.equal(last_losses(changed), expected) == (position < 6), position


def test_no_memory() -> None:
    ours = model(mem_len=0)
    output = ours(**batch())
    assert output.mems == ()
    assert torch.equal(ours(**batch(), mems=output.mems).losses, output.losses)


def test_dropout_falls_on_embedding_positions_and_attention() -> None:
    for options in ({"dropout": 0.5}, {"dropatt": 0.5}):
        ours = model(**options)
        losses = [ours(**batch()).losses for _ in range(2)]
        assert not torch.equal(*losses)
        ours.eval()
        assert torch.equal(ours(**batch()).losses, model().eval()(**batch()).losses)
    ours = model(dropout=0.5)
    memory = ours(**batch()).mems[0]
    assert 0.3 < float((memory == 0).float().mean()) < 0.7  # level 0: the dropped embedding
    kept = memory != 0
    torch.testing.assert_close(memory[kept], 2 * ours.embedding(batch()["input_ids"])[kept])


def test_initialisation() -> None:
    ours = model(
        vocab_size=2000,
        cutoffs=[500],
        d_model=64,
        d_inner=100,
        d_embed=32,
        init_std=0.05,
        proj_init_std=0.01,
        tie_projs=[],
    )
    parameters = {name: parameter.detach() for name, parameter in ours.named_parameters()}
    deviations = {name: float(parameter.std(correction=0)) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        if name.endswith("layer_norm.weight"):
            assert abs(float(parameter.mean()) - 1) < 0.03 and 0.03 < deviations[name] < 0.07
        elif "bias" in name and not name.startswith("r_"):
            assert not parameter.any(), name
        elif "proj_" in name:
            assert abs(deviations[name] - 0.01) < 0.001, name
        else:
            assert abs(deviations[name] - 0.05) < 0.015 and abs(float(parameter.mean())) < 0.03, name
    assert {name for name in deviations if "proj_" in name} == {
        "embedding.proj_0", "softmax.proj_0", "softmax.proj_1"
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_folder(kind: str, tmp_path: Path) -> None:
    """The same model, tied as it was, whatever made the first weights; memory options may be set anew."""
    ours = model(**KINDS[kind]).eval()
    ours.save_pretrained(tmp_path)
    found, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert type(found) is TransformerXLForCausalLM and found.num_parameters() == ours.num_parameters()
    assert torch.equal(found(**batch()).losses, ours(**batch()).losses)
    names = [{id(p): name for name, p in made.named_parameters()} for made in (ours, found)]
    assert list(names[0].values()) == list(names[1].values())
    assert ("softmax.weight_0" in names[1].values()) == (kind == "not tied")
    other = AutoModelForCausalLM.from_pretrained(tmp_path, mem_len=3, clamp_len=2, same_length=True)
    assert (other.config.mem_len, other.config.clamp_len, other.config.same_length) == (3, 2, True)
    expected = model(**KINDS[kind], mem_len=3, clamp_len=2, same_length=True).eval()
    expected.load_state_dict(ours.state_dict())
    assert torch.equal(other(**batch()).losses, expected(**batch()).losses)
    assert not torch.equal(other(**batch()).losses, ours(**batch()).losses)
    assert AutoConfig.from_pretrained(tmp_path).architectures == ["TransformerXLForCausalLM"]


@pytest.mark.parametrize("kind", ["clusters", "narrow", "div_val 2, pre-norm"])
def test_copies_stay_tied(kind: str) -> None:
    """By torch.save and by deepcopy."""
    ours = model(**KINDS[kind]).eval()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for twin in (torch.load(file, weights_only=False), copy.deepcopy(ours)):
        assert torch.equal(twin(**batch()).losses, ours(**batch()).losses)
        assert twin.softmax.weight_0 is twin.embedding.weight_0 is not ours.embedding.weight_0
        assert twin.num_parameters() == ours.num_parameters()


@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_gradient_checkpointing_changes_nothing(pre_lnorm: bool) -> None:
    ours = model(pre_lnorm=pre_lnorm)
    mems = ours(**batch()).mems
    ours(**batch(), mems=mems).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    ours.activation_checkpointing_enable()
    assert ours.is_activation_checkpointing
    entered = []
    ours.layers[1].feed_forward.inner.register_forward_hook(lambda *_: entered.append(1))
    ours(**batch(), mems=mems).loss.backward()
    assert len(entered) == 2, "the layer is not computed again"
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["clusters", "plain", "div_val 2, pre-norm"])
def test_autocast_in_bfloat16(kind: str) -> None:
    """Losses, memory and gradients in float32 (measured: losses off by 2 % of the largest)."""
    ours = model(**KINDS[kind])
    first = ours(**batch())
    expected = ours(**batch(), mems=first.mems)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mems = ours(**batch()).mems
        output = ours(**batch(), mems=mems)
        logits = ours(batch()["input_ids"], mems).logits
    assert output.losses.dtype == output.loss.dtype == logits.dtype == mems[1].dtype == torch.float32
    assert not torch.equal(output.losses, expected.losses)
    torch.testing.assert_close(output.losses, expected.losses, rtol=0, atol=0.05 * expected.losses.max().item())
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 6), rtol=0, atol=1e-5)
    output.loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in ours.parameters())


def test_a_model_in_bfloat16() -> None:
    """As DeepSpeed's bf16 has it: everything but the losses."""
    ours, whole = model(div_val=2).bfloat16(), model(div_val=2)
    mems = ours(**batch()).mems
    output = ours(**batch(), mems=mems)
    expected = whole(**batch(), mems=whole(**batch()).mems).losses.detach()
    assert output.losses.dtype == torch.float32 and mems[0].dtype == torch.bfloat16
    torch.testing.assert_close(output.losses, expected, rtol=0, atol=0.05 * expected.max().item())
    output.loss.backward()


@pytest.mark.parametrize("kind", ["plain", "clusters", "div_val 2, pre-norm"])
def test_compiled(kind: str) -> None:
    """Same losses and gradients. A plain softmax makes one graph; clusters, whose sizes change, are run outside."""
    torch._dynamo.reset()
    ours = model(**KINDS[kind])
    mems = ours(**batch()).mems
    expected = ours(**batch(), mems=mems)
    expected.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled: nn.Module = torch.compile(ours, backend=count, fullgraph=kind == "plain")
    output = compiled(**batch(), mems=mems)
    output.loss.backward()
    torch.testing.assert_close(output.losses, expected.losses)
    torch.testing.assert_close(output.mems[1], expected.mems[1])
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-8)
    num_graphs = len(graphs)
    assert num_graphs <= 5
    flipped = {name: tensor.flip(0, 1) for name, tensor in batch().items()}
    torch.testing.assert_close(compiled(**flipped, mems=mems).losses, ours(**flipped, mems=mems).losses)
    assert len(graphs) == num_graphs, "compiled again"


def test_tokens_outside_the_vocabulary_are_errors() -> None:
    for kind in ("plain", "div_val 2, pre-norm"):
        ours = model(**KINDS[kind])
        for token in (-1, 60):
            with pytest.raises(IndexError):
                ours(torch.tensor([[1, token]]))
            with pytest.raises(RuntimeError, match="out of bounds"):
                ours(torch.tensor([[1, 2]]), labels=torch.tensor([[1, token]]))
