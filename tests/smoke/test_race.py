"""Races of a small LSTM: search, finals, verdict and report; killed and started again; controls."""

from __future__ import annotations

import dataclasses
import json
import pydoc_data.topics
import random
import time
from pathlib import Path
from typing import Any

import pytest

from nlp_adan.race.conduct import Setup, conduct_race
from nlp_adan.race.options import parse_race
from nlp_adan.race.setup import prepare_race, race
from nlp_adan.race.verdict import verdict
from tests.run_sets import fresh_server, results, start, wait_for

pytestmark = pytest.mark.slow

DOOR = "transformer_xl.pretrain:lstm_pretraining"
NUM_KILLS = 4
SMALL = [
    "--recipe", "tiny", "--embedding_size", "16", "--hidden_size", "16", "--num_layers", "1", "--tgt_len", "8",
    "--random_lengths", "false", "--max_vocab", "1000", "--global_batch_size", "4", "--disable_tqdm", "true",
    "--logging_first_step", "true",
]  # fmt: skip
SEARCHED = ["--optim", "adamw,adan", "--budget", "steps:40", "--seeds", "2", "--search_runs", "3",
            "--short_share", "0.5", "--longer_share", "0.6", "--evaluations", "4", "--jobs", "2"]  # fmt: skip
NUM_RUNS = 2 * (3 + 2 + 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the text in the usual parts."""
    folder = tmp_path_factory.mktemp("race")
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    whole = "\n".join(topics)
    for name, begin, end in (("train", 0, 60_000), ("valid", 60_000, 63_000), ("test", 63_000, 64_000)):
        (folder / f"{name}.txt").write_text(whole[begin:end], encoding="utf-8")
    fresh_server(["transformer_xl.pretrain", "nlp_adan.race.run", __name__])
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(folder / "cache"))


def words(folder: Path, name: str, *more: str) -> list[str]:
    return [*SMALL, "--data", str(folder), "--output_dir", str(folder / name), *more]


def command(given: list[str]) -> None:
    race("lstm", DOOR, given)


def prepared(given: list[str]) -> Setup:
    return prepare_race("lstm", DOOR, *parse_race(given))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLP_ADAN_CACHE", str(folder / "cache"))
        command(words(folder, "undisturbed", *SEARCHED))
    return folder / "undisturbed"


def losses(out: Path) -> dict[str, Any]:
    """By the run's folder, which its key names: all that is no time."""
    found = {}
    for path in out.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        steps = [(point["step"], point["loss"]) for point in result["curve"]]
        found[path.parent.name] = (result["loss"], result["steps"], result["settings"], steps)
    return found


def test_a_race_ends_with_a_report(undisturbed: Path) -> None:
    assert len(losses(undisturbed)) == NUM_RUNS
    report = json.loads((undisturbed / "report.json").read_text())
    text = (undisturbed / "report.md").read_text()
    assert report["summary"] in text and "adan" in report["summary"]
    for loss, steps, settings, curve in losses(undisturbed).values():
        assert steps in (20, 24, 40) and settings["weight_decay"] in (0.01, 0.02)
        assert curve[-1] == (steps, loss) and len(curve) == (4 if steps == 40 else 1)
    kept = [path.name for path in (undisturbed / "runs").rglob("*") if path.is_file()]
    assert not [name for name in kept if name.endswith((".safetensors", ".pth", ".bin"))] and "log.jsonl" in kept
    results_ = [json.loads(path.read_text()) for path in undisturbed.glob("runs/*/result.json")]
    size = {name: {each["state_bytes"] for each in results_ if each["entrant"] == name} for name in ("adamw", "adan")}
    (adamw,), (adan,) = size.values()
    assert 1.4 * adamw < adan < 2.1 * adamw  # three or four states against two
    assert all(each["step_seconds"] > 0 and 0 < each["seconds"] < 60 for each in results_)


def test_the_same_seed_gives_all_the_same_data_and_weights(undisturbed: Path) -> None:
    """The batches, and the loss of the first one, which no step has changed yet."""
    batches: dict[tuple[int, int], set[str]] = {}
    starts: dict[int, set[float]] = {}
    for path in undisturbed.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        log = [json.loads(line) for line in (path.parent / "run" / "log.jsonl").read_text().splitlines()]
        assert log[0]["step"] == 1
        starts.setdefault(result["seed"], set()).add(log[0]["loss"])
        hashes = "".join(line["batch_hash"] for line in log)
        batches.setdefault((result["seed"], result["steps"]), set()).add(hashes)
    assert sorted(starts) == [0, 1, 2] and len(set.union(*starts.values())) == 3
    assert sorted(batches) == [(0, 20), (0, 24), (1, 40), (2, 40)]
    assert all(len(found) == 1 for found in starts.values())
    assert all(len(found) == 1 for found in batches.values())


def test_killed_at_random_and_started_again(folder: Path, undisturbed: Path) -> None:
    out, chance = folder / "killed", random.Random(0)
    given = words(folder, "killed", *SEARCHED)
    seen: dict[Path, int] = {}
    for num_done in sorted(chance.choices(range(NUM_RUNS), k=NUM_KILLS)):
        process = start(command, given, folder / "cache")
        wait_for(num_done, out, process)
        time.sleep(chance.random() * 0.5)
        process.kill()
        process.join()
        assert seen.items() <= results(out).items()  # nothing finished is done again
        seen = results(out)
    command(given)
    assert seen.items() <= results(out).items()
    assert losses(out) == losses(undisturbed)
    expected, found = (json.loads((each / "report.json").read_text()) for each in (undisturbed, out))
    assert found["verdict"]["claims"] == expected["verdict"]["claims"]


def test_controls(folder: Path) -> None:
    """AdamW against itself with other seeds, two races of three; and at a hundred times the rate, which loses."""
    given = words(folder, "control", "--optim", "adamw,adamw", "--lr", "1e-2", "--budget", "steps:20",
                  "--seeds", "6", "--evaluations", "2", "--jobs", "2")  # fmt: skip
    whole = conduct_race(prepared(given))
    claims = []
    for begin in range(0, 6, 3):
        seeds = {name: seeds[begin : begin + 3] for name, seeds in whole.seeds.items()}
        finals = {name: runs[begin : begin + 3] for name, runs in whole.finals.items()}
        part = dataclasses.replace(whole, seeds=seeds, finals=finals)
        claims.append(verdict(part).claims["adamw-2"])
    assert claims.count("none") >= 1, claims
    bad = words(folder, "control", "--optim", "adamw,adamw", "--lr", "adamw=1e-2", "adamw-2=1", "--budget",
                "steps:20", "--seeds", "6", "--evaluations", "2", "--jobs", "2")  # fmt: skip
    found = verdict(conduct_race(prepared(bad)))
    assert found.claims == {"adamw-2": "worse"} and "adamw-2" in found.sentence


def test_batch_sizes(folder: Path) -> None:
    given = words(folder, "batches", "--optim", "adamw,adan", "--lr", "3e-3", "--budget", "steps:40", "--seeds", "1",
                  "--batch_sizes", "8", "--evaluations", "2", "--jobs", "2")  # fmt: skip
    command(given)
    report = json.loads((folder / "batches" / "report.json").read_text())
    found = [json.loads(path.read_text()) for path in (folder / "batches").glob("runs/*/result.json")]
    assert {(each["batch_size"], each["steps"]) for each in found} == {(4, 40), (8, 20)}
    assert {each["settings"]["learning_rate"] for each in found if each["batch_size"] == 8} == {3e-3, 4.243e-3, 6e-3}
    assert report["batches"]
