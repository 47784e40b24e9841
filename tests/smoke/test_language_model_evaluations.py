"""Evaluations while a language model trains: of which text they are, and of which the final figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.corpora import make_documents
from tests.smoke.test_language_models import TRAIN, lines, words
from transformer_xl.stream import open_stream


@pytest.mark.slow
@pytest.mark.parametrize("family", TRAIN)
def test_evaluations_during_training_may_be_of_less(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the validation part's beginning; the best step is theirs, the final figures are those of the whole parts."""
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    text, run = tmp_path / "text", tmp_path / "run"
    text.mkdir()
    for seed, (name, count) in enumerate([("train", 60), ("valid", 8), ("test", 8)]):
        (text / f"{name}.txt").write_text("\n".join(make_documents(count, seed)), encoding="utf-8")
    TRAIN[family](words(family, text, run, "--max_valid_tokens", "50", "--max_steps", "4", "--eval_steps", "2",
                        "--save_steps", "2"))  # fmt: skip
    found, metrics = lines(run, "eval.jsonl"), json.loads((run / "metrics.json").read_text())
    assert {line["eval_num_tokens"] for line in found} == {50} and {line["step"] for line in found} == {2, 4}
    state = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_metric"] == min(line["eval_loss"] for line in found)
    stream = open_stream(Path(json.loads((run / "data.json").read_text())["folder"]))
    model = AutoModelForCausalLM.from_pretrained(run).eval()
    for prefix, tokens in (("eval", stream.valid.astype("int64")), ("test", stream.test.astype("int64"))):
        mems: Any = None
        losses: list[float] = []
        for begin in range(0, len(tokens) - 1, 16):
            ids = torch.from_numpy(tokens[begin : begin + 17])[None]
            with torch.no_grad():
                output = model(ids[:, :-1], labels=ids[:, 1:], mems=mems)
            mems, losses = output.mems, [*losses, *output.losses[0].tolist()]
        assert len(losses) == metrics[f"{prefix}_num_tokens"] > 50
        assert metrics[f"{prefix}_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
        if prefix == "eval":
            at_best = next(line for line in found if line["step"] == metrics["step"])
            assert at_best["eval_loss"] == pytest.approx(sum(losses[:50]) / 50, abs=1e-5)
            assert abs(at_best["eval_loss"] - metrics["eval_loss"]) > 1e-4
    assert "by whose first 50 tokens the weights were chosen" in (run / "README.md").read_text()
