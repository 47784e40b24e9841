"""A user's mistakes at the door: exit code 2, the value and the remedy in one or two lines, nothing written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import glue_eval.__main__
import run_pretrain
from nlp_adan.errors import UserError, exit_on_user_error

Folder = Callable[[Path], Path]
PROSE = "The quick brown fox jumps over the lazy dog and runs back to the river again. " * 40


def text_folder(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def pretrain_error(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the door in this process; what it printed on standard error."""
    monkeypatch.setattr(sys, "argv", ["run_pretrain.py", *words])
    with pytest.raises(SystemExit) as caught:
        run_pretrain.main()
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    lines = [line for line in printed.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "Traceback" not in printed
    return printed[printed.index("error") :]


DATA_CASES: list[tuple[str, dict[str, bytes], str]] = [
    ("missing", {}, r"no/where"),
    ("empty", {}, r"text"),
    ("binary", {"a_txt": PROSE.encode(), "b_txt": b"\x7fELF\x00\x01\x02" * 99}, r"b.txt"),
    ("latin", {"a_txt": PROSE.encode(), "b_txt": (PROSE + "café " + PROSE).encode("latin-1")}, r"b.txt"),
    ("small", {"a_txt": PROSE.encode()}, r"vocab_size"),
]


@pytest.mark.parametrize(("case", "files", "named"), DATA_CASES, ids=[case for case, *_ in DATA_CASES])
def test_bad_text(
    case: str, files: dict[str, bytes], named: str, tmp_path: Path, cache: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = tmp_path / "no" / "where" if case == "missing" else text_folder(tmp_path / "text", **files)
    run = tmp_path / "run"
    words = ["bert", "--recipe", "tiny", "--data", str(data), "--output_dir", str(run)]
    message = pretrain_error(words, capsys, monkeypatch)
    assert named in message and message.strip().count("\n") <= 1
    if case == "latin":
        offset = len((PROSE + "caf").encode())
        assert "0xe9" in message and str(offset) in message and "--encoding" in message
    assert not run.exists()
    assert not list(cache.glob("*")) if cache.exists() else True


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "say first what to pretrain"),
        (["--recipe", "tiny"], "say first what to pretrain"),
        (["brt", "--recipe", "tiny"], "did you mean 'bert'?"),
        (["transformer_xl", "--recipe", "tyni"], "did you mean 'tiny'?"),
        (["lstm"], "--output_dir: name the folder"),
        (["bert", "--recipe", "tyni"], "did you mean 'tiny'?"),
        (["bert", "--outputdir", "x"], "did you mean '--output_dir'?"),
        (["bert", "--output_dir", "never", "--dry_run", "--data", "no/where"], "'no/where': no such file or folder"),
        (["bert", "--output_dir", "never", "--dry_run", "--encoding", "utf9", "--data", "README.md"], "utf9"),
        (["bert", "--output_dir", "never", "--dry_run", "--seed", "-1"], "--seed: -1 is out of range"),
    ],
)
def test_bad_words(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert named in pretrain_error(words, capsys, monkeypatch)


def fake_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta", "hidden_size": 8}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_bad_glue_calls(tmp_path: Path, cache: Path) -> None:
    out = ["--output_dir", str(tmp_path / "out")]
    model = fake_model(tmp_path / "model")
    cases = [
        ([*out], "--model: name the folder"),
        (["--model", str(model)], "--output_dir: name the folder"),
        (["--model", str(tmp_path / "no")], "no folder"),
        (["--model", str(tmp_path)], "holds no finished model"),
        (["--model", str(model)], "holds no tokenizer"),
        (["--model", str(model), "--tasks", "RET"], "did you mean 'RTE'?"),
        (["--model", str(model), "--seeds", "0"], "--seeds: 0"),
        (["--model", str(model), "--sedes", "2"], "did you mean '--seeds'?"),
    ]
    for words, told in cases:
        with pytest.raises(UserError) as caught:
            glue_eval.__main__.main(words if told.startswith("--output_dir") else [*words, *out])
        assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_ranks_leave_the_message_to_rank_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nlp_adan.errors.OTHER_RANKS_WAIT_SECONDS", 0.01)
    left: list[int] = []
    monkeypatch.setattr("os._exit", left.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("a mistake")
    assert left == [2] and capsys.readouterr().err == "error (rank 1): a mistake\n"


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        _ = 1 // 0
