"""The report of a pretraining run: of finished runs, of runs cut short, and what it says against published curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert.published import RECIPES, published_curve
from bert.report import main
from bert.run_kind import MASKED_LM
from nlp_adan.errors import UserError
from nlp_adan.pretraining.curves import interpolated, quartiles, thinned
from nlp_adan.pretraining.quantities import count, duration, quantity, with_unit
from nlp_adan.pretraining.record import read_run
from nlp_adan.pretraining.report import write_pretraining_report
from nlp_adan.training.run_folder import RunFolder
from tests.unit.pretraining_run import ENVIRONMENT, MANIFEST, evaluation, log_line, make_run

BASE = yaml.safe_load((RECIPES / "base.yaml").read_text(encoding="utf-8"))


def report(folder: Path, **kwargs: Any) -> str:
    """The Markdown of a made run's report."""
    make_run(folder, **kwargs)
    write_pretraining_report(RunFolder(folder), MASKED_LM)
    return (folder / "report.md").read_text(encoding="utf-8")


def cells(text: str, first: str) -> list[str]:
    """The cells of the first table row that begins with this cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return next(row for row in rows if row[0] == first)


def test_a_finished_run(tmp_path: Path) -> None:
    text = report(tmp_path / "mine")
    assert text.startswith("# Pretraining: mine\n\n**Validation loss 5.936 nats a masked token (unigram cross-entropy "
                           "6.600), top-5 accuracy 25.0 % (always the five commonest tokens 16.0 %); 204,800 tokens in "
                           "60.0 min of training, 1,055 tokens/s (median).**")  # fmt: skip
    assert cells(text, "tokens/s")[1:] == ["1,032", "1,055", "1,078"]
    assert cells(text, "FLOP/s")[2] == "2.11 TFLOP/s"
    assert cells(text, "MFU")[1:] == ["0.3 %"] * 3 and "No MFU" not in text
    assert cells(text, "Trained time x ranks")[1] == "2.0 h"
    assert cells(text, "Matrix products, training")[1] == "450 TFLOP"
    assert cells(text, "Starts")[1] == "1, never interrupted"
    assert cells(text, "Training part")[1] == "2 documents, 400,000 characters, 102,400 tokens, 1,600 blocks"
    assert cells(text, "Epochs trained")[1] == "2.00"  # 100 x 32 / 1,600
    assert cells(text, "Tokenizer")[1] == "WordPiece, trained on three novels, 4,096 entries"
    assert cells(text, "a.txt") == ["a.txt", "2.5 MB", "0123456789abcdef"]
    assert cells(text, "50") == ["50", "30.0 min", "102,400", "6.378", "6.089", "11.0 %", "25.0 %"]
    assert "```bash\nrun_pretrain.py bert --recipe 'a|b'\n```" in text and "commit abc123, modified True" in text
    assert "published" not in text and "Unfinished" not in text and "num_train_epochs" not in text
    assert {path.name for path in (tmp_path / "mine").glob("*.svg")} == {"loss.svg", "throughput.svg"}


def test_the_report_for_programs(tmp_path: Path) -> None:
    report(tmp_path / "mine", log=[log_line(10), log_line(20, loss=None)])
    values = json.loads((tmp_path / "mine" / "report.json").read_text(encoding="utf-8"))
    assert values["finished"] and values["step"] == 100 and values["flops"] == 4.5e14
    assert values["train_loss"] == [[10, log_line(10)["loss"]]] and len(values["valid_loss"]) == 2
    assert values["throughput"]["tokens_per_second"] == [1012.5, 1015.0, 1017.5]
    assert values["evaluation"]["eval_masked_tokens"] == 9609 and values["environment"]["git"]["commit"] == "abc123"


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    """It has no metrics.json: the last evaluation speaks, and totals come from the log."""
    text = report(tmp_path / "cut", metrics={}, evaluations=[evaluation(50)], manifest={})
    assert (
        "> **Unfinished: the run stands at step 100 of 100; the figures are those of the evaluation after step 50.**"
        in (text)
    )
    assert "Validation loss 6.089" in text and "204,800 tokens in 60.0 min" in text
    assert cells(text, "Matrix products, training")[1] == "410 TFLOP"  # 204,800 tokens x 2e9
    assert "not at hand" in text and cells(text, "Manifest key")[1] == MANIFEST["key"]
    later = report(tmp_path / "later", metrics={}, evaluations=[])
    assert "it is not evaluated" in later and "Not evaluated after 100 steps; 204,800 tokens" in later
    hours = report(tmp_path / "hours", metrics={}, settings={"max_hours": 24.0, "max_steps": -1})
    assert "stands at step 100, 60.0 min of 24 h" in hours and "\n| max_steps" not in hours


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    text = report(tmp_path / "new", metrics={}, log=[], evaluations=[], starts=[], environment={}, manifest={})
    assert "No step is logged yet." in text and "It is not recorded." in text
    assert not list((tmp_path / "new").glob("*.svg"))


def test_the_sizes_of_a_named_model_are_its_own(tmp_path: Path) -> None:
    """Those among the options are not in force."""
    text = report(tmp_path / "further", settings={"model_name_or_path": "some/model", "hidden_size": 768},
                  manifest={**MANIFEST, "tokenizer_sample": None})  # fmt: skip
    assert "768" not in text and "modernbert" not in text
    assert cells(text, "model_name_or_path")[1] == "some/model"
    assert cells(text, "Tokenizer")[1] == "some/model, 4,096 entries"
    assert "768" in report(tmp_path / "fresh", settings={"hidden_size": 768})


def test_what_a_reader_must_know_first(tmp_path: Path) -> None:
    metrics = evaluation(100, eval_mlm_loss=6.7)
    text = report(tmp_path / "bad", metrics=metrics, log=[log_line(10), log_line(20, loss=None, mfu=None)])
    head = text.partition("**Validation")[0]
    assert "the model knows no more than word frequencies" in head and "not a number on 1 of 2 log lines" in head


def test_why_there_is_no_mfu(tmp_path: Path) -> None:
    without = [{name: value for name, value in log_line(10).items() if name != "mfu"}]
    assert "no peak FLOP/s known of this CPU" in report(
        tmp_path / "a", log=without, environment={**ENVIRONMENT, "gpus": []}
    )
    other = {**ENVIRONMENT, "gpus": ["Other GPU"]}
    assert "no peak FLOP/s known of Other GPU" in report(tmp_path / "b", log=without, environment=other)
    assert "No MFU is recorded." in report(tmp_path / "c", log=without)


def test_a_budget_of_hours_is_the_axis(tmp_path: Path) -> None:
    report(tmp_path / "hours", settings={"max_hours": 1.0, "max_steps": -1})
    assert ">trained hours<" in (tmp_path / "hours" / "loss.svg").read_text(encoding="utf-8")
    report(tmp_path / "steps")
    assert ">optimizer steps<" in (tmp_path / "steps" / "loss.svg").read_text(encoding="utf-8")


def test_a_long_run_shows_its_end_by_itself(tmp_path: Path) -> None:
    text = report(tmp_path / "long", log=[log_line(step) for step in range(1, 101)])
    assert "](loss_later.svg)" in text
    assert ">unigram<" not in (tmp_path / "long" / "loss_later.svg").read_text(encoding="utf-8")


def test_interruptions_are_told(tmp_path: Path) -> None:
    starts = [{"step": 0, "date": "2026-03-01T12:00:00+00:00", "world_size": 2},
              {"step": 40, "date": "2026-03-01T15:00:00+00:00", "world_size": 4}]  # fmt: skip
    log = [log_line(step, seconds=36.0 * (step - 40 * (step > 40))) for step in range(10, 101, 10)]
    text = report(tmp_path / "twice", starts=starts, log=log)
    assert cells(text, "Starts")[1] == "2, resumed after step 40"
    assert cells(text, "First start to last log line")[1] == "3.6 h"  # 3 h and 60 steps
    assert cells(text, "Not training")[1].startswith("2.6 h: ")
    assert "the number of ranks changed: 2, 4" in cells(text, "Trained time x ranks")[1]


def test_published_curves_are_in_nats() -> None:
    adan, adam = published_curve("base"), published_curve("base-adam")
    assert adan is not None and adam is not None and published_curve("tiny") is None
    assert adan.valid[-1] == (1_000_000, pytest.approx(1.777 * math.log(2)))
    assert adam.valid[-1] == (1_000_000, pytest.approx(1.848 * math.log(2)))
    assert adan.train[0] == (2000, pytest.approx(10.55 * math.log(2))) and adan.valid[0][0] == 50_000
    assert len(adan.train) == len(adam.train) == len(adan.valid) + 4 == 24


@pytest.mark.parametrize("recipe", ["base", "base-adam"])
def test_a_recipes_own_settings_do_not_differ(recipe: str) -> None:
    """As the options resolve them: numbers where YAML has text, the Trainer's name of AdamW."""
    curve = published_curve(recipe)
    assert curve is not None
    settings = {**curve.settings, "learning_rate": float(curve.settings["learning_rate"])}
    settings["optim"] = {"adamw": "adamw_torch"}.get(settings["optim"], settings["optim"])
    assert curve.differences({**settings, "logging_steps": 7, "seed": 1}) == []
    assert curve.differences({**settings, "max_steps": 10, "hidden_size": None}) == [
        ("hidden_size", "None", "768"), ("max_steps", "10", "1000000"),
    ]  # fmt: skip


def test_the_papers_recipe_is_shown_beside_the_paper(tmp_path: Path) -> None:
    log = [log_line(step) for step in range(2000, 60_001, 2000)]
    settings = {**BASE, "recipe": "base", "learning_rate": 5e-4}
    text = report(tmp_path / "base", settings=settings, log=log, evaluations=[evaluation(40_000), evaluation(60_000)],
                  metrics={})  # fmt: skip
    assert "## Against the published curve (paper, Adan)" in text
    assert cells(text, "2,000")[3:] == ["6.000", "7.313"]
    assert cells(text, "50,000") == ["50,000", "5.900", "1.783", "6.000", "1.865"]
    assert cells(text, "learning_rate")[1:] == ["0.0005", "1e-3"]
    assert "its folder cannot tell" in text and "one seed" in text
    assert ">paper, Adan, validation<" in (tmp_path / "base" / "loss.svg").read_text(encoding="utf-8")
    begun = report(tmp_path / "begun", settings={**BASE, "recipe": "base"}, metrics={})
    assert "begins at step 2,000: nothing to compare yet" in begun and "are those of the published run" in begun


def test_probes_are_told_with_what_they_ran_on(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 50, "probe": {"CoLA": {"matthews": 0.123}}, "sample_tasks": True, "seconds": 6.0},
        {
            "step": 100,
            "probe": {"CoLA": {"matthews": None}, "SST-2": {"accuracy": 0.8}},
            "sample_tasks": True,
            "seconds": 6,
        },
    ]
    text = report(tmp_path / "probed", evaluations=[evaluation(50), lines[0], evaluation(100), lines[1]])
    assert "## GLUE probes" in text and "cannot be compared with GLUE scores" in text
    section = text.partition("## GLUE probes")[2]
    assert cells(section, "50") == ["50", "12.3", "-"] and cells(section, "100") == ["100", "-", "80.0"]
    assert (tmp_path / "probed" / "probes.svg").is_file()
    for line in lines:
        line["sample_tasks"] = False
    real = report(tmp_path / "real", evaluations=lines)
    assert "GLUE's development sets" in real and "cannot be compared" not in real


def test_the_newest_weights_are_counted(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder = make_run(tmp_path / "run")
    assert read_run(RunFolder(folder), MASKED_LM).num_parameters is None
    for step, width in ((9, 2), (10, 3)):
        (folder / f"checkpoint-{step}").mkdir()
        save_file({"a": np.zeros((4, width)), "b": np.zeros(5)}, folder / f"checkpoint-{step}" / "model.safetensors")
    assert read_run(RunFolder(folder), MASKED_LM).num_parameters == 17


def test_the_manifest_of_other_data_is_left_aside(tmp_path: Path) -> None:
    assert "not at hand" in report(tmp_path / "other", manifest={**MANIFEST, "key": "another"})
    folder = make_run(tmp_path / "given", manifest={})
    assert write_pretraining_report(RunFolder(folder), MASKED_LM, MANIFEST).sections
    assert "two novels" in (folder / "report.md").read_text(encoding="utf-8")


def test_folders_that_hold_no_pretraining_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "holds no run (no resolved.yaml)" in capsys.readouterr().err
    (tmp_path / "resolved.yaml").write_text("optim: adan\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no pretraining run"):
        read_run(RunFolder(tmp_path), MASKED_LM)
    (tmp_path / "resolved.yaml").write_text("a: [\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"resolved\.yaml is damaged"):
        read_run(RunFolder(tmp_path), MASKED_LM)
    folder = make_run(tmp_path / "damaged")
    for content in ("{", "[1]"):
        (folder / "environment.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"environment\.json is damaged"):
            read_run(RunFolder(folder), MASKED_LM)


def test_the_command_says_where_the_report_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(make_run(tmp_path / "mine"))])
    out = capsys.readouterr().out
    assert out.startswith("Validation loss 5.936") and str(tmp_path / "mine" / "report.html") in out


def test_figures_as_text() -> None:
    assert [duration(value) for value in (6.42, 119.9, 3600, 86_400, None)] == [
        "6.4 s",
        "119.9 s",
        "60.0 min",
        "24.0 h",
        "-",
    ]
    assert [quantity(value) for value in (0, 999, 999.6, 1.4e6, 131.1e9, 7.88e19)] == [
        "0", "999", "1 k", "1.4 M", "131 G", "78.8 E"]  # fmt: skip
    assert [count(value) for value in (0, 204_800, 999_999, 1_430_000)] == ["0", "204,800", "999,999", "1.43 M"]
    assert [with_unit(value, "FLOP/s") for value in (12.5e12, 5.0, None)] == ["12.5 TFLOP/s", "5 FLOP/s", "-"]


def test_points_between_and_among_points() -> None:
    assert thinned(list(range(10)), 4) == [0, 3, 6, 9] and thinned([1, 2], 4) == [1, 2]
    points = [(0.0, 1.0), (10.0, 3.0), (20.0, 2.0)]
    assert [interpolated(points, x) for x in (0, 5, 10, 15, 20, 21)] == [1.0, 2.0, 3.0, 2.5, 2.0, None]
    assert interpolated([(5.0, 1.0)], 5) == 1.0 and interpolated([], 5) is None
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4) and quartiles([7]) == (7, 7, 7) and quartiles([]) is None
