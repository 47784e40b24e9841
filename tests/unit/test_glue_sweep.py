"""The plan of a sweep: what a run's key depends on, what is refused before anything is written, how it ends."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

import glue_eval.keys
import glue_eval.sweep
import nlp_adan.runs.code
from glue_eval import __main__ as door
from glue_eval.options import command_parser, recipe_path, task_settings
from glue_eval.planning import Plan, check_loads, local_model, make_plan
from glue_eval.protocol import OWN_FILES, Protocol
from glue_eval.results import RunResult
from glue_eval.tasks import parse_task_names
from nlp_adan.errors import UserError
from nlp_adan.runs import Advance, Outcome, Run
from tests.tiny_glue import tiny_bert, tiny_tokenizer, write_diagnostics, write_glue


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_glue(tmp_path / "glue", "CoLA", "RTE")


def plan_of(model: Path, data: Path, *words: str, tasks: str = "CoLA,RTE", out: str = "out") -> Plan:
    """The plan of a command line; `words` win."""
    given = [
        "--model", str(model), "--data", str(data), "--tasks", tasks, "--allow_partial", "True",
        "--output_dir", str(data.parent / out), *words,
    ]  # fmt: skip
    parser = command_parser()
    glue, _ = parser.parse(given)
    settings = task_settings(parser, given, parse_task_names(glue.tasks))
    return make_plan(
        settings, local_model(str(glue.model)), recipe_path(given, glue.config), data.parent / out, {"date": "today"}
    )


# ---- keys ----


def change_weights(model: Path, data: Path) -> None:
    tiny_bert(model, hidden_act="relu")  # of equal weights, so that it is the configuration that tells


def change_tokenizer(model: Path, data: Path) -> None:
    path = model / "tokenizer.json"
    path.write_text(path.read_text().replace('"w19"', '"v19"'))


def change_split(name: str) -> Callable[[Path, Path], None]:
    def change(model: Path, data: Path) -> None:
        for task in ("CoLA", "RTE"):
            path = data / task / f"{name}.tsv"
            path.write_text(path.read_text().replace("w7", "w8"))

    return change


@pytest.mark.parametrize(
    "change", [change_weights, change_tokenizer, *map(change_split, ("train", "dev", "test"))]
)  # fmt: skip
def test_other_files_are_other_runs(change: Callable[[Path, Path], None], model: Path, data: Path) -> None:
    before = plan_of(model, data).keys
    change(model, data)
    assert not set(before) & set(plan_of(model, data).keys)


@pytest.mark.parametrize(
    "words",
    [
        ["--learning_rate", "0.5"],
        ["--max_length", "9"],
        ["--max_train_examples", "20"],
        ["--dropout", "0.5"],
        ["--checkpoint", "best"],
        ["--group_by_length"],
        ["--no_predict_test"],
        ["--save_models"],
        ["--global_batch_size", "3"],
        ["--optim", "adamw"],
        ["--data_seed", "3"],
    ],
)
def test_other_settings_are_other_runs(words: list[str], model: Path, data: Path) -> None:
    assert not set(plan_of(model, data).keys) & set(plan_of(model, data, *words).keys)


@pytest.mark.parametrize(
    "words",
    [
        ["--seeds", "3"],
        ["--jobs", "2"],
        ["--report_to", "none"],
        ["--disable_tqdm", "True"],
        ["--per_device_eval_batch_size", "3"],
        ["--per_device_train_batch_size", "8"],
        ["--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "2"],  # the recipe's 32 a step
        ["--recipe", "small-adan"],  # which it is anyway
    ],
)
def test_what_does_not_act_leaves_the_runs_what_they_are(words: list[str], model: Path, data: Path) -> None:
    assert plan_of(model, data).keys == plan_of(model, data, *words).keys


def test_the_same_weights_elsewhere_are_the_same_run(model: Path, data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "log.jsonl").write_text("{}")  # a pretraining run's folder holds more than the model
    (copy / "training_args.bin").write_bytes(b"")
    moved = shutil.copytree(data, tmp_path / "elsewhere" / "glue")
    assert plan_of(model, data).keys == plan_of(copy, moved).keys


def test_other_code_or_libraries_are_other_runs(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_of(model, data).keys
    monkeypatch.setattr(glue_eval.keys, "versions", lambda: {"torch": "1.0"})
    other = plan_of(model, data).keys
    monkeypatch.setattr(glue_eval.keys, "code_sha256", lambda *computes: "0")
    assert len({*before, *other, *plan_of(model, data).keys}) == 6


def test_the_code_that_counts_is_what_a_run_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def sha256_file(path: Path) -> str:
        hashed.append(path)
        return ""

    monkeypatch.setattr(nlp_adan.runs.code, "sha256_file", sha256_file)
    nlp_adan.runs.code.code_sha256.__wrapped__(glue_eval.keys.COMPUTES)
    names = {str(path.relative_to(nlp_adan.runs.code.PROJECT_FOLDER)) for path in hashed}
    assert {"glue_eval/finetune.py", "glue_eval/tasks.py", "glue_eval/metrics.py", "nlp_adan/__init__.py"} <= names
    assert {"nlp_adan/update.py", "nlp_adan/training/engine.py", "nlp_adan/training/order.py"} <= names
    assert any(name.startswith("nlp_adan/kernels/") and name.endswith(".cpp") for name in names)
    outside = (
        "glue_eval/report.py",
        "glue_eval/sweep.py",
        "nlp_adan/runs",
        "nlp_adan/corpora/corpus.py",
        "nlp_adan/reporting",
    )
    assert not [name for name in names if name.startswith(outside)]


def test_an_mnli_model_is_for_three_tasks(model: Path, data: Path, tmp_path: Path) -> None:
    from glue_eval.classifier import load_classifier
    from glue_eval.tasks import TASKS

    started = tmp_path / "mnli"
    load_classifier(str(model), TASKS["MNLI"]).save_pretrained(started)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        shutil.copy(model / name, started)
    without, having = plan_of(model, data), plan_of(model, data, "--mnli_model", str(started))
    assert [old == new for old, new in zip(without.keys, having.keys, strict=True)] == [True, False]
    assert [spec.mnli_model for spec in having.specs] == [str(started)] * 2
    check_loads(having)
    tiny_tokenizer([f"v{number}" for number in range(20)]).save_pretrained(started)
    with pytest.raises(UserError, match=r"--mnli_model: .* has another vocabulary than the pretrained model"):
        plan_of(model, data, "--mnli_model", str(started))
    lower = tiny_tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    lower.save_pretrained(started)
    with pytest.raises(UserError, match=r"--mnli_model: .* reads texts otherwise than the pretrained model's"):
        plan_of(model, data, "--mnli_model", str(started))
    tiny_tokenizer().save_pretrained(started)
    (started / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"--mnli_model: .* cannot be loaded"):
        check_loads(plan_of(model, data, "--mnli_model", str(started)))
    (model / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"--model: .* cannot be loaded"):
        check_loads(plan_of(model, data))


# ---- plans ----


def test_a_plan(model: Path, data: Path) -> None:
    words = ["--seeds", "2", "--max_length", "11", "--max_train_examples", "40", "--dropout", "0.25", "--save_models"]
    plan = plan_of(model, data, *words, "--num_train_epochs", "3", "--no_predict_test", "--checkpoint", "best")
    assert [run.name for run in plan.runs] == ["CoLA seed 1", "RTE seed 1", "CoLA seed 2", "RTE seed 2"]
    for run in plan.runs:
        key, task = run.arguments["key"], run.arguments["task"]
        assert run.folder == data.parent / "out" / task.name / f"seed-{run.arguments['seed']}-{key[:8]}"
        spec = dataclasses.asdict(run.arguments["spec"])
        assert spec["model"] == str(model) and spec["data"] == data and spec["allow_partial"]
        assert (spec["max_length"], spec["max_train_examples"], spec["dropout"]) == (11, 40, 0.25)
        assert spec["save_model"] and not spec["predict_test"] and spec["checkpoint"] == "best"
        assert not plan.folder.exists()
    workload = plan.workloads[0]
    assert (workload.num_train, workload.steps, workload.batch_size) == (40, 4, 32)  # ceil(3 x 40 / 32)
    assert workload.num_predicted == 3 * 13 and 2 < workload.length < 11  # dev after each epoch, no test
    plan.write()
    written = json.loads((plan.folder / "plan.json").read_text())
    assert Protocol.from_json(written["protocol"]) == plan.protocol
    assert written["runs"][1] == {
        "task": "RTE", "seed": 1, "key": plan.keys[1], "folder": f"RTE/seed-1-{plan.keys[1][:8]}",
    }  # fmt: skip
    protocol = plan.protocol
    assert (protocol.recipe, protocol.seeds, protocol.dropout) == ("small-adan", (1, 2), 0.25)
    assert protocol.model_sha256 and protocol.environment == {"date": "today"} and not protocol.is_sample


def test_ones_own_tasks_are_no_samples(model: Path, data: Path, tmp_path: Path) -> None:
    """Whatever `--data` says, which is then not looked at."""
    own = "name: mine\ntrain: train.tsv\ndev: dev.tsv\ntext: text\nlabel: label\nlabels: [yes, no]"
    (tmp_path / "own.yaml").write_text(own)
    for split, word in (("train", "w1"), ("dev", "w2")):
        (tmp_path / f"{split}.tsv").write_text(f"text\tlabel\n{word} w3\tyes\n{word}\tno\n")
    plan = plan_of(model, data, "--data", "sample", tasks=str(tmp_path / "own.yaml"))
    assert (plan.protocol.is_sample, plan.protocol.data) == (False, OWN_FILES)
    assert f"on {OWN_FILES}, recipe" in glue_eval.sweep.beginning(plan, 1)
    mixed = plan_of(model, data, tasks=f"CoLA,{tmp_path / 'own.yaml'}")
    assert (mixed.protocol.is_sample, mixed.protocol.data) == (False, str(data))


def test_work_follows_lengths_steps_and_predictions(model: Path, data: Path) -> None:
    usual, longer, more = (
        plan_of(model, data, *words).workloads[0].work
        for words in ([], ["--max_length", "5"], ["--num_train_epochs", "50"])
    )
    assert longer < usual < more
    assert plan_of(model, data).workloads[0].num_predicted == 5 * 13 + 9


def test_a_model_of_the_hub_is_pinned_to_its_snapshot(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "models--someone--tiny"
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(model, snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_model("someone/tiny") == snapshot
    shutil.copytree(cached, cached.parent / "models--tiny-uncased")
    assert local_model("tiny-uncased").parent.parent.name == "models--tiny-uncased"
    with pytest.raises(UserError, match="--model: there is no folder 'bert-base-uncased', and HF_HUB_OFFLINE=1"):
        local_model("bert-base-uncased")
    with pytest.raises(UserError, match=r"--model: no folder '.*'; name .* of the hub, such as google-bert/bert-base"):
        local_model(str(tmp_path / "bert-base-uncased"))
    with pytest.raises(UserError, match="--mnli_model: 'mnli' is no folder"):
        plan_of(model, data, "--mnli_model", "mnli")
    (snapshot / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="--model: 'someone/tiny' has no tokenizer_config"):
        local_model("someone/tiny")


# ---- refusals ----


def test_diagnostic_labels_are_read_before_any_run(model: Path, data: Path) -> None:
    write_glue(data, "MNLI", "AX")
    without = plan_of(model, data, tasks="MNLI").keys
    path = write_diagnostics(data)
    assert plan_of(model, data, tasks="MNLI").keys != without
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"diagnostic-full.tsv:9: the file ends after 8 examples, diagnostic.tsv has 9"):
        plan_of(model, data, tasks="MNLI")
    for words, tasks in (([], "CoLA"), (["--no_predict_test"], "MNLI")):  # which do not read it
        plan_of(model, data, *words, tasks=tasks)


def refused(words: list[str], folder: Path) -> str:
    """What the command is told; it writes nothing into `folder`."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        door.main(words)
    assert sorted(folder.rglob("*")) == before
    return str(caught.value)


def test_what_is_wrong_is_told_before_anything_is_written(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model / name, tmp_path / "bare")
    given = {"--model": str(model), "--data": str(data), "--tasks": "CoLA", "--output_dir": str(tmp_path / "out")}
    cases = [
        ({"--tasks": "COLAA"}, "unknown task 'COLAA' (did you mean 'CoLA'?)"),
        ({"--tasks": "SST-2"}, "no folder 'SST-2'"),
        ({"--model": str(tmp_path / "bare")}, "holds no tokenizer"),
        ({"--model": str(tmp_path / "none")}, "no folder"),
        ({"--output_dir": str(tmp_path / "file")}, "is a file; choose a folder"),
        ({"--output_dir": str(tmp_path / "file" / "a" / "b")}, f"--output_dir: '{tmp_path}/file' is a file; choose"),
        ({"--output_dir": str(tmp_path / ("n" * 300)), "--allow_partial": "True"}, "(File name too long); choose"),
        ({"--output_dir": str(tmp_path / "other")}, "is not empty and holds no GLUE runs"),
        ({"--jobs": "0"}, "--jobs: 0"),
        ({"--seeds": "0"}, "--seeds: 0"),
        ({"--jops": "1"}, "unknown option '--jops' (did you mean '--jobs'?)"),
        ({"--mnli_model": str(model), "--tasks": "RTE", "--allow_partial": "True"}, "was not fine-tuned on a task"),
        ({}, "rows: 45 instead of 8,551"),  # and so on: `--allow_partial` would take them
    ]
    for changes, told in cases:
        words = [word for pair in {**given, **changes}.items() for word in pair]
        assert told in refused(words, tmp_path), changes


def test_what_a_call_that_was_killed_at_its_beginning_leaves_is_no_obstacle(model: Path, data: Path) -> None:
    out = data.parent / "out"
    out.mkdir()
    for name in (".lock", ".plan.json.a1b2c3"):
        (out / name).write_text("")
    plan_of(model, data).write()
    assert (out / "plan.json").is_file()


def test_an_unknown_subcommand_is_named_with_the_nearest(tmp_path: Path) -> None:
    assert "unknown subcommand 'chek-data' (did you mean 'check-data'?); known are run," in refused(
        ["chek-data"], tmp_path
    )


def test_subcommands_get_their_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    got: list[list[str]] = []
    for name, (module, function, _) in door.SUBCOMMANDS.items():
        monkeypatch.setattr(importlib.import_module(module), function, got.append)
        door.main(["--local_rank=1", name, "--a", "b"])
    assert got == [["--a", "b"]] * len(door.SUBCOMMANDS)
    door.main(["--model", "m"])
    door.main(["--help"])
    assert got[-2:] == [["--model", "m"], ["--help"]]
    assert all(f"python -m glue_eval {name}" in capsys.readouterr().out for name in ["submit"])
    monkeypatch.setattr(glue_eval.sweep, "sweep", lambda words: 2)
    with pytest.raises(SystemExit) as left:
        door.main([])
    assert left.value.code == 1


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("tokenizer.json", None, r"no usable tokenizer in '.*' \(there is no tokenizer\.json\); save the model's"),
        ("tokenizer.json", "{}", r"no usable tokenizer in '.*' \(KeyError: 'added_tokens'\); save"),
        ("tokenizer_config.json", "[", r"no usable tokenizer in '.*' \(JSONDecodeError: Expecting value"),
        ("config.json", '"vocab_size": 20', r"its tokenizer has 25 tokens, the model 20 \(vocab_size in config"),
        ("config.json", '"vocab_size": 99',
         r"its weights have other sizes than .* \(\S+word_embeddings\.weight: 25 x 16 instead of 99 x 16\); take both"),
    ],
)  # fmt: skip
def test_a_damaged_model_folder(name: str, text: str | None, told: str, model: Path, data: Path) -> None:
    path = model / name
    kept = path.read_text()
    path.write_text(kept.replace('"vocab_size": 25', text) if text and "vocab" in text else text or "")
    if text is None:
        path.unlink()
    with pytest.raises(UserError, match=f"^--model: .*{told}"):
        check_loads(plan_of(model, data))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"num_hidden_layers": 4},
            r"hold no bert\.encoder\.layer\.2\.\S+ \(nor 31 others\), which its config.json asks",
        ),
        (
            {"num_hidden_layers": 1},
            r"hold \S*encoder\.layer\.1\.\S+ \(and 15 others\), which .* no place for; take both",
        ),
        ({"model_type": "distilbert"}, r"hold no distilbert\.transformer\.\S+ \(nor \d+ others\)"),
        ({"num_hidden_layers": "two"}, "cannot be loaded .*num_hidden_layers"),
        ({"hidden_act": "foo"}, "cannot be loaded .*foo"),
        ({"pad_token_id": 9999}, "cannot be loaded .*Padding_idx"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration(
    changes: dict[str, Any], told: str, model: Path, data: Path
) -> None:
    """Parts of a body without weights would be trained from random numbers, and layers too many left out, silently."""
    tiny_bert(model, num_hidden_layers=2)
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=f"^--model: .*{told}"):
        check_loads(plan_of(model, data))


def test_weights_in_parts_that_are_not_there(model: Path, data: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(UserError, match=r"^--model: .*cannot be loaded \("):
        check_loads(plan_of(model, data))


@pytest.mark.parametrize(
    ("length", "words", "told"),
    [
        (
            64,
            ["--max_length", "65"],
            "--max_length: 65 is more than the 64 tokens that the model reads; give at most 64",
        ),
        (2, [], r"--model: .* reads 2 tokens at most \(model_max_length in tokenizer_config.json, max_position_embed"),
        (-1, [], "--model: .* reads -1 tokens at most"),
        ("long", [], "--model: .*model_max_length 'long' .* is no number"),
    ],
)
def test_lengths_that_the_model_does_not_reach(
    length: int | str, words: list[str], told: str, model: Path, data: Path
) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": length}))
    with pytest.raises(UserError, match=told):
        plan_of(model, data, *words)


def test_two_sweeps_on_one_folder(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is a process's: here only that it is asked for, and that a refusal leaves the plan alone."""

    def refuse(folder: Path, wait_seconds: float) -> Any:
        raise UserError(f"{folder} is being written")

    monkeypatch.setattr(glue_eval.sweep, "folder_lock", refuse)
    words = ["--model", str(model), "--data", str(data), "--tasks", "CoLA", "--allow_partial", "True"]
    assert "out is being written" in refused([*words, "--output_dir", str(tmp_path / "out")], tmp_path)


# ---- ends ----


def leave_result(run: Run, diverged: str = "") -> None:
    task = run.arguments["task"]
    scores = dict.fromkeys(task.score_names, 0.5)
    RunResult(
        task.name, run.arguments["seed"], scores, bool(diverged), 45, 13, 3, 1e-3, "adan", 32,
        key=run.arguments["key"], baseline=dict.fromkeys(task.score_names, 0.4), diverged=diverged,
    ).save(run.folder / "result.json")  # fmt: skip


def test_a_report_tells_of_failed_runs(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(model, data)
    plan.write()
    good, bad = plan.runs
    leave_result(good)
    outcomes = [Outcome(good, "done", seconds=3), Outcome(bad, "failed", "it was too hot")]
    assert glue_eval.sweep.describe(outcomes[0]) == "CoLA seed 1: matthews 0.500 (3 s)"
    leave_result(good, "CoLA seed 1 diverged: its loss")
    assert glue_eval.sweep.describe(outcomes[0]) == "CoLA seed 1: matthews 0.500, diverged (3 s)"
    assert glue_eval.sweep.finish(plan, outcomes) == 1
    told = capsys.readouterr()
    assert "note: CoLA seed 1 diverged: its loss" in told.err
    assert "error: RTE seed 1: it was too hot" in told.err and "1 of 2 runs succeeded" in told.err
    assert "report.html" in told.out and "it was too hot" in (plan.folder / "report.md").read_text()
    assert (plan.folder / "report.json").is_file()


def test_no_report_where_no_run_succeeded(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(model, data)
    plan.write()
    assert glue_eval.sweep.finish(plan, [Outcome(run, "failed", "no") for run in plan.runs]) == 2
    assert "no run succeeded" in capsys.readouterr().err and not (plan.folder / "report.json").exists()


def test_the_beginning_tells_what_is_there(model: Path, data: Path) -> None:
    plan = plan_of(model, data, "--seeds", "2")
    told = glue_eval.sweep.beginning(plan, 1)
    assert told.startswith(f"4 runs, 3 of them there already, on {data}, recipe small-adan, optimizer adan;")


def write_result(folder: Path, advance: Advance, *, task: Any, seed: int, key: str, words: Any, spec: Any) -> None:
    """Stands for a fine-tuning."""
    if seed == 3:
        raise UserError("the third one fails")
    advance(1, 2)
    leave_result(Run("", folder, write_result, {"task": task, "seed": seed, "key": key}))
    advance(2, 2)


def test_ranks_do_the_runs_one_after_the_other(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(model, data, "--seeds", "3", tasks="RTE")
    runs = [dataclasses.replace(run, function=write_result) for run in plan.runs]
    leave_result(runs[1])
    outcomes = glue_eval.sweep.run_together(runs[:2], is_first=True, bar=False)
    assert [outcome.state for outcome in outcomes] == ["done", "kept"]
    assert "[1/2] RTE seed 1: accuracy 0.500" in capsys.readouterr().out
    with pytest.raises(UserError, match="the third one fails"):
        glue_eval.sweep.run_together(runs, is_first=True, bar=True)
    assert json.loads((runs[2].folder / "failed.json").read_text())["error"] == "the third one fails"
