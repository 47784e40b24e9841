"""The head on the masked positions only: the same loss, gradients and checkpoint as Hugging Face's model."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    PerceiverConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from bert.masking import IGNORED_LABEL
from bert.model import STATISTICS, build_model

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
# What a type wants besides the sizes. Those in `SPARSE_LAST_LAYER` compute the last layer too on masked positions.
SPARSE_LAST_LAYER = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")
OTHERS = (
    "albert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "flaubert", "fnet",
    "megatron-bert", "mpnet", "nystromformer", "rembert", "roberta-prelayernorm", "roformer", "xlm",
)  # fmt: skip
LENGTH = 12


def config(model_type: str, **options: Any) -> PretrainedConfig:
    """A tiny model without dropout."""
    families: dict[str, dict[str, Any]] = {
        "modernbert": {**SPECIAL, "max_position_embeddings": 64},
        "albert": {"embedding_size": 8},
        "electra": {"embedding_size": 8},
        "rembert": {"input_embedding_size": 8, "output_embedding_size": 8},
        "esm": {"pad_token_id": 0, "mask_token_id": 4, "position_embedding_type": "absolute"},
    }
    found = AutoConfig.for_model(
        model_type, **{"max_position_embeddings": 32, **SIZES, **families.get(model_type, {}), **options}
    )
    for name in list(vars(found)):
        if "dropout" in name and isinstance(getattr(found, name), float):
            setattr(found, name, 0.0)
    return found


def batch(pad: int = 0) -> dict[str, torch.Tensor]:
    """Three sequences with as many masked tokens each as chance has it; `pad` more positions that are none."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (3, LENGTH), generator=generator)
    labels = torch.where(torch.rand(3, LENGTH, generator=generator) < 0.3, ids, IGNORED_LABEL)
    labels[-1, -1] = ids[-1, -1]  # where padded positions come to lie
    positions = (labels.flatten() != IGNORED_LABEL).nonzero()[:, 0]
    padding = torch.full((pad,), labels.numel())
    return {"input_ids": ids, "labels": labels, "masked_positions": torch.cat([positions, padding])}


def plain_twin(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The same weights in transformers' own class, through a checkpoint."""
    model.save_pretrained(folder)
    twin = AutoModelForMaskedLM.from_pretrained(folder, dtype=model.dtype)
    assert type(twin).__name__ == type(model).__name__ and type(twin) is not type(model)
    twin.config._attn_implementation = model.config._attn_implementation
    return twin.train(model.training)


def assert_same_loss_and_gradients(ours: nn.Module, theirs: nn.Module, inputs: dict[str, Any], bound: float) -> None:
    """Against the cross-entropy of the logits of every position; `bound`: relative to a gradient's largest entry."""
    our_loss = ours(**inputs)["loss"]
    inputs = {name: value for name, value in inputs.items() if name != "masked_positions"}
    labels = inputs.pop("labels")
    their_loss = nn.functional.cross_entropy(theirs(**inputs).logits.flatten(0, 1).float(), labels.flatten())
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-6, atol=0)
    our_loss.backward()
    their_loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
    for name, parameter in ours.named_parameters():
        name = name.removeprefix("_orig_mod.")  # of a compiled model
        assert (parameter.grad is None) == (expected[name] is None), name
        if parameter.grad is not None:
            difference = float((parameter.grad - expected[name]).abs().max())
            assert difference <= bound * largest, f"{name}: {difference:.1e} of {largest:.1e}"


@pytest.mark.parametrize("model_type", [*SPARSE_LAST_LAYER, *OTHERS])
def test_equals_the_head_on_every_position(model_type: str, tmp_path: Path) -> None:
    """Loss and gradients in float64, where the cross-entropy alone is in float32 (measured: 1.1e-7)."""
    torch.manual_seed(1)
    ours = build_model(config(model_type)).double().train()
    assert ours.selection is not None
    assert ours.sparse_last_layer == (model_type in SPARSE_LAST_LAYER)
    assert_same_loss_and_gradients(ours, plain_twin(ours, tmp_path), batch(), bound=1e-6)
    assert AutoConfig.from_pretrained(tmp_path).architectures == [type(ours).__name__]


@pytest.mark.parametrize("model_type", ["roberta", "modernbert", "albert"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", ["padded positions", "no positions", "padded sequence", "checkpointed"])
def test_equals_in_all_ways_to_run_it(model_type: str, attention: str, case: str, tmp_path: Path) -> None:
    """ModernBERT has a sliding window of 3 tokens to either side in its last layer."""
    window = {"local_attention": 6} if model_type == "modernbert" else {}
    torch.manual_seed(1)
    ours = build_model(config(model_type, attn_implementation=attention, **window)).double().train()
    inputs: dict[str, Any] = batch(pad=7 if case == "padded positions" else 0)
    if case == "no positions":
        del inputs["masked_positions"]
    if case == "padded sequence":
        inputs["attention_mask"] = (torch.arange(LENGTH) < torch.tensor([[12], [9], [10]])).long()
        inputs["labels"] = inputs["labels"].masked_fill(inputs["attention_mask"] == 0, IGNORED_LABEL)
        del inputs["masked_positions"]
    theirs = plain_twin(ours, tmp_path)
    if case == "checkpointed" and ours.supports_gradient_checkpointing:
        ours.activation_checkpointing_enable()
    assert_same_loss_and_gradients(ours, theirs, inputs, bound=1e-6)


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "deberta-v2"])
def test_compiles_into_one_graph(model_type: str, tmp_path: Path) -> None:
    """With positions of one length: nothing is asked of the device, and another batch needs no other graph."""
    torch.manual_seed(1)
    torch._dynamo.reset()
    ours = build_model(config(model_type)).double().train()
    theirs = plain_twin(ours, tmp_path)
    graphs = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(ours, backend=count, fullgraph=model_type != "deberta-v2")
    assert_same_loss_and_gradients(compiled, theirs, batch(pad=5), bound=1e-6)
    num_graphs = len(graphs)
    inputs = batch(pad=5)
    inputs["input_ids"] = inputs["input_ids"].flip(0)
    with torch.no_grad():
        expected = ours(**inputs)["loss"]
    torch.testing.assert_close(compiled(**inputs)["loss"], expected)
    assert len(graphs) == num_graphs


def test_a_copy_selects_for_itself() -> None:
    ours = build_model(config("bert")).eval()
    twin = copy.deepcopy(ours)
    assert twin.selection is not ours.selection
    with torch.no_grad():
        assert torch.equal(twin(**batch())["loss"], ours(**batch())["loss"])


def test_without_labels_every_position_has_logits() -> None:
    """Also hidden states, between batches with labels."""
    ours = build_model(config("modernbert")).eval()
    with torch.no_grad():
        before = ours(**batch())
        output = ours(input_ids=batch()["input_ids"], output_hidden_states=True)
        after = ours(**batch())
    assert output.logits.shape == (3, LENGTH, 50)
    assert [state.shape for state in output.hidden_states] == [(3, LENGTH, 16)] * 3
    assert torch.equal(before["loss"], after["loss"])


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_dropout_is_as_strong_as_in_every_position(model_type: str, tmp_path: Path) -> None:
    """The loss over 300 draws of dropout: mean and deviation as transformers' (standard error of the mean: 0.06
    deviations; of the deviation's ratio: 0.06)."""
    torch.manual_seed(1)
    options = config(model_type, initializer_range=0.3)
    for name in vars(options):
        if "dropout" in name and getattr(options, name) == 0.0 and name != "classifier_dropout":
            setattr(options, name, 0.3)
    ours = build_model(options).train()
    theirs = plain_twin(ours, tmp_path)
    inputs = batch()
    targets = inputs["labels"].flatten()
    with torch.no_grad():
        found = torch.stack([ours(**inputs)["loss"] for _ in range(300)])
        expected = torch.stack(
            [nn.functional.cross_entropy(theirs(inputs["input_ids"]).logits.flatten(0, 1), targets) for _ in range(300)]
        )
    assert found.std() > 0.05
    assert abs(float((found.mean() - expected.mean()) / expected.std())) < 5 * 2**0.5 * 0.06
    assert abs(float(found.std() / expected.std()) - 1) < 5 * 2**0.5 * 0.06


def test_a_head_that_cannot_be_selected_runs_on_every_position(tmp_path: Path) -> None:
    """Perceiver decodes all positions at once; its loss is right all the same, and it says that it is slower."""
    options = PerceiverConfig(
        vocab_size=50, d_model=16, d_latents=16, num_latents=4, num_blocks=1, num_self_attends_per_block=1,
        num_self_attention_heads=2, num_cross_attention_heads=2, qk_channels=16, v_channels=16,
        max_position_embeddings=LENGTH, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="all positions"):
        ours = build_model(options).double().train()
    assert ours.selection is None
    assert_same_loss_and_gradients(ours, plain_twin(ours, tmp_path), batch(pad=3), bound=1e-6)


def test_divides_by_the_items_of_the_whole_step() -> None:
    model = build_model(config("roberta")).train()
    inputs = batch()
    num_items = int((inputs["labels"] != IGNORED_LABEL).sum())
    mean, scaled = model(**inputs)["loss"], model(**inputs, num_items_in_batch=torch.tensor(4 * num_items))["loss"]
    torch.testing.assert_close(scaled, mean / 4)


@pytest.mark.parametrize("pad", [0, 4])
def test_statistics_of_an_evaluation(pad: int) -> None:
    model = build_model(config("roberta")).eval()
    inputs = batch(pad)
    with torch.no_grad():
        output = model(**inputs)
        logits = model(input_ids=inputs["input_ids"]).logits
    labelled = inputs["labels"] != IGNORED_LABEL
    found = dict(zip(STATISTICS, output["token_statistics"].T, strict=True))
    assert output["token_statistics"].shape == (3, 4)
    assert torch.equal(found["num_masked"], labelled.sum(1).float())
    top5 = (logits.topk(5).indices == inputs["labels"][..., None]).any(-1) & labelled
    assert torch.equal(found["num_top5_correct"], top5.sum(1).float())
    torch.testing.assert_close(found["loss_sum"].sum() / labelled.sum(), output["loss"])


@pytest.mark.parametrize("model_type", ["roberta", "modernbert", "albert"])
def test_a_batch_without_a_masked_token_has_a_zero_gradient(model_type: str) -> None:
    """Zero and not none: ranks that have masked tokens wait for it."""
    model = build_model(config(model_type)).train()
    inputs = {"input_ids": batch()["input_ids"], "labels": torch.full((3, LENGTH), IGNORED_LABEL)}
    loss = model(**inputs)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_building_a_model_leaves_the_random_numbers_alone() -> None:
    """The weights that a seed gives, and those that come after, are transformers' own."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = build_model(config("bert"))
    state = torch.get_rng_state()
    torch.manual_seed(3)
    theirs = AutoModelForMaskedLM.from_config(config("bert"))
    assert torch.equal(state, torch.get_rng_state())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name))
