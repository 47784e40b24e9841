"""What regularises the LSTM: each dropout where it belongs, recurrent weights that train, penalties on activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nlp_adan import Adan
from transformer_xl.lstm import VariationalDropout, WeightDropLSTM, WordEmbedding
from transformer_xl.lstm_configuration import DROPOUTS

from .test_lstm import batch, gradients, model


def recorded(ours: Any, **options: Any) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
    """A forward pass; and what went into and came out of each of its modules."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            # `hidden_dropout` comes once between any two layers: the first time counts.
            found.setdefault(name, (inputs[0], output[0] if isinstance(output, tuple) else output))

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in ours.named_modules() if name]
    output = ours(**batch(), **options)
    for hook in hooks:
        hook.remove()
    return output, found


@pytest.mark.parametrize("name", DROPOUTS)
def test_each_dropout_is_applied_in_training_only(name: str) -> None:
    ours = model(**{name: 0.5})
    ours.eval()
    without = model()(**batch()).losses
    assert torch.equal(ours(**batch()).losses, without) and torch.equal(ours(**batch()).losses, without)
    ours.train()
    first, second = ours(**batch()).losses, ours(**batch()).losses
    assert (first - without).abs().max() > 1e-3 and (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["input_dropout", "hidden_dropout", "output_dropout"])
def test_variational_masks_are_one_for_all_positions(name: str) -> None:
    """But not for all sequences or numbers; what is kept is scaled."""
    before, after = recorded(model(**{name: 0.25}))[1][name]
    mask = (after / before).detach()
    assert torch.equal(mask == 0, (mask == 0)[:1].expand_as(mask))
    torch.testing.assert_close(mask, torch.where(mask == 0, 0.0, 1 / 0.75))
    assert 0 < (mask[0] == 0).float().mean() < 1 and len(torch.unique(mask[0], dim=0)) > 1
    share = (VariationalDropout(0.25)(torch.ones(2, 200, 50)) == 0).float().mean()
    assert float(share) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_hidden_dropout_comes_between_layers(num_layers: int) -> None:
    ours = model(num_layers=num_layers, hidden_dropout=0.5)
    dropped: list[Tensor] = []
    ours.hidden_dropout.register_forward_hook(lambda module, inputs, output: dropped.append(output))
    entered: list[Tensor] = []
    for layer in ours.layers:
        layer.register_forward_hook(lambda module, inputs, output: entered.append(inputs[0]))
    ours(**batch())
    assert len(dropped) == num_layers - 1 and all(one is other for one, other in zip(dropped, entered[1:], strict=True))


def test_embedding_dropout_drops_words() -> None:
    torch.manual_seed(0)
    embedding = WordEmbedding(400, 3, 0.3)
    nn.init.ones_(embedding.weight)
    ids = torch.arange(2000)[torch.randperm(2000)].view(50, 40) % 400
    mask = embedding(ids).detach()
    of_words = torch.empty(400)
    of_words[ids.flatten()] = mask[..., 0].flatten()
    assert torch.equal(mask, of_words[ids][..., None].expand_as(mask))  # wherever a word stands
    torch.testing.assert_close(of_words, torch.where(of_words == 0, 0.0, 1 / 0.7))
    assert float((of_words == 0).float().mean()) == pytest.approx(0.3, abs=0.07)
    embedding(ids).sum().backward()
    assert embedding.weight.grad is not None and embedding.weight.grad.any()
    assert torch.equal(embedding.eval()(ids), embedding.weight[ids])


def test_recurrent_weights_are_dropped_once_a_pass_and_get_the_gradient() -> None:
    torch.manual_seed(0)
    layer = WeightDropLSTM(3, 20, 0.4)
    for param in layer.parameters():
        nn.init.uniform_(param, -0.5, 0.5)
    inputs, zeros = torch.randn(9, 2, 3), torch.zeros(2, 20)
    torch.manual_seed(1)
    outputs, h, c = layer(inputs, (zeros, zeros))
    outputs.sum().backward()
    gradient = layer.weight_hh.grad
    assert gradient is not None
    # A gradient of 0 tells which weights were dropped: in all nine steps, or it would be another number.
    dropped = gradient == 0
    assert 0.3 < float(dropped.float().mean()) < 0.5
    twin = nn.LSTM(3, 20)
    kept = layer.weight_hh.detach().masked_fill(dropped, 0.0) / 0.6
    twin.load_state_dict({f"{name}_l0": tensor for name, tensor in layer.state_dict().items()} | {"weight_hh_l0": kept})
    expected, (expected_h, expected_c) = twin(inputs)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close((h, c), (expected_h[0], expected_c[0]))
    expected.sum().backward()
    torch.testing.assert_close(gradient, (twin.weight_hh_l0.grad / 0.6).masked_fill(dropped, 0.0))


def test_every_parameter_trains() -> None:
    """The recurrent weights among them, in whose place a dropped copy would train nothing; and again after a step."""
    ours = model(**dict.fromkeys(DROPOUTS, 0.3), alpha=2.0, beta=1.0)
    optimizer = Adan(ours.parameters(), lr=1e-2)
    before = {name: param.detach().clone() for name, param in ours.named_parameters()}
    assert sum("weight_hh" in name for name in before) == 3
    for _ in range(2):
        ours(**batch()).loss.backward()
        assert all(gradient.any() for gradient in gradients(ours).values())
        optimizer.step()
        optimizer.zero_grad()
    for name, param in ours.named_parameters():
        changed = (param != before[name]).float().mean()
        assert changed > (0.5 if name != "embedding.weight" else 0.3), name
    assert "layers.0.weight_hh" in ours.state_dict()


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (0.0, 1.0), (3.0, 0.5)])
def test_activation_regularisation(alpha: float, beta: float) -> None:
    """Of the last layer: alpha on what the dropout leaves, beta on differences of what it gets; only in training."""
    ours = model(alpha=alpha, beta=beta, output_dropout=0.5)
    output, found = recorded(ours)
    raw, dropped = found["output_dropout"]
    penalty = alpha * dropped.pow(2).mean() + beta * (raw[1:] - raw[:-1]).pow(2).mean()
    assert penalty > 1e-5 and raw.shape[-1] == 5
    torch.testing.assert_close(output.loss - output.losses.mean(), penalty, rtol=1e-3, atol=1e-7)
    # A quarter of the step's tokens has a quarter of its penalty.
    output, found = recorded(ours, num_items_in_batch=4 * 24)
    raw, dropped = found["output_dropout"]
    penalty = alpha * dropped.pow(2).mean() + beta * (raw[1:] - raw[:-1]).pow(2).mean()
    torch.testing.assert_close(4 * output.loss - output.losses.mean(), penalty, rtol=1e-3, atol=1e-7)
    one_position = {name: tensor[:, :1] for name, tensor in batch().items()}
    assert torch.isfinite(ours(**one_position).loss)  # which has no difference
    output = ours.eval()(**batch())
    torch.testing.assert_close(output.loss, output.losses.mean())
