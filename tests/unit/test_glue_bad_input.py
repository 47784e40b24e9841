"""A mistake on any command line of `python -m glue_eval`, or in a file that it names: told, and nothing is written."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from glue_eval import __main__ as door
from glue_eval.tasks import TASKS
from nlp_adan.errors import UserError
from tests.tiny_glue import tiny_bert, write_glue
from tests.unit.glue_runs import protocol_of, write_sweep
from tests.unit.glue_sweep import SweepFolder

RUN = "--model model --data glue --tasks RTE --allow_partial --output_dir"


def doctor(folder: Path, name: str, file: str, old: str, new: str) -> None:
    """A copy of the GLUE files with one mistake."""
    shutil.copytree(folder / "glue", folder / name)
    text = (folder / name / file).read_text()
    assert old in text
    (folder / name / file).write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, GLUE files and sweeps, good and bad, and what is none of these."""
    folder = tmp_path_factory.mktemp("bad")
    tiny_bert(folder / "model")
    write_glue(folder / "glue", "CoLA", "RTE", "STS-B")
    doctor(folder, "label", "RTE/train.tsv", "\tentailment\n", "\tentailmnt\n")
    doctor(folder, "score", "STS-B/dev.tsv", ".0\n", "7.0\n")
    doctor(folder, "header", "RTE/dev.tsv", "sentence1", "premise")
    doctor(folder, "labelled", "RTE/test.tsv", "sentence2", "sentence2\tlabel")
    shutil.copytree(folder / "model", folder / "bare")
    (folder / "bare" / "tokenizer_config.json").unlink()
    (folder / "file").write_text("")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "report.md").write_text("# Thesis\n")
    (folder / "page").mkdir()
    (folder / "page" / "report.html").write_text("<p>mine")
    (folder / "nested" / "table.tex").mkdir(parents=True)
    (folder / "twice.yaml").write_text("tasks: {RTE: {}, RTE: {}}")
    (folder / "broken.yaml").write_text("tasks: [")
    (folder / "own.yaml").write_text("name: mine\ntrain: no.tsv\n")
    protocol = protocol_of([TASKS["RTE"]], seeds=(1, 2))
    for name in ("sweep", "other", "bad_plan", "bad_result", "bad_predictions"):
        write_sweep(folder / name, protocol, num_dev=20)
    (folder / "bad_plan" / "plan.json").write_text("[]")
    next(folder.glob("bad_result/RTE/*/result.json")).write_text("{}")
    next(folder.glob("bad_predictions/RTE/*/predictions/dev.jsonl")).write_text("{}\n")
    good = SweepFolder(folder / "good")
    good.add("WNLI", 1)
    SweepFolder(folder / "part").add("WNLI", 1, splits={"test": 100})
    SweepFolder(folder / "sample", is_sample=True).add("WNLI", 1)
    door.main(["submit", str(folder / "good")])
    (folder / "mine.json").write_text(json.dumps({"mine": True}))
    (folder / "no.zip").write_text("")
    with zipfile.ZipFile(folder / "good" / "submission.zip") as whole, zipfile.ZipFile(folder / "few.zip", "w") as few:
        for name in whole.namelist()[:-1]:
            few.writestr(name, whole.read(name))
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


CASES = [
    ("--model model", "--output_dir: name the folder"),
    ("--output_dir out", "--model: name the folder"),
    (f"{RUN} out --seeds 0", "--seeds: 0"),
    (f"{RUN} out --jobs 0", "--jobs: 0"),
    (f"{RUN} out --jops 2", "did you mean '--jobs'"),
    (f"{RUN} out word", "unknown argument 'word'"),
    (f"{RUN} out --num_train_epochs inf", "--num_train_epochs: inf"),
    (f"{RUN} out --learning_rate fast", "--learning_rate: invalid float"),
    (f"{RUN} out --tasks RET", "did you mean 'RTE'"),
    (f"{RUN} out --tasks MNLI", "no folder 'MNLI'"),
    (f"{RUN} out --tasks own.yaml", "own.yaml:1: no 'dev'"),
    (f"{RUN} out --data nowhere", "no folder .*nowhere"),
    (f"{RUN} out --data label", "train.tsv:.*'entailmnt'"),
    (f"{RUN} out --data score --tasks STS-B", "dev.tsv:.* is outside STS-B's range"),
    (f"{RUN} out --data header", "dev.tsv:1: the header"),
    (f"{RUN} out --data labelled", "test.tsv:1: a test file that carries labels"),
    (f"{RUN} out --model bare", "holds no tokenizer"),
    (f"{RUN} out --model file", "'file' is a file"),
    (f"{RUN} out --mnli_model nowhere", "--mnli_model: 'nowhere' is no folder"),
    (f"{RUN} out --config twice.yaml", "twice.yaml:1: 'RTE' stands in line 1 already"),
    (f"{RUN} out --config broken.yaml", "broken.yaml:1: not a YAML file"),
    (f"{RUN} out --recipe adam", "--recipe: unknown recipe"),
    (f"{RUN} file", "'file' is a file"),
    (f"{RUN} file/in/it", "'file' is a file"),
    (f"{RUN} thesis", "holds no GLUE runs"),
    (f"{RUN} sweep --max_length 2", "--max_length: 2"),  # a folder that has runs stays as it is, too
    (f"{RUN} out --max_length 100", "--max_length: 100 is more than the 64 tokens"),
    (f"{RUN} out --seeds 50000", "--seeds: 50000"),
    (f"{RUN} out --dry_run --checkpoint bets", "--checkpoint: unknown value"),
    ("check-data --data nowhere", "no folder nowhere"),
    ("check-data --data label --tasks RTE --allow_partial", "1 error in 1 of 3 files"),
    ("check-data --dat glue", "did you mean '--data'"),
    ("report", "required: OUT"),
    ("report nowhere", "no nowhere/plan.json"),
    ("report bad_plan", "bad_plan/plan.json: not a JSON object"),
    ("report bad_result", "result.json: not the result of a run"),
    ("report bad_predictions", "dev.jsonl:1: not a prediction"),
    ("report sweep other", "say where the comparison goes"),
    ("report sweep other --output_dir=", "say where the comparison goes"),
    ("report sweep other --output_dir sweep", "holds the report of one of them"),
    ("report sweep other --output_dir good", "holds the runs and the report of a sweep"),
    ("report sweep other --output_dir thesis", "thesis/report.md' is no report of ours"),
    ("report sweep other --output_dir page", "page/report.html' is no report of ours"),
    ("report sweep other --output_dir nested", "nested/table.tex' is a folder"),
    ("report sweep other --output_dir file", "'file' is a file"),
    ("report sweep other --output_dir file/in/it", "'file' is a file"),
    ("report sweep other --output_dir /proc/none", "cannot write into '/proc/none'"),
    ("report sweep bad_predictions --output_dir out", "dev.jsonl:1: not a prediction"),
    ("submit", "give a sweep's folder"),
    ("submit nowhere", "no nowhere/plan.json"),
    ("submit sample", "sample tasks"),
    ("submit part", "100 predictions, but WNLI/test.tsv has 146"),
    ("submit good --seed 9", "WNLI has no result with seed 9"),
    ("submit good --output mine.tar", "is not a file that ends in .zip"),
    ("submit good --output mine.zip", "mine.json exists and is no submission's record"),
    ("submit good --output file/mine.zip", "--output: cannot write"),
    ("submit good --data glue", "no folder 'WNLI'"),
    ("submit --check no.zip", "no.zip: 1 problem"),
    ("submit --check few.zip", "few.zip: 1 problem"),
    ("submit --check few.zip --output mine.zip", "--check takes no other option"),
    ("list --foo", "unknown option '--foo'"),
    ("lits", r"unknown subcommand 'lits' \(did you mean 'list'"),
]


def test_every_mistake_is_told_and_nothing_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    for words, told in CASES:
        with pytest.raises(UserError, match=told) as caught:
            door.main(words.split())
        assert str(caught.value).count("\n") <= 5, words
        assert snapshot(folder) == before, words
