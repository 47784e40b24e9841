"""Every file of a checkpoint, damaged in every way: it is named, and the run goes on from the checkpoint before.

And every file finds a full disk: the save is given up, the training goes on.
"""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.fault_drill_rank import fill_disk
from bert import pretrain
from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.manifest import MANIFEST, Manifest
from nlp_adan.training.resuming import find_checkpoint
from transformer_xl.pretrain import transformer_xl

pytestmark = pytest.mark.slow
COMMON = [
    "--recipe", "tiny", "--max_steps", "12", "--logging_steps", "1", "--save_steps", "4", "--save_total_limit", "9",
    "--load_best_model_at_end", "False", "--global_batch_size", "4", "--dropout", "0.1", "--disable_tqdm", "True",
]  # fmt: skip
OWN = {
    "bert": ["--vocab_size", "500", "--valid_fraction", "0.3", "--hidden_size", "32", "--intermediate_size", "32"],
    "transformer_xl": ["--max_vocab", "400", "--d_model", "32", "--n_layer", "2", "--n_head", "2", "--d_head", "16",
                       "--d_inner", "32", "--cutoffs", "100", "--tgt_len", "16", "--mem_len", "24"],
}  # fmt: skip
TRAIN: dict[str, Callable[[list[str]], None]] = {"bert": pretrain.main, "transformer_xl": transformer_xl}
FILES = {
    MANIFEST, "config.json", "model.safetensors", "trainer_state.json", "scheduler.pt", "rng_state.pth",
    "tokenizer_config.json", "optimizer/optimizer.json", "optimizer/part-00000-of-00001.safetensors",
}  # fmt: skip
ITS_OWN = {"bert": {"tokenizer.json"}, "transformer_xl": {"memory-00000.safetensors"}}
WHAT_IS_SAID = {
    "flipped": "has another content than was written",
    "cut off": r"has [\d,]+ bytes instead of [\d,]+",
    "emptied": r"has 0 bytes instead of [\d,]+",
    "removed": "is missing",
    "added to": r"has [\d,]+ bytes instead of [\d,]+",
}
OF_THE_MANIFEST = r"(is damaged: not a manifest's JSON|is not what was written)"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents for the masked language model, and in it one of three parts for the other."""
    folder = tmp_path_factory.mktemp("text")
    topics = [pydoc_data.topics.topics[name][:1500] for name in sorted(pydoc_data.topics.topics)[:20]]
    whole = "\n".join(topics)
    parts = {"train": whole[:12_000], "valid": whole[12_000:16_000], "test": whole[16_000:20_000]}
    for family, files in (("bert", dict(enumerate(topics))), ("transformer_xl", parts)):
        (folder / family).mkdir()
        for name, content in files.items():
            (folder / family / f"{name}.txt").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path_factory.getbasetemp() / "checkpoint_damage_cache"))


def words(family: str, text: Path, run: Path) -> list[str]:
    return [*COMMON, *OWN[family], "--data", str(text / family), "--output_dir", str(run), "--resume", "auto"]


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's run of twelve steps, with its checkpoints; trained when it is first asked for."""
    runs: dict[str, Path] = {}

    def train(family: str) -> Path:
        if family not in runs:
            run = tmp_path_factory.mktemp("undisturbed") / family
            TRAIN[family](words(family, text, run))
            runs[family] = run
        return runs[family]

    return train


def killed(undisturbed: Path, folder: Path) -> Path:
    """What a kill after the checkpoint of step 8 leaves of a run."""
    return shutil.copytree(
        undisturbed, folder, ignore=lambda path, names: _after_kill(Path(path) == undisturbed, names)
    )


def _after_kill(is_run: bool, names: list[str]) -> list[str]:
    ended = ("metrics.json", "model.safetensors", "checkpoint-12", "report.md", "report.html", ".lock")
    return [name for name in names if is_run and name in ended]


def damages(content: bytes, chance: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """Ways in which a file can be damaged, and its content then; None: it is not there."""
    for place in (0, chance.randrange(len(content)), len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        yield "flipped", bytes(flipped)
    yield "cut off", content[: chance.randrange(1, len(content))]
    yield "emptied", b""
    yield "removed", None
    yield "added to", content + bytes([chance.randrange(256)])


def put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("family", ["bert", "transformer_xl"])
def test_every_file_in_every_way(
    family: str, undisturbed: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, chance = killed(undisturbed(family), tmp_path / "run"), random.Random(0)
    newest, before, aside = run / "checkpoint-8", run / "checkpoint-4", run / "damaged-checkpoint-8"
    names = {path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file()}
    assert names >= FILES | ITS_OWN[family] and names == {*Manifest.read(newest).files, MANIFEST}
    capsys.readouterr()
    for name in sorted(names):
        content = (newest / name).read_bytes()
        for how, damaged in damages(content, chance):
            put(newest / name, damaged)
            assert find_checkpoint(run, "auto", 0) == before, (name, how)
            reason = OF_THE_MANIFEST if name == MANIFEST and how != "removed" else WHAT_IS_SAID[how]
            told = capsys.readouterr().out
            assert re.search(
                rf"passed over {re.escape(str(newest))}: {re.escape(name)} {reason}.*; it is now {aside.name}\n$", told
            ), (name, how, told)
            assert aside.is_dir() and not newest.exists()
            aside.rename(newest)
            put(newest / name, content)
    assert find_checkpoint(run, "auto", 0) == newest and capsys.readouterr().out == ""


def check_equal(run: Path, undisturbed: Path) -> None:
    """The same weights, to the bit, and every step once in the log."""
    assert (run / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    logs = [[json.loads(line) for line in (each / "log.jsonl").read_text().splitlines()] for each in (run, undisturbed)]
    for name in ("step", "loss", "batch_hash"):
        assert [line[name] for line in logs[0]] == [line[name] for line in logs[1]], name


def test_the_run_goes_on_from_the_checkpoint_before(
    text: Path, undisturbed: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = undisturbed("bert")
    run = killed(whole, tmp_path / "run")
    path = run / "checkpoint-8" / "optimizer" / "part-00000-of-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint-8' is damaged: optimizer/part-00000-of-00001.safetensors"):
        pretrain.main([*words("bert", text, run), "--resume", str(run / "checkpoint-8")])
    pretrain.main(words("bert", text, run))
    told = capsys.readouterr().out
    assert f"passed over {run / 'checkpoint-8'}: optimizer/part-00000-of-00001.safetensors has another content" in told
    assert [json.loads(line)["step"] for line in (run / "starts.jsonl").read_text().splitlines()] == [0, 4]
    assert (run / "damaged-checkpoint-8").is_dir() and (run / "checkpoint-8").is_dir()  # written anew
    check_equal(run, whole)


def test_without_a_good_checkpoint_nothing_begins_anew(
    text: Path, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whoever damaged them may bring them back; the logs of the steps that were trained stay."""
    run = killed(undisturbed("bert"), tmp_path / "run")
    (run / "checkpoint-8" / MANIFEST).unlink()
    (run / "checkpoint-4" / "scheduler.pt").write_bytes(b"")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    told = rf"--resume: .*run has no checkpoint that is good: checkpoint-8: {MANIFEST} is missing.*another --output_dir"
    with pytest.raises(UserError, match=told):
        pretrain.main(words("bert", text, run))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_a_full_disk_ends_a_save_and_not_the_run(
    text: Path,
    undisturbed: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python, torch and tokenizers, which write a checkpoint's files, each say it in an error of its own."""
    whole = undisturbed("bert")
    names = ["", *sorted(Manifest.read(whole / "checkpoint-8").files)]  # "": the folder itself
    saves = 11  # that may fail: the last of twelve must not
    for begin in range(0, len(names), saves):
        run, tried = tmp_path / f"run-{begin}", names[begin : begin + saves]
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", os.mkdir)  # as it was, afterwards
            for step, name in enumerate(tried, 1):
                fill_disk([step], name)
            pretrain.main([*words("bert", text, run), "--save_steps", "1", "--save_total_limit", "99"])
        told = capsys.readouterr().out
        for step, name in enumerate(tried, 1):
            assert f"the checkpoint of step {step} could not be written: " in told, name
        steps = {int(path.name.split("-")[1]) for path in run.glob("checkpoint-*")}
        assert steps == set(range(len(tried) + 1, 13)) and find_checkpoint(run, "auto", 0) == run / "checkpoint-12"
        assert not list(run.glob(".checkpoint*"))
        check_equal(run, whole)
