"""The GLUE report: every file of it, what it names, and that two equal sweeps give the same report.json."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from glue_eval.latex import escaped, latex_table
from glue_eval.protocol import NOT_RUN, Failure, Protocol
from glue_eval.report import write_glue_report
from glue_eval.results import RunResult
from glue_eval.sample_tasks import SAMPLE_NOTICE
from glue_eval.tasks import TASKS, TRAINABLE_TASKS
from tests.unit.glue_runs import protocol_of, run_of, write_sweep

FILES = ("report.md", "report.html", "report.json", "table.tex", "model-index.yaml")
OWN = dataclasses.replace(TASKS["RTE"], name="mine", labels=("yes", "no"), definition=Path("mine.yaml"))


def all_runs(value: float = 0.6) -> list[RunResult]:
    return [run_of(task.name, 1, value) for task in TRAINABLE_TASKS]


def write(folder: Path, runs: list[RunResult], failures: tuple[Failure, ...] = (), **changes: Any) -> dict[str, Any]:
    """Write the report and return report.json."""
    names = {run.task for run in runs} | {failure.task for failure in failures}
    tasks = [task for task in TRAINABLE_TASKS if task.name in names]
    write_glue_report(folder, runs, protocol=protocol_of(tasks, **changes), failures=failures)
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def text_of(path: Path) -> str:
    """A file with each run of blanks as one."""
    return " ".join(path.read_text().split())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The report of a sweep with everything in it: failed, collapsed and partial."""
    folder = tmp_path_factory.mktemp("sweep")
    protocol = protocol_of([*TRAINABLE_TASKS, OWN])
    failed = {("QNLI", 2): "out of memory", ("RTE", 3): ""}
    results = write_sweep(folder, protocol, failed=failed, collapsed=[("MRPC", 2)])
    changes: dict[str, dict[str, Any]] = {"SST-2": {"partial": ["train.SAMPLE.tsv"]}, "CoLA": {}}
    for place, run in enumerate(results):
        more = {"ax": {"all": run.seed / 10, "Logic": 0.2}} if run.task == "MNLI" else changes.get(run.task)
        # Plots are the dear part of a report: three tasks with curves will do.
        results[place] = dataclasses.replace(run, **({"curve": []} if more is None else more))
    failures = [Failure(task, seed, error or NOT_RUN) for (task, seed), error in failed.items()]
    write_glue_report(folder, results, protocol=protocol, failures=failures)
    return folder, json.loads((folder / "report.json").read_text())


def test_all_files_show_every_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = write(tmp_path, all_runs())
    texts = {name: (tmp_path / name).read_text() for name in FILES}
    printed = capsys.readouterr().out
    for task in TRAINABLE_TASKS:
        assert f"| {task.name} " in texts["report.md"]
        assert f">{task.name}</td>" in texts["report.html"]
        assert f"\n{task.name} & " in texts["table.tex"]
        assert f"name: {task.name}\n" in texts["model-index.yaml"]
        assert task.name in printed
    assert "accuracy (mismatched)" in texts["report.md"]
    assert (values["average"]["name"], values["average"]["value"]) == ("official average", pytest.approx(0.6))
    assert values["average"]["baseline"] == pytest.approx(7 * 0.5 / 9)
    assert set(values["tasks"]) == {task.name for task in TRAINABLE_TASKS}
    assert "Official average 60.0 on the development files (1 seed per task;" in values["summary"]
    for word in ("runs/tiny", "small-adan", "13.5 s", "python -m glue_eval --jobs 2"):  # seconds of all nine
        assert word in texts["report.md"]
    assert RunResult.from_json(values["runs"][0]) == all_runs()[0]
    assert Protocol.from_json(values["protocol"]) == dataclasses.replace(protocol_of(), environment={})


def test_the_verdict_comes_first_and_names_what_to_mind(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, values = sweep
    first = (folder / "report.md").read_text().splitlines()[:3]
    assert first[0] == "# GLUE: runs/tiny" and first[2] == f"**{values['summary']}**"
    # SST-2 is partial and one task is not GLUE's: no published average has its name over these.
    assert values["summary"].startswith("Mean over the 10 tasks run ")
    assert values["summary"].endswith(
        "; collapsed runs: MRPC; failed runs: QNLI; not run yet: RTE; partial data: SST-2."
    )


def test_failed_and_collapsed_runs_are_named(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, values = sweep
    text = text_of(folder / "report.md")
    assert "| QNLI | 2 | failed | out of memory" in text
    assert f"| RTE | 3 | not run | {NOT_RUN}" in text and "| not run 1/3 |" in text
    assert "| MRPC | 2 | collapsed | constant predictions" in text
    assert re.search(r"\| QNLI \| accuracy \|[^\n]*?\| 2 \|[^\n]*?\| failed 1/3 \|", text)
    assert values["failures"][0] == {"task": "QNLI", "seed": 2, "error": "out of memory"}
    assert values["tasks"]["MRPC"]["collapsed_seeds"] == [2] and values["tasks"]["RTE"]["failed_seeds"] == [3]


def test_intervals_stand_apart_from_the_spread_over_seeds(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, values = sweep
    cola = values["tasks"]["CoLA"]["scores"]["matthews"]
    low, high = (f"{100 * cola['interval'][end]:.1f}" for end in ("low", "high"))
    scores, intervals = (
        (folder / "report.md").read_text().split(f"## {title}")[1].split("\n## ")[0]
        for title in ("Scores", "Uncertainty over the development examples")
    )
    assert f"{100 * cola['mean']:.1f} ± {100 * cola['standard_deviation']:.1f}" in scores
    assert f"{low} to {high}" in intervals and f"{low} to {high}" not in scores
    assert len(re.findall(r"\| MNLI +\|[^\n]*\| +200 \|", intervals)) == 2  # of one file each, not their sum
    assert "(intervals.svg)" in intervals and "(scores.svg)" in scores
    assert f"{low} to {high}" in (folder / "table.tex").read_text()


def test_curves_diagnostics_partial_data_and_cost_are_shown(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = sweep
    text = text_of(folder / "report.md")
    for name in ("curves", "losses", "scores", "intervals"):
        root = ElementTree.fromstring((folder / f"{name}.svg").read_text())
        assert "".join(root.itertext()).count("CoLA") >= 1
    curves = (folder / "curves.svg").read_text()
    assert all(f">seed {seed}<" in curves for seed in (1, 2, 3)) and ">always the majority<" in curves
    assert "| all | 20.0 | 30.0 | 3 |" in text and "| Logic | 20.0 | 20.0 | 3 |" in text
    assert "| SST-2 | train.SAMPLE.tsv |" in text and "SST-2: partial data (train.SAMPLE.tsv)" in text
    # 90,000 tokens and 9,000 of padding in 60 s a run, 300 million bytes at most.
    assert "| CoLA | 3 | 90 | 3.0 min | 60.0 s | 270,000 | 1,500 | 9.1 % | 286 MiB |" in text
    assert "| all | 28 |" in text


def test_equal_sweeps_differ_in_timing_and_environment_only(tmp_path: Path) -> None:
    def at(where: str, seconds: float) -> Any:
        folder = tmp_path / where
        protocol = protocol_of([TASKS["CoLA"], TASKS["STS-B"]], environment={"date": where, "command": where})
        results = write_sweep(folder, protocol, seconds=seconds)
        write_glue_report(folder, results[::-1] if where == "b" else results, protocol=protocol)
        return json.loads((folder / "report.json").read_text())

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_times(item) for name, item in value.items() if name not in ("timing", "environment")}
        return [without_times(item) for item in value] if isinstance(value, list) else value

    first, second = at("a", 60.0), at("b", 61.0)
    assert first != second
    assert without_times(first) == without_times(second)
    for name in ("table.tex", "model-index.yaml", "scores.svg", "intervals.svg", "curves.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_model_index_is_one_that_the_hub_reads(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, values = sweep
    card = ModelCard(f"---\n{(folder / 'model-index.yaml').read_text()}---\n# tiny\n").data
    assert isinstance(card, ModelCardData) and card.eval_results is not None
    assert card.model_name == "tiny"
    found = {(entry.dataset_name, entry.dataset_split, entry.metric_type): entry for entry in card.eval_results}
    assert len(found) == 14
    cola = found["GLUE CoLA", "validation", "matthews_correlation"]
    assert (cola.task_type, cola.dataset_type, cola.dataset_config) == ("text-classification", "nyu-mll/glue", "cola")
    assert cola.metric_value == pytest.approx(values["tasks"]["CoLA"]["scores"]["matthews"]["median"], abs=1e-6)
    assert cola.metric_name == "Matthews, median of 3 seeds"
    assert found["GLUE MNLI", "validation_mismatched", "accuracy"].dataset_config == "mnli"
    assert found["GLUE SST-2", "validation", "accuracy"].metric_name == "accuracy, median of 3 seeds (partial data)"
    assert found["mine", "validation", "accuracy"].dataset_type == "mine"


def test_the_model_index_of_samples_never_bears_glues_name(tmp_path: Path) -> None:
    write(tmp_path, all_runs(), is_sample=True)
    (model,) = yaml.safe_load((tmp_path / "model-index.yaml").read_text())["model-index"]
    assert all(SAMPLE_NOTICE in entry["dataset"]["name"] for entry in model["results"])
    assert all("glue" not in entry["dataset"]["type"] for entry in model["results"])


def test_latex_holds_a_row_per_score_and_nothing_unescaped(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = sweep
    lines = (folder / "table.tex").read_text().splitlines()
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 1 + 14 + 1  # head, scores, average
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {6}
    assert lines[2] == r"\begin{tabular}{llrrrrr}" and lines[-1] == r"\end{tabular}"
    assert r"$\pm$" in body[1] and "±" not in "".join(body)
    assert escaped(r"50% & a_b\c #1 {x} $ ~^ ±") == (
        r"50\% \& a\_b\textbackslash{}c \#1 \{x\} \$ \textasciitilde{}\textasciicircum{} $\pm$"
    )
    assert latex_table(("a", "b"), [[("1\n2", "3")]], "x\ny").splitlines()[0] == "% x y"


def test_tasks_with_the_same_further_settings_share_a_row(tmp_path: Path) -> None:
    runs = all_runs()
    write(tmp_path, runs)
    assert "| weight_decay 0.02 | all |" in text_of(tmp_path / "report.md")
    runs[0] = dataclasses.replace(runs[0], settings={"weight_decay": 0.1})
    write(tmp_path, runs)
    assert "| weight_decay 0.1 | CoLA |" in text_of(tmp_path / "report.md")


def test_settings_are_told_in_words(tmp_path: Path) -> None:
    settings = {"optim_args": None, "warmup_steps": 0.1, "dropout": None, "max_train_examples": None,
                "max_grad_norm": 1.0, "group_by_length": False, "checkpoint": "last"}  # fmt: skip
    runs = [
        run_of("RTE", 1, 0.6, settings=settings),
        run_of("CoLA", 1, 0.5, settings={**settings, "warmup_steps": 1500.0}),
    ]
    write(tmp_path, runs)
    text = text_of(tmp_path / "report.md")
    others = "dropout the model's, max_grad_norm 1, group_by_length no, checkpoint last"
    assert f"| warmup_steps 10 % of the steps, {others} | RTE |" in text
    assert f"| warmup_steps 1,500, {others} | CoLA |" in text


def test_samples_are_named_so_wherever_scores_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = write(tmp_path, all_runs(), is_sample=True)
    markdown = (tmp_path / "report.md").read_text()
    html = (tmp_path / "report.html").read_text()
    assert SAMPLE_NOTICE in markdown.splitlines()[0]
    assert markdown.index(f"scores are on {SAMPLE_NOTICE}") < markdown.index("| CoLA")
    assert html.index(f"scores are on {SAMPLE_NOTICE}") < html.index("<table ")
    assert SAMPLE_NOTICE in (tmp_path / "scores.svg").read_text()
    assert SAMPLE_NOTICE in (tmp_path / "table.tex").read_text()
    assert (values["is_sample"], values["data_kind"]) == (True, SAMPLE_NOTICE)
    assert values["average"]["name"] == "mean over the 9 tasks run" and len(values["averages"]) == 1
    assert "Sample tasks, not GLUE." in values["summary"]
    assert f"Nothing is compared: {SAMPLE_NOTICE}." in markdown and "Adan BERT-base" not in markdown
    assert SAMPLE_NOTICE in capsys.readouterr().out


def test_real_data_are_not_called_samples(tmp_path: Path) -> None:
    assert write(tmp_path, all_runs())["is_sample"] is False
    assert SAMPLE_NOTICE not in (tmp_path / "report.md").read_text()


def test_a_copied_sample_folder_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text(SAMPLE_NOTICE + "\n")
    document = write_glue_report(tmp_path / "out", all_runs(), protocol=protocol_of(data=str(tmp_path)))
    assert SAMPLE_NOTICE in document.title


def test_collapsed_runs_are_marked_and_do_not_count_as_learnt(tmp_path: Path) -> None:
    runs = [
        run_of("MRPC", 1, {"accuracy": 0.684, "f1": 0.812}, collapsed=True),
        run_of("RTE", 1, {"accuracy": 0.6}),
        run_of("WNLI", 1, {"accuracy": 0.4}),
    ]
    values = write(tmp_path, runs)
    assert "above the majority baseline on 1 of 3 tasks; collapsed runs: MRPC." in values["summary"]
    rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| MRPC")]
    assert all("collapsed" in row for row in rows[:2])
    runs.append(run_of("MRPC", 2, {"accuracy": 0.7, "f1": 0.8}))
    write(tmp_path, runs)
    assert "| collapsed 1/2 |" in text_of(tmp_path / "report.md")


def test_above_the_baseline_is_more_than_the_luck_of_the_examples(tmp_path: Path) -> None:
    """A median of 64 against 62 of 200 examples shows no skill: the whole interval has to be above."""
    protocol = protocol_of([TASKS[name] for name in ("SST-2", "MNLI", "RTE", "STS-B")])
    skill = {"SST-2": 0.8, "MNLI": 0.8, "RTE": 0.28, "STS-B": 0.05}
    write_glue_report(tmp_path, write_sweep(tmp_path, protocol, skill=skill), protocol=protocol)
    values = json.loads((tmp_path / "report.json").read_text())
    for name, score in (("RTE", "accuracy"), ("STS-B", "pearson")):
        found = values["tasks"][name]["scores"][score]
        assert found["interval"]["low"] < found["baseline"] < found["median"]
    assert "above the majority baseline with the whole 95 % interval on 2 of 4 tasks." in values["summary"]


def test_a_diverged_run_counts_and_says_why(tmp_path: Path) -> None:
    """With the predictions that it left, so that the intervals count it too."""
    protocol = protocol_of([TASKS["STS-B"]])
    first, *others = write_sweep(tmp_path, protocol)
    folder = next(tmp_path.glob("STS-B/seed-1-*"))
    path = folder / "predictions" / "dev.jsonl"
    lines = [{**json.loads(line), "prediction": None} for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    scores = dict.fromkeys(first.scores, 0.0)
    diverged = dataclasses.replace(first, scores=scores, collapsed=True, diverged="its loss at step 3: nan")
    diverged.save(folder / "result.json")
    write_glue_report(tmp_path, [diverged, *others], protocol=protocol)
    text, values = text_of(tmp_path / "report.md"), json.loads((tmp_path / "report.json").read_text())
    assert "| STS-B | 1 | diverged | its loss at step 3: nan |" in text and "| collapsed 1/3 |" in text
    found = values["tasks"]["STS-B"]["scores"]["pearson"]
    assert (found["n"], found["values"][0]) == (3, 0.0)
    assert found["median"] == pytest.approx(sorted(found["values"])[1])
    assert found["interval"]["low"] < found["median"] < found["interval"]["high"]


def test_a_report_without_any_result_names_the_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = write(tmp_path, [], (Failure("RTE", 1, NOT_RUN), Failure("CoLA", 1, "no space left")))
    assert values["summary"] == "No result of 2 runs; failed runs: CoLA; not run yet: RTE."
    assert (values["average"], values["tasks"], values["runs"]) == (None, {}, [])
    assert "no space left" in (tmp_path / "report.html").read_text()
    assert "failed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no run to report"):
        write_glue_report(tmp_path / "none", [], protocol=protocol_of())


def test_a_task_whose_runs_all_failed_has_a_row(tmp_path: Path) -> None:
    write(tmp_path, [run_of("CoLA", 1, 0.5)], (Failure("RTE", 1, "killed"),))
    assert re.search(r"\| RTE \|( - \|)+ failed \|", text_of(tmp_path / "report.md"))


def test_another_protocol_is_told(tmp_path: Path) -> None:
    runs = [run_of("RTE", 1, 0.7, start="runs/mnli"), run_of("CoLA", 1, 0.5, num_cut=2138)]
    changes: dict[str, Any] = {"mnli_model": "runs/mnli", "checkpoint": "best", "group_by_length": True, "dropout": 0.2}
    changes |= {"max_length": 64, "max_train_examples": 500, "allow_partial": True, "config": "mine.yaml"}
    write(tmp_path, runs, model_sha256="0123456789abcdef" * 4, **changes)
    text = text_of(tmp_path / "report.md")
    assert "RTE started from the MNLI model runs/mnli, not from the pretrained one." in text
    assert "| from MNLI |" in text and "Not compared: RTE: it started from an MNLI model" in text
    for words in ("which flatters", "examples of similar length together", "| Dropout | 0.2 |", "| mine.yaml |",
                  "| Tokens at most, of all tasks | 64 |", "| Training examples at most | 500 |",
                  "| Partial files | accepted |", "| 0123456789abcdef |", "| 25.0 % |",
                  "at the step that scored best on these very files"):  # fmt: skip
        assert words in text, words
