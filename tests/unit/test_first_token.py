"""Classifiers whose last layer computes the first position only: the same results, gradients and files as without."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

import nlp_adan.modeling.queries
from nlp_adan.modeling.first_token import compute_first_only
from nlp_adan.modeling.sparse_layers import SparseLayer

KNOWN = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")
SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
LENGTH = 12
WIDTHS = (12, 11, 9)  # tokens of the three sequences; no padding is out of their reach, or it would be no number
# Of float64; measured: 3e-15 of the largest gradient.
BOUND = 1e-12


def config(model_type: str, dropout: float = 0.0, **options: Any) -> Any:
    """A tiny model of which a layer's attention reaches 3 tokens to either side where it is ModernBERT's last."""
    families: dict[str, dict[str, Any]] = {"modernbert": {**IDS, "local_attention": 6, "classifier_pooling": "cls"}}
    sizes = {**SIZES, "initializer_range": 0.3, "num_labels": 3, "problem_type": "single_label_classification"}
    if model_type != "xlnet":
        sizes["max_position_embeddings"] = 32
    found = AutoConfig.for_model(model_type, **{**sizes, **families.get(model_type, {}), **options})
    for name in list(vars(found)):
        if "dropout" in name and name != "classifier_dropout" and isinstance(getattr(found, name), float):
            setattr(found, name, dropout)
    return found


def classifier(model_type: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_config(config(model_type, **options)).double()


def pair(model_type: str, **options: Any) -> tuple[Any, Any]:
    """The same model with its last layer on the first positions, and on all."""
    ours, theirs = classifier(model_type, **options), classifier(model_type, **options)
    assert compute_first_only(ours)
    return ours, theirs


def batch(padding: str = "right") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (3, LENGTH), generator=generator)
    mask = (torch.arange(LENGTH) < torch.tensor(WIDTHS)[:, None]).long()
    if padding == "left":
        mask = mask.flip(1)
    inputs = {"input_ids": torch.where(mask > 0, ids, 0), "labels": torch.tensor([0, 2, 1])}
    return inputs if padding == "unknown" else {**inputs, "attention_mask": mask}


def assert_same(ours: nn.Module, theirs: nn.Module, inputs: dict[str, torch.Tensor], bound: float = BOUND) -> None:
    """Loss, logits and all gradients; `bound`: relative to the largest entry of any gradient."""
    found, expected = ours(**inputs), theirs(**inputs)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=bound)
    found.loss.backward()
    expected.loss.backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
    for name, value in ours.named_parameters():
        gradient = gradients[name.removeprefix("_orig_mod.")]
        assert (value.grad is None) == (gradient is None), name
        if value.grad is not None and gradient is not None:
            difference = float((value.grad - gradient).abs().max())
            assert difference <= bound * largest, f"{name}: {difference:.1e} of {largest:.1e}"


@pytest.mark.parametrize("padding", ["right", "left", "unknown"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", KNOWN)
def test_equals_all_positions(model_type: str, attention: str, padding: str) -> None:
    """Also where the first position is padding, as it is in sequences padded on the left."""
    ours, theirs = pair(model_type, attn_implementation=attention)
    assert_same(ours.train(), theirs.train(), batch(padding))
    with torch.no_grad():
        found, expected = ours.eval()(**batch(padding)), theirs.eval()(**batch(padding))
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=BOUND)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
@pytest.mark.parametrize("case", ["checkpointed", "one layer", "mask without rows", "float32"])
def test_equals_in_all_ways_to_run_it(model_type: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "mask without rows":  # such as flash attention's
        monkeypatch.setattr(nlp_adan.modeling.queries, "_MASK_IN_ROWS", ())
    ours, theirs = pair(model_type, **({"num_hidden_layers": 1} if case == "one layer" else {}))
    if case == "checkpointed":
        ours.activation_checkpointing_enable()
    if case == "float32":  # measured: 2e-6
        ours, theirs = ours.float(), theirs.float()
    assert_same(ours.train(), theirs.train(), batch(), bound=1e-5 if case == "float32" else BOUND)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_compiles_into_one_graph(model_type: str) -> None:
    torch._dynamo.reset()
    ours, theirs = pair(model_type)
    graphs = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(ours.train(), backend=count, fullgraph=True)
    assert_same(compiled, theirs.train(), batch())
    num_graphs = len(graphs)
    torch.testing.assert_close(compiled(**batch("left")).logits, theirs(**batch("left")).logits)
    assert len(graphs) == num_graphs


def test_what_is_spared() -> None:
    """Of the last layer's 12 matrices of D x D, all but keys and values run on one position instead of all."""
    ours, theirs = pair("bert", attn_implementation="eager", intermediate_size=64)
    found = []
    for model in (ours, theirs):
        with FlopCounterMode(display=False) as counter:
            model(**batch())
        found.append(counter.get_total_flops())
    spared_positions, hidden = 3 * (LENGTH - 1), 16
    matrices, attention = 10 * hidden**2, 2 * LENGTH * hidden
    assert found[1] - found[0] == 2 * spared_positions * (matrices + attention)


class _PoolsAll(nn.Module):
    """A pooler that looks at all positions, or at another one than the first."""

    def __init__(self, position: int | None) -> None:
        super().__init__()
        self.position = position

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.mean(dim=1) if self.position is None else hidden[:, self.position]


@pytest.mark.parametrize("position", [None, -1, 1])
def test_a_head_that_looks_elsewhere_keeps_all_positions(position: int | None) -> None:
    model = classifier("bert").train()
    model.bert.pooler = _PoolsAll(position)
    with torch.no_grad():
        expected = model(**batch()).logits
        assert not compute_first_only(model)
        assert model.training and torch.equal(model(**batch()).logits, expected)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: classifier("modernbert", classifier_pooling="mean"), id="mean of the tokens"),
        pytest.param(lambda: classifier("bert", is_decoder=True), id="decoder"),
        pytest.param(lambda: classifier("xlnet", d_model=16, n_layer=2, n_head=2, d_inner=32), id="xlnet"),
        pytest.param(lambda: classifier("gpt2", n_embd=16, n_layer=2, n_head=2, pad_token_id=0), id="gpt2"),
        pytest.param(lambda: classifier("electra", embedding_size=8), id="electra"),
        pytest.param(lambda: AutoModelForTokenClassification.from_config(config("bert")), id="classifier of tokens"),
        pytest.param(lambda: classifier("bert", max_position_embeddings=4), id="too short for the trial"),
    ],
)
def test_other_models_are_left_alone(model: Any) -> None:
    found: PreTrainedModel = model()
    assert not compute_first_only(found)
    assert not any(isinstance(module, SparseLayer) for module in found.modules())
    assert not found._forward_pre_hooks and not found._forward_hooks


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
@pytest.mark.parametrize("way", ["argument", "configuration"])
def test_what_is_to_be_shown_is_of_all_positions(model_type: str, way: str) -> None:
    options = {"output_hidden_states": True, "output_attentions": True}
    ours, theirs = pair(model_type, attn_implementation="eager")
    arguments = options if way == "argument" else {}
    if way == "configuration":
        ours.config.update(options)
        theirs.config.update(options)
    with torch.no_grad():
        found, expected = ours.eval()(**batch(), **arguments), theirs.eval()(**batch(), **arguments)
    assert found.hidden_states[-1].shape == (3, LENGTH, 16) and found.attentions[-1].shape[2] == LENGTH
    for name in ("logits", "hidden_states", "attentions"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=BOUND)


def test_the_model_below_the_head_by_itself_computes_all_positions() -> None:
    """Also after a forward pass that failed."""
    ours, theirs = pair("roberta")
    inputs = {name: value for name, value in batch().items() if name != "labels"}

    def fail(*args: Any) -> None:
        raise RuntimeError("in the first layer")

    hook = ours.roberta.encoder.layer[0].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the first layer"):
        ours(**inputs)
    hook.remove()
    with torch.no_grad():
        found, expected = ours.eval().roberta(**inputs), theirs.eval().roberta(**inputs)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=BOUND)


@pytest.mark.parametrize("model_type", KNOWN)
def test_saved_as_it_was(model_type: str, tmp_path: Path) -> None:
    ours, theirs = pair(model_type)
    assert [(type(each).__module__, type(each).__qualname__) for each in ours.modules()] == [
        (type(each).__module__, type(each).__qualname__) for each in theirs.modules()
    ]
    for name, model in {"ours": ours, "theirs": theirs}.items():
        model.save_pretrained(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert not any(isinstance(module, SparseLayer) for module in loaded.modules())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_is_a_model_of_its_own(way: str) -> None:
    ours, theirs = pair("camembert")
    twin = copy.deepcopy(ours) if way == "deepcopy" else pickle.loads(pickle.dumps(ours))
    layers: list[Any] = [model.roberta.encoder.layer[-1] for model in (ours, twin)]
    assert type(layers[1]) is type(layers[0]) and layers[1].selection is not layers[0].selection
    assert layers[1].training == layers[0].training
    ours.zero_grad()
    assert_same(twin, theirs, batch())
    assert all(value.grad is None for value in ours.parameters())


def test_asking_again_changes_nothing() -> None:
    ours, theirs = pair("bert")
    hooks = len(ours._forward_hooks), len(ours._forward_pre_hooks)
    assert compute_first_only(ours)
    assert sum(isinstance(module, SparseLayer) for module in ours.modules()) == 1
    assert (len(ours._forward_hooks), len(ours._forward_pre_hooks)) == hooks
    assert_same(ours, theirs, batch())


def test_no_random_number_is_drawn() -> None:
    model = classifier("bert", dropout=0.1).train()
    before = torch.get_rng_state()
    assert compute_first_only(model)
    assert torch.equal(torch.get_rng_state(), before) and model.training


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_dropout_is_as_strong_as_on_all_positions(model_type: str) -> None:
    """The loss over 300 draws: mean and deviation as transformers' (standard error of the mean: 0.06 deviations; of
    the deviation's ratio: 0.06)."""
    ours, theirs = pair(model_type, dropout=0.3)
    with torch.no_grad():
        found, expected = (torch.stack([model.train()(**batch()).loss for _ in range(300)]) for model in (ours, theirs))
    assert found.std() > 0.05
    assert abs(float((found.mean() - expected.mean()) / expected.std())) < 5 * 2**0.5 * 0.06
    assert abs(float(found.std() / expected.std()) - 1) < 5 * 2**0.5 * 0.06
