"""The head on the masked positions only: the same loss, gradients and checkpoint as Hugging Face's model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
    XLNetConfig,
)

from bert.masking import IGNORED_LABEL
from bert.model import STATISTICS, build_model
from bert.model_options import ModelOptions, load_config, model_config
from nlp_adan.errors import UserError

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = [
    BertConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    RobertaConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, dropout=0.0, attention_dropout=0.0),
    ModernBertConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
]


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (3, 12), generator=generator)
    labels = torch.where(torch.rand(3, 12, generator=generator) < 0.3, ids, IGNORED_LABEL)
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.model_type))
def test_equals_the_head_on_every_position(config: PretrainedConfig, tmp_path: Path) -> None:
    """Loss and gradients to float32 rounding (measured: 2.4e-7), through a saved and loaded checkpoint."""
    torch.manual_seed(1)
    ours = build_model(config)
    ours.save_pretrained(tmp_path)
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).architectures == [type(theirs).__name__]
    ours.train()
    theirs.train()
    our_loss, their_loss = ours(**batch())["loss"], theirs(**batch()).loss
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-6, atol=1e-6)
    our_loss.backward()
    their_loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6, msg=name)


def test_divides_by_the_items_of_the_whole_step() -> None:
    model = build_model(CONFIGS[1]).train()
    inputs = batch()
    num_items = int((inputs["labels"] != IGNORED_LABEL).sum())
    mean, scaled = model(**inputs)["loss"], model(**inputs, num_items_in_batch=torch.tensor(4 * num_items))["loss"]
    torch.testing.assert_close(scaled, mean / 4)


def test_statistics_of_an_evaluation() -> None:
    model = build_model(CONFIGS[1]).eval()
    inputs = batch()
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


def test_a_batch_without_a_masked_token_has_a_zero_gradient() -> None:
    model = build_model(CONFIGS[1]).train()
    inputs = {**batch(), "labels": torch.full((3, 12), IGNORED_LABEL)}
    loss = model(**inputs)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_models_that_cannot_be_pretrained_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"xlnet.*modernbert"):
        build_model(XLNetConfig())
    with pytest.raises(UserError, match="nowhere"):
        load_config(str(tmp_path / "nowhere"))
    for options, named in (({"hidden_size": 0}, "hidden_size"), ({"num_attention_heads": 0}, "num_attention_heads"),
                           ({"dropout": 2.0}, "dropout"), ({"num_attention_heads": 5}, "multiple")):  # fmt: skip
        with pytest.raises(UserError, match=named):
            model_config(ModelOptions(**options), None, 16)
