"""Two steps of the whole path: text, tokenizer, two ranks under ZeRO-2, a model folder, GLUE scores, a report."""

from __future__ import annotations

import json
import pydoc_data.topics
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

import glue_eval.__main__
from tests.distributed import launching

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
TASKS = "CoLA,STS-B,MNLI"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents: the topics of Python's own documentation."""
    folder = tmp_path_factory.mktemp("text")
    for name, topic in pydoc_data.topics.topics.items():
        (folder / f"{name.replace('/', '_')}.txt").write_text(topic, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pretrain_words(text: Path, run: Path) -> list[str]:
    return [
        "run_pretrain.py", "bert", "--recipe", "tiny", "--optim", "adan", "--deepspeed", "ds_configs/zero2.json",
        "--data", str(text), "--vocab_size", "600", "--max_steps", "2", "--logging_steps", "1", "--save_steps", "1",
        "--output_dir", str(run),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(text: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps on two ranks."""
    folder = tmp_path_factory.mktemp("runs") / "pulse"
    done = launching.deepspeed(*pretrain_words(text, folder), NLP_ADAN_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert "unigram cross-entropy" in done.stdout and "five commonest" in done.stdout
    return folder


def test_the_run_folder(run: Path) -> None:
    assert yaml.safe_load((run / "resolved.yaml").read_text())["max_steps"] == 2
    recorded = json.loads((run / "environment.json").read_text())
    assert recorded["world_size"] == 2 and "git" in recorded
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert {"loss", "grad_norm", "learning_rate", "tokens_per_second", "flops_per_second", "data_wait"} <= set(line)
        assert line["tokens_per_second"] > 0 and 5 < line["loss"] < 8 and line["grad_norm"] > 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["step"] == 2 and metrics["eval_masked_tokens"] > 100
    assert 4 < metrics["eval_unigram_cross_entropy"] < metrics["eval_mlm_loss"] < 8
    assert metrics["trained_tokens"] == 2 * 32 * 64
    assert 1e5 < metrics["trained_flops"] / metrics["trained_tokens"] / 6 < 1e6  # 0.33 M parameters in the layers
    assert "| tokens " in (run / "README.md").read_text() and "Validation loss" in (run / "report.md").read_text()
    assert (run / "report.html").is_file() and len((run / "starts.jsonl").read_text().splitlines()) == 1


def test_the_model_loads_and_fills_a_mask(run: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run)
    fill = pipeline("fill-mask", model=AutoModelForMaskedLM.from_pretrained(run), tokenizer=tokenizer)
    assert len(fill(f"The value of the {tokenizer.mask_token}.")) == 5


TWICE = """
import contextlib, sys
import run_pretrain
for more in ([], ["--resume", "auto"]):
    sys.argv = ["run_pretrain.py", *words, *more]
    with contextlib.suppress(SystemExit) if not more else contextlib.nullcontext():
        run_pretrain.main()
        assert more
"""


def test_a_second_call_is_refused_or_has_nothing_to_do(run: Path, text: Path, cache: Path) -> None:
    words = pretrain_words(text, run)[1:]
    done = launching.run([sys.executable, "-c", f"words = {words}\n{TWICE}"], NLP_ADAN_CACHE=str(cache))
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stderr
    assert done.stderr.startswith("error: ") and "finished run with the same settings" in done.stderr
    assert "Traceback" not in done.stderr


def test_glue_and_its_report(run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(cache))
    folder = run / "glue"
    words = [
        "--model", str(run), "--data", "sample", "--tasks", TASKS, "--optim", "adan", "--seeds", "1", "--jobs", "2",
        "--max_steps", "2", "--output_dir", str(folder),
    ]  # fmt: skip
    glue_eval.__main__.main(words)
    report = (folder / "report.md").read_text()
    for task in TASKS.split(","):
        assert any(line.startswith(f"| {task} ") for line in report.splitlines())
    assert "sample tasks, not GLUE" in report and (folder / "report.html").is_file()
    assert "sample tasks, not GLUE" in json.dumps(json.loads((folder / "report.json").read_text()))

    (folder / "report.json").unlink()  # as if it had been killed after the last run
    results = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed-1-*/result.json")}
    glue_eval.__main__.main([*words, "--resume", "auto"])
    assert len(results) == 3 and all(path.stat().st_mtime_ns == time for path, time in results.items())
    assert (folder / "report.json").is_file()
