"""The model card: what the hub reads of it, and that its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from bert.run_kind import MASKED_LM
from nlp_adan.errors import UserError
from nlp_adan.pretraining.card import write_model_card
from nlp_adan.training.run_folder import RunFolder
from tests.unit.pretraining_run import make_run

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "is", "an", "of", "it", "."]


def make_model(folder: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                        intermediate_size=8)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)


def test_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "mine", settings={"data": "novels"})
    make_model(folder)
    path = write_model_card(RunFolder(folder), MASKED_LM)
    assert path == folder / "README.md"
    text = path.read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "fill-mask"
    assert head["tags"] == ["masked-lm", "bert", "adan", "nlp_adan"]
    assert "license" not in head and "language" not in head  # neither is known
    (result,) = head["model-index"][0]["results"]
    assert head["model-index"][0]["name"] == "mine" and result["dataset"]["name"] == "two novels, held-out documents"
    metrics = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert metrics == {"loss": 5.9357, "accuracy": 0.11, "top_5_accuracy": 0.25}
    assert "pretrained from scratch on two novels with Adan" in text and "None is declared" in text
    assert "| Cross-entropy, nats a masked token | 5.936 | 6.600 |" in text
    assert "| trained time | 60.0 min on 2 x NVIDIA A100-SXM4-80GB |" in text and "commit abc123, modified" in text
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(folder)
    exec(program, {})
    answers = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(set(answers) & set(WORDS)) == 5


def test_a_card_of_data_that_are_gone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "mine", manifest={}, settings={"data": "novels"}, environment={})
    make_model(folder)
    text = write_model_card(RunFolder(folder), MASKED_LM).read_text(encoding="utf-8")
    assert "pretrained from scratch on novels" in text and "were not at hand" in text


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_model_that_was_trained_further(is_folder: bool, tmp_path: Path) -> None:
    """A folder's path would say nothing on the hub."""
    name = str(tmp_path / "model") if is_folder else "some/model"
    make_model(tmp_path / "model")
    folder = make_run(tmp_path / "mine", settings={"model_name_or_path": name})
    make_model(folder)
    text = write_model_card(RunFolder(folder), MASKED_LM).read_text(encoding="utf-8")
    assert f"pretrained further, from the weights of {name}, on two novels" in text and "from scratch" not in text
    assert yaml.safe_load(text.split("---\n")[1]).get("base_model") == (None if is_folder else name)


def test_a_run_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished model yet"):
        write_model_card(RunFolder(make_run(tmp_path / "mine")), MASKED_LM)
    unfinished = make_run(tmp_path / "other", metrics={})
    make_model(unfinished)
    with pytest.raises(UserError, match="`--resume auto`"):
        write_model_card(RunFolder(unfinished), MASKED_LM)
