"""Pickles planted in checkpoints and in prepared data: see test_malicious_pickles.py."""

from __future__ import annotations

import contextlib
import json
import pydoc_data.topics
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert import pretrain
from bert.prepared import open_prepared
from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint import commands
from tests.distributed import launching
from tests.unit.checkpoint_folders import Small, make_checkpoint, train
from tests.unit.malicious_files import CONTENTS, make_manifest_agree, numpy_file, pickled, plant, torch_file
from transformer_xl.stream import PreparedStream


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that only planted code makes."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "planted code ran"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the text, the cache and a run of two steps, a checkpoint after each."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").mkdir()
    for name in sorted(pydoc_data.topics.topics)[:12]:
        (folder / "text" / f"{name}.txt").write_text(pydoc_data.topics.topics[name][:1500], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLP_ADAN_CACHE", str(folder / "cache"))
        pretrain.main(words(folder, folder / "run"))
        yield folder


def words(folder: Path, run: Path) -> list[str]:
    return [
        "--recipe", "tiny", "--data", str(folder / "text"), "--vocab_size", "500", "--valid_fraction", "0.3",
        "--max_steps", "2", "--save_steps", "1", "--hidden_size", "32", "--intermediate_size", "32",
        "--global_batch_size", "4", "--output_dir", str(run),
    ]  # fmt: skip


def test_counts_of_prepared_data(trained: Path, tmp_path: Path, marker: Path) -> None:
    (manifest,) = (trained / "cache").rglob("manifest.json")
    folder = shutil.copytree(manifest.parent, tmp_path / "prepared")
    counts = folder / "train_counts.npy"
    for planted in (numpy_file(marker), pickled(marker), torch_file(marker)):
        counts.write_bytes(planted)
        make_manifest_agree(folder)
        with pytest.raises(UserError, match=r"train_counts\.npy holds no counts of tokens"):
            _ = open_prepared(folder).unigram_counts
        with pytest.raises(UserError, match=r"train_counts\.npy holds no counts of tokens"):
            _ = PreparedStream(folder, {}).train_counts
    shutil.copy(manifest.parent / counts.name, counts)
    changed = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**changed, "dtype": "O"}))  # pointers, if NumPy believed it
    make_manifest_agree(folder)
    with pytest.raises(UserError, match=r"manifest\.json is damaged .*dtype 'O'"):
        open_prepared(folder)


REFUSED = r"--resume: .*checkpoint-\d: (holds io\.open, which is no data|cannot be loaded)"


def planted_run(trained: Path, folder: Path, content: bytes, marker: Path, only: str = "") -> Path:
    """The run as if killed after its last step, each checkpoint with planted files, or with one of this name."""
    run = shutil.copytree(trained / "run", folder / "run")
    (run / "metrics.json").unlink()
    for checkpoint in run.glob("checkpoint-*"):
        if only:
            assert (checkpoint / only).is_file()
            (checkpoint / only).write_bytes(content)
            make_manifest_agree(checkpoint)
        else:
            assert "scheduler.pt" in plant(checkpoint, content, marker)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "only", "resume"),
    [("torch.save", "", "auto"), ("pickle 2", "", "checkpoint-1"), ("torch.save", "rng_state.pth", "checkpoint-1")],
)
def test_a_runs_checkpoints(kind: str, only: str, resume: str, trained: Path, tmp_path: Path, marker: Path) -> None:
    run = planted_run(trained, tmp_path, CONTENTS[kind](marker), marker, only)
    # Into a new folder, where a checkpoint is named; the run's own goes on.
    given = words(trained, run) if resume == "auto" else words(trained, tmp_path / "new")
    with pytest.raises(UserError, match=REFUSED):
        pretrain.main([*given, "--resume", resume if resume == "auto" else str(run / resume)])


@pytest.mark.slow
@pytest.mark.distributed
def test_a_runs_checkpoints_under_deepspeed(trained: Path, tmp_path: Path, marker: Path) -> None:
    """Whose own engine would have run it (test_safe_checkpoints.py)."""
    run = planted_run(trained, tmp_path, torch_file(marker), marker)
    given = [*words(trained, run), "--deepspeed", "ds_configs/zero2.json", "--resume", "auto"]
    done = launching.run([sys.executable, "run_pretrain.py", "bert", *given], NLP_ADAN_CACHE=str(trained / "cache"))
    assert done.returncode == 2 and re.search(REFUSED, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("also", ["", "*.safetensors"])
def test_the_checkpoint_commands(also: str, tmp_path: Path, marker: Path) -> None:
    """With tensor files that are none, too: nothing can be made of these."""
    model = Small()
    optimizer = Adan(model.parameters(), lr=1e-2, fused=False)
    train(model, optimizer, range(3))
    checkpoint = make_checkpoint(tmp_path / "run", 3, model, optimizer)
    assert "rng_state_1.pth" in plant(checkpoint, torch_file(marker), marker, also)
    assert commands.main(["verify", str(checkpoint)]) == 0  # whoever planted them made the manifest agree
    given = str(checkpoint), "--output_dir", str(tmp_path / "out")
    refused = pytest.raises(UserError, match=r"\.safetensors") if also else contextlib.nullcontext()
    with refused:
        commands.main(["inspect", str(checkpoint)])
    with refused:
        commands.main(["export", *given])
    assert (tmp_path / "out").exists() == (not also)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with refused:
        commands.main(["reshard", *given, "--world_size", "1", "--stage", "2"])
