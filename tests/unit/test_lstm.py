"""The LSTM language model: torch's own LSTM without dropout, a memory that is one long text, parameters, folders."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from nlp_adan.errors import UserError
from transformer_xl import AWDLSTMConfig, AWDLSTMForCausalLM, LanguageModelOutput
from transformer_xl.lstm_configuration import DROPOUTS, check_config

SIZES: dict[str, Any] = {"vocab_size": 23, "embedding_size": 5, "hidden_size": 7, "num_layers": 3}
PURE: dict[str, Any] = {**dict.fromkeys(DROPOUTS, 0.0), "alpha": 0.0, "beta": 0.0}
BATCH, LENGTH = 4, 6


def model(**options: Any) -> Any:
    """A tiny one in training mode, without dropout and regularisation but for `options`; its words differ a lot."""
    torch.manual_seed(0)
    ours = AWDLSTMForCausalLM(AWDLSTMConfig(**{**SIZES, **PURE, **options})).train()
    with torch.no_grad():
        ours.embedding.weight.mul_(10)
    return ours


def batch(length: int = LENGTH) -> dict[str, Tensor]:
    """Columns of a stream; labels are the next tokens."""
    stream = torch.randint(SIZES["vocab_size"], (BATCH, length + 1), generator=torch.Generator().manual_seed(1))
    return {"input_ids": stream[:, :-1], "labels": stream[:, 1:]}


def gradients(ours: nn.Module) -> dict[str, Tensor]:
    """Of every parameter, by its name."""
    found = {name: param.grad.clone() for name, param in ours.named_parameters() if param.grad is not None}
    assert len(found) == len(list(ours.parameters()))
    return found


@pytest.mark.parametrize(("num_layers", "num_parameters"), [(1, 5_293_200), (2, 13_632_400), (3, 24_221_600)])
def test_parameters_of_the_papers_models(num_layers: int, num_parameters: int) -> None:
    with torch.device("meta"):
        paper = AWDLSTMForCausalLM(AWDLSTMConfig(num_layers=num_layers))
    assert paper.num_parameters() == num_parameters
    assert paper.head.weight is paper.embedding.weight


def test_output() -> None:
    ours, inputs = model(), batch()
    output = ours(**inputs)
    assert type(output) is LanguageModelOutput and output.logits is None
    assert output.losses is not None and output.mems is not None
    assert output.losses.shape == (BATCH, LENGTH) and output.losses.dtype == torch.float32
    torch.testing.assert_close(output.loss, output.losses.mean())
    assert [tuple(level.shape) for level in output.mems] == [(BATCH, width) for width in (7, 7, 7, 7, 5, 5)]
    assert not any(level.requires_grad for level in output.mems)
    logits = ours(inputs["input_ids"]).logits
    assert logits.shape == (BATCH, LENGTH, SIZES["vocab_size"]) and logits.dtype == torch.float32
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(BATCH, LENGTH))
    losses = -logits.gather(2, inputs["labels"][..., None])[..., 0]
    torch.testing.assert_close(losses, output.losses)
    both = ours(**inputs, output_logits=True)
    assert torch.equal(both.logits, logits) and torch.equal(both.losses, output.losses)
    assert ours(inputs["input_ids"], output_logits=False).logits is None
    assert torch.equal(ours(**inputs, return_dict=False)[1], output.losses)


def test_an_argument_that_it_does_not_have() -> None:
    with pytest.raises(TypeError, match="lables"):
        model()(batch()["input_ids"], lables=batch()["labels"])


def test_labels_that_are_ignored() -> None:
    ours, inputs = model(), batch()
    whole = ours(**inputs).losses
    labels = inputs["labels"].clone()
    labels[:, ::2] = -100
    output = ours(inputs["input_ids"], labels=labels)
    assert not output.losses[:, ::2].any() and torch.equal(output.losses[:, 1::2], whole[:, 1::2])
    torch.testing.assert_close(output.loss, whole[:, 1::2].mean())
    torch.testing.assert_close(ours(inputs["input_ids"], labels=labels, num_items_in_batch=48).loss, output.loss / 4)
    assert ours(inputs["input_ids"], labels=torch.full_like(labels, -100)).loss == 0


def test_torchs_lstm_has_the_same_losses_and_gradients() -> None:
    ours, inputs = model(), batch()
    widths = ours.config.layer_widths
    layers = [nn.LSTM(before, after) for before, after in itertools.pairwise(widths)]
    for layer, twin in zip(ours.layers, layers, strict=True):
        assert [tensor.shape for tensor in layer.parameters()] == [tensor.shape for tensor in twin.parameters()]
        twin.load_state_dict({f"{name}_l0": tensor for name, tensor in layer.state_dict().items()})
    table = ours.embedding.weight.detach().clone().requires_grad_()
    hidden = table[inputs["input_ids"].t()]
    for twin in layers:
        hidden = twin(hidden)[0]
    logits = hidden @ table.t() + ours.head.bias
    loss = functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].t().flatten())
    output = ours(**inputs)
    torch.testing.assert_close(output.loss, loss, rtol=1e-6, atol=0)
    loss.backward()
    theirs = {"embedding.weight": table.grad, "head.bias": ours.head.bias.grad.clone()}
    for number, twin in enumerate(layers):
        theirs |= {f"layers.{number}.{name[:-3]}": tensor.grad for name, tensor in twin.named_parameters()}
    ours.zero_grad()
    output.loss.backward()
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(
            gradient, theirs[name], rtol=1e-5, atol=1e-7, msg=lambda text, name=name: name + text
        )


def test_gradients_by_differences() -> None:
    """With the regularisation, and a memory before."""
    ours = model(vocab_size=6, embedding_size=2, hidden_size=3, num_layers=2, alpha=2.0, beta=1.0).double()
    ids = torch.tensor([[0, 5, 2], [3, 3, 1]])
    labels = torch.tensor([[5, 2, -100], [3, 1, 4]])
    mems = ours(labels.clamp(min=0)).mems
    names, params = zip(*ours.named_parameters(), strict=True)

    def loss(*given: Tensor) -> Tensor:
        tied = dict(zip(names, given, strict=True))
        tied["head.weight"] = tied["embedding.weight"]
        output: LanguageModelOutput = torch.func.functional_call(ours, tied, (ids,), {"labels": labels, "mems": mems})
        assert output.loss is not None
        return output.loss

    assert torch.autograd.gradcheck(loss, tuple(param.detach().requires_grad_() for param in params))


@pytest.mark.parametrize("training", [True, False])
def test_memory_of_segments_is_one_long_text(training: bool) -> None:
    ours, inputs = model().train(training), batch(12)
    whole = ours(**inputs)
    mems: Any = None
    losses = []
    for begin, end in ((0, 5), (5, 6), (6, 12)):
        output = ours(**{name: tensor[:, begin:end] for name, tensor in inputs.items()}, mems=mems)
        mems = output.mems
        losses.append(output.losses)
    torch.testing.assert_close(torch.cat(losses, dim=1), whole.losses, rtol=1e-5, atol=1e-6)
    for level, expected in zip(mems, whole.mems, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours(**inputs, mems=()).losses, whole.losses)
    forgetful = ours(**{name: tensor[:, 6:] for name, tensor in inputs.items()}).losses
    assert (forgetful - whole.losses[:, 6:]).abs().max() > 1e-3


def test_any_split_has_the_whole_batches_gradient() -> None:
    """Micro-batches of unequal size, regularised: their gradients' sum is that of the whole."""
    ours, inputs = model(alpha=2.0, beta=1.0), batch()
    ours(**inputs).loss.backward()
    whole = gradients(ours)
    ours.zero_grad()
    losses = []
    for part in (slice(0, 1), slice(1, 4)):
        micro = {name: tensor[part] for name, tensor in inputs.items()}
        losses.append(ours(**micro, num_items_in_batch=torch.tensor(BATCH * LENGTH)).loss)
        losses[-1].backward()
    torch.testing.assert_close(sum(losses), ours(**inputs).loss)
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-5, atol=1e-7)


def test_folder_and_auto_classes(tmp_path: Path) -> None:
    ours, inputs = model(), batch()
    with torch.no_grad():
        ours.head.bias.uniform_()
    ours.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert read.to_diff_dict() == ours.config.to_diff_dict() and read.hidden_size == 7 and read.alpha == 0
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, weight_dropout=0.3, output_loading_info=True)
    assert not any(info.values()) and not again.training
    assert again.layers[0].weight_dropout == 0.3 and again.head.weight is again.embedding.weight
    assert torch.equal(again(**inputs).losses, ours(**inputs).losses)
    with pytest.raises(UserError, match=r"num_layers: 0 is out of range"):
        AutoModelForCausalLM.from_pretrained(tmp_path, num_layers=0)


def test_a_table_of_its_own_for_the_softmax(tmp_path: Path) -> None:
    """Then the last layer is as wide as the others."""
    ours, inputs = model(tie_word_embeddings=False), batch()
    assert ours.head.weight is not ours.embedding.weight and ours.head.weight.shape == (23, 7)
    ours.save_pretrained(tmp_path)
    again = AWDLSTMForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).losses, ours(**inputs).losses)


def test_fresh_weights() -> None:
    """awd-lstm-lm's: tables uniform in +-0.1, bias 0, layers as torch's."""
    ours = AWDLSTMForCausalLM(AWDLSTMConfig(hidden_size=50, embedding_size=40, vocab_size=100))
    bounds = {name: 1 / 50**0.5 for name, _ in ours.layers.named_parameters()}
    bounds |= {name: 1 / 40**0.5 for name in bounds if name.startswith("2.")}
    bounds = {f"layers.{name}": bound for name, bound in bounds.items()} | {"embedding.weight": 0.1}
    for name, param in ours.named_parameters():
        if name == "head.bias":
            assert not param.any()
        else:
            assert (
                0.9 * bounds[name] < param.max() <= bounds[name] and -bounds[name] <= param.min() < -0.9 * bounds[name]
            )


def test_half_precision_and_copies() -> None:
    ours, inputs = model(), batch()
    exact = ours(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        first = ours(**inputs)
        second = ours(**inputs, mems=first.mems)
    assert first.losses.dtype == first.loss.dtype == torch.float32
    second.loss.backward()
    assert all(gradient.dtype == torch.float32 for gradient in gradients(ours).values())
    torch.testing.assert_close(first.losses, exact.losses, rtol=0.02, atol=0)
    twin = copy.deepcopy(ours).bfloat16()
    assert twin.head.weight is twin.embedding.weight
    torch.testing.assert_close(twin(**inputs, mems=exact.mems).losses, second.losses, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 0), ("embedding_size", 0), ("hidden_size", -1), ("num_layers", 0), ("embedding_dropout", 1.0),
        ("input_dropout", -0.1), ("hidden_dropout", 2), ("output_dropout", 1), ("weight_dropout", float("nan")),
        ("alpha", -1.0), ("beta", float("inf")),
    ],
)  # fmt: skip
def test_mistakes(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^--{name}: {value:g} is out of range; give"):
        check_config(AWDLSTMConfig(**{name: value}), "--")
