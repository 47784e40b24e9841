"""Reports and cards of language models: perplexity or bits per character, beside published curves and test figures."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_adan.errors import UserError
from nlp_adan.pretraining.card import write_model_card
from nlp_adan.pretraining.record import read_run
from nlp_adan.pretraining.report import write_pretraining_report
from nlp_adan.reporting.plots import line_plot
from nlp_adan.training.run_folder import RunFolder
from tests.unit.pretraining_run import log_line, make_run
from tests.unit.test_pretraining_report import cells
from transformer_xl.configuration import TransformerXLConfig
from transformer_xl.lstm import AWDLSTMForCausalLM
from transformer_xl.lstm_configuration import AWDLSTMConfig
from transformer_xl.model import TransformerXLForCausalLM
from transformer_xl.published import RECIPES, published_curve, published_results
from transformer_xl.report import main
from transformer_xl.run_kind import LANGUAGE_MODEL, perplexity
from transformer_xl.vocabulary import TextRules, Vocabulary

SETTINGS: dict[str, Any] = {
    "recipe": "tiny", "data": "novels", "tokenizer": None, "tgt_len": 64, "mem_len": 32, "d_model": 16, "n_layer": 2,
    "cutoffs": [5], "unit": "word", "lower_case": True, "optim": "adan", "optim_args": None, "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine", "warmup_on_top": True, "lr_drops": None, "lr_drop_factor": 0.1, "weight_decay": 0.02,
    "max_steps": 100, "max_hours": None, "num_train_epochs": 3.0, "global_batch_size": 16,
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "bf16": False, "warmup_steps": 10,
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "kind": "a stream for recurrent language models", "key": "key-of-the-data", "corpus_name": "two novels",
    "vocab_size": 11, "rules": {"unit": "word", "lower_case": True},
    "inputs": {"tokenizer_sha256": None, "corpus": {"sources": []}},
    "parts": {"train": {"num_tokens": 51_200, "num_lines": 900, "num_unknown": 0},
              "valid": {"num_tokens": 2000, "num_lines": 40, "num_unknown": 3},
              "test": {"num_tokens": 2500, "num_lines": 50, "num_unknown": 4}},
}  # fmt: skip
WORDS = ("<eos>", "the", "a", "of", "novel", "says", "little", "and", "ends", "here", "<unk>")


def evaluation(step: int, loss: float | None = None, figure: str = "perplexity", **changes: Any) -> dict[str, Any]:
    loss = 4.0 + math.exp(-step / 30) if loss is None else loss
    value = math.exp(loss) if figure == "perplexity" else loss / math.log(2)
    return {"step": step, "eval_loss": loss, f"eval_{figure}": value, "eval_unigram_cross_entropy": 6.0,
            "eval_num_tokens": 1999, **changes}  # fmt: skip


def final(figure: str = "perplexity", **changes: Any) -> dict[str, Any]:
    test = {name.replace("eval_", "test_"): value for name, value in evaluation(50, 4.5, figure).items()}
    return {**test, **evaluation(50, figure=figure), "step": 50, "trained_seconds": 3600.0, "trained_tokens": 102_400,
            "trained_flops": 4.5e14, "peak_device_memory_bytes": 2_684_354_560, "peak_host_memory_bytes": 1 << 30,
            **changes}  # fmt: skip


def made(folder: Path, **kwargs: Any) -> Path:
    kwargs = {"metrics": final(), "evaluations": [evaluation(50), evaluation(100, 4.3)], "manifest": MANIFEST, **kwargs}
    return make_run(folder, base=SETTINGS, **kwargs)


def report(folder: Path, **kwargs: Any) -> str:
    """The Markdown of a made run's report."""
    made(folder, **kwargs)
    write_pretraining_report(RunFolder(folder), LANGUAGE_MODEL)
    return (folder / "report.md").read_text(encoding="utf-8")


def test_a_finished_run(tmp_path: Path) -> None:
    """Its weights are those of step 50, which was better on the validation part than the last."""
    text = report(tmp_path / "mine")
    valid = 4.0 + math.exp(-50 / 30)
    assert text.startswith(
        f"# Pretraining: mine\n\n**Validation perplexity {math.exp(valid):.2f} (by the tokens' frequencies 403.43), "
        "test perplexity 90.02, of the weights after step 50; 102,400 tokens in 60.0 min of training, 1,055 tokens/s "
        "(median).**"
    )  # fmt: skip
    assert "## Perplexity" in text and "Unfinished" not in text and "published" not in text
    columns = ["Step", "Trained", "Tokens", "Training loss", "Validation loss", "Perplexity"]
    assert cells(text, "Step") == columns
    assert cells(text, "100") == ["100", "60.0 min", "102,400", "6.071", "4.300", "73.70"]
    assert cells(text, "Tokens")[1] == "102,400 (16 sequences of 64 a step)"
    assert cells(text, "Most memory, rank 0, last start")[1] == "2.50 GiB of the GPU, by torch, 1.00 GiB of the host"
    assert cells(text, "Training part")[1] == "900 lines, 51,200 tokens"
    assert cells(text, "Test part")[1] == "50 lines, 2,500 tokens"
    assert cells(text, "Epochs trained")[1] == "2.00"
    assert cells(text, "Tokenizer")[1] == "words in lower case, counted on the training part, 11 entries"
    assert cells(text, "mem_len")[1] == "32" and cells(text, "warmup_on_top")[1] == "True"
    assert "lr_drop" not in text and "masked positions" not in text
    plot = (tmp_path / "mine" / "loss.svg").read_text(encoding="utf-8")
    assert ">perplexity<" in plot and ">unigram<" in plot and ">200<" in plot and ">500<" in plot
    values = json.loads((tmp_path / "mine" / "report.json").read_text(encoding="utf-8"))
    assert values["evaluation"]["test_perplexity"] == pytest.approx(math.exp(4.5))
    assert values["valid_loss"] == [[50, valid], [100, 4.3]] and "probes" not in values


def test_characters_are_told_in_bits(tmp_path: Path) -> None:
    settings = {"unit": "byte"}
    lines = [evaluation(50, 1.0, "bits_per_character"), evaluation(100, 0.9, "bits_per_character")]
    rules = {"unit": "byte", "lower_case": False}
    text = report(tmp_path / "bytes", settings=settings, evaluations=lines, manifest={**MANIFEST, "rules": rules},
                  metrics=final("bits_per_character", eval_loss=1.0, test_loss=1.1, step=100))  # fmt: skip
    assert (
        "**Validation bits per character 1.443 (by the tokens' frequencies 8.656), test bits per character 1.587; "
        in text
    )
    assert "perplexity" not in text.lower() and "of the weights after" not in text
    assert cells(text, "100")[-2:] == ["0.900", "1.298"] and "## Bits per character" in text
    assert cells(text, "Tokenizer")[1] == "bytes, 11 entries"


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    text = report(tmp_path / "cut", metrics={}, evaluations=[evaluation(50)], manifest={})
    assert "the run stands at step 100 of 100; the figures are those of the evaluation after step 50." in text
    assert "test perplexity" not in text and "not at hand" in text
    assert "102,400 tokens in 60.0 min" in text  # 100 steps x 16 x 64
    new = report(tmp_path / "new", metrics={}, log=[], evaluations=[], manifest={})
    assert "No step is logged yet." in new


def test_segments_of_random_length_are_counted_by_their_mean(tmp_path: Path) -> None:
    """Of 64, or of 32 one time in twenty: 62.4 on average."""
    text = report(tmp_path / "lstm", metrics={}, settings={"random_lengths": True, "mem_len": None, "num_layers": 2})
    assert "99,840 tokens in 60.0 min" in text and cells(text, "num_layers")[1] == "2"


def test_a_loss_beyond_all_bounds_is_left_out_of_the_curve(tmp_path: Path) -> None:
    assert perplexity(800.0) == math.inf and perplexity(1.0) == math.e
    text = report(tmp_path / "wild", log=[log_line(10, loss=800.0), log_line(20, loss=5.0), log_line(30, loss=4.0)])
    assert "Perplexity curves: training from 148.41 to 54.60" in text


def test_published_curves_are_the_papers() -> None:
    adan, adam = published_curve("wt103-base"), published_curve("wt103-base-adam")
    half, quarter = published_curve("wt103-base-100k"), published_curve("wt103-base-50k")
    assert adan is not None and adam is not None and half is not None and quarter is not None
    assert published_curve("tiny") is None and published_curve("ptb-1layer") is None
    steps = (4000, 20_000, 40_000, 100_000, 200_000)
    assert [round(dict(adam.valid)[step], 1) for step in steps] == [72.6, 36.0, 30.5, 25.8, 23.4]
    assert [round(dict(adan.valid)[step], 1) for step in steps] == [78.7, 36.9, 31.9, 26.5, 22.7]
    assert half.valid[-1] == (100_000, 23.503) and quarter.valid[-1] == (48_000, 25.471)
    assert quarter.train[-1] == (50_000, 25.749) and len(adan.train) == len(adan.valid) == 50


@pytest.mark.parametrize("recipe", ["wt103-base", "wt103-base-100k", "wt103-base-50k", "wt103-base-adam"])
def test_a_recipes_own_settings_do_not_differ(recipe: str) -> None:
    curve = published_curve(recipe)
    assert curve is not None
    settings = {**curve.settings, "learning_rate": float(curve.settings["learning_rate"])}
    settings["optim"] = {"adamw": "adamw_torch"}.get(settings["optim"], settings["optim"])
    assert curve.differences({**settings, "logging_steps": 7, "seed": 1}) == []
    assert [name for name, *_ in curve.differences({**settings, "mem_len": 0, "cutoffs": []})] == ["cutoffs", "mem_len"]


def test_the_papers_recipe_is_shown_beside_the_paper(tmp_path: Path) -> None:
    base = yaml.safe_load((RECIPES / "wt103-base.yaml").read_text(encoding="utf-8"))
    log = [log_line(step, loss=3.0) for step in range(4000, 60_001, 4000)]
    text = report(tmp_path / "base", settings={**base, "recipe": "wt103-base", "weight_decay": 0.1}, log=log,
                  evaluations=[evaluation(4000, 4.0), evaluation(60_000, 3.2)], metrics={})  # fmt: skip
    assert "## Against the published curve (paper, Adan, 200,000 steps)" in text
    against = text.partition("## Against the published curve")[2]
    assert cells(against, "4,000")[1:] == ["54.60", "78.69", "20.09", "84.37"]
    assert cells(text, "weight_decay")[1:] == ["0.1", "0.02"]
    assert cells(text.partition("## Published test figures")[2], "this run")[1:] == ["60,000", "0.001", "3000", "-"]
    assert cells(text, "published, Adam")[1:] == ["200,000", "0.00025", "0", "24.24"]
    assert text.count("published, Adan ") == 3 and "github.com/sail-sg/Adan" in text
    assert ">paper, Adan, 200,000 steps, validation<" in (tmp_path / "base" / "loss.svg").read_text(encoding="utf-8")


def test_the_treebanks_published_figures_are_said_not_to_compare(tmp_path: Path) -> None:
    text = report(tmp_path / "ptb", settings={"recipe": "ptb-2layer-sgd"})
    assert cells(text, "published, AdaBelief")[-1] == "66.30" and cells(text, "this run")[-1] == "90.02"
    assert "Not comparable" in text and "recurrent weights" in text and "selects on the test part" in text
    assert [result.test_perplexity for result in published_results("ptb-3layer")[0]] == [63.8, 64.3, 61.2]
    assert published_results("tiny") == ([], "") and published_results("ptb-layer") == ([], "")
    assert not [result for layers in (1, 2, 3) for result in published_results(f"ptb-{layers}layer")[0]
                if result.optimizer == "Adan"]  # none that could be verified  # fmt: skip


def save_model(folder: Path, is_lstm: bool) -> None:
    vocabulary = Vocabulary(WORDS, TextRules("word", lower_case=True), "<unk>")
    vocabulary.tokenizer().save_pretrained(str(folder))
    model: Any = (
        AWDLSTMForCausalLM(AWDLSTMConfig(vocab_size=11, embedding_size=8, hidden_size=8, num_layers=1))
        if is_lstm
        else TransformerXLForCausalLM(
            TransformerXLConfig(vocab_size=11, d_model=8, n_layer=1, n_head=2, d_inner=8, cutoffs=[5], mem_len=4)
        )
    )
    model.save_pretrained(folder)


@pytest.mark.parametrize("is_lstm", [False, True], ids=["transformer_xl", "lstm"])
def test_a_card(
    is_lstm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its program runs, whatever the family."""
    settings = {"mem_len": None, "random_lengths": True} if is_lstm else {}
    folder = made(tmp_path / "mine", settings=settings)
    save_model(folder, is_lstm)
    text = write_model_card(RunFolder(folder), LANGUAGE_MODEL).read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "text-generation"
    assert head["tags"] == ["causal-lm", "awd_lstm" if is_lstm else "transformer_xl", "adan", "nlp_adan"]
    results = {result["dataset"]["type"]: result for result in head["model-index"][0]["results"]}
    assert results["test"]["dataset"]["name"] == "two novels, test part"
    metrics = {metric["type"]: metric["value"] for metric in results["test"]["metrics"]}
    assert metrics == {"perplexity": 90.0171, "loss": 4.5} and "license" not in head
    assert "| Perplexity, test part | 90.02 | 403.43 |" in text and "Bits per character" not in text
    assert "by which the weights were chosen, and the test part (1,999 tokens), read once" in text
    assert "pretrained from scratch on two novels with Adan" in text and "900 lines, 51,200 tokens" in text
    assert ("the state carried from one to the next" if is_lstm else "32 positions in each layer") in text
    outside = read_run(RunFolder(folder), LANGUAGE_MODEL).num_parameters_of_layers
    assert outside == (2 * 4 * 8 * 8 + 2 * 4 * 8 if is_lstm else 5 * 64 + 2 * 64 + 16 + 32)
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(program, {})
    assert len(capsys.readouterr().out.splitlines()) >= 10
    assert "python -m transformer_xl evaluate --model . --data FILE" in text


def test_other_kinds_of_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masked = make_run(tmp_path / "masked")
    with pytest.raises(UserError, match=r"no pretraining run of language models with a memory .*has no tgt_len"):
        read_run(RunFolder(masked), LANGUAGE_MODEL)
    with pytest.raises(SystemExit) as stopped:
        main([str(masked)])
    assert stopped.value.code == 2 and "name the folder of one" in capsys.readouterr().err
    main([str(made(tmp_path / "mine"))])
    assert capsys.readouterr().out.startswith("Validation perplexity")


@pytest.mark.parametrize(
    ("values", "labels"), [((20.0, 900.0), (">20<", ">50<", ">500<")), ((22.7, 31.0), (">24<", ">30<"))]
)
def test_ratios_on_an_axis(values: tuple[float, float], labels: tuple[str, ...]) -> None:
    """Round numbers over decades, evenly spaced ones within one; no powers of ten."""
    svg = line_plot({"a": [(0.0, values[0]), (1.0, values[1])]}, "x", "y", log_y=True)
    assert all(label in svg for label in labels) and "10^" not in svg
