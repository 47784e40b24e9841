"""A stream prepared into a folder, and as `--data`: what the user says beside it of its text has to be true."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import transformer_xl.__main__
from nlp_adan.errors import EXIT_CODE, UserError
from transformer_xl.data_options import StreamOptions
from transformer_xl.dry_run import plan_of_run
from transformer_xl.options import Options, parse_options
from transformer_xl.prepare import prepare_stream
from transformer_xl.prepare_command import PrepareOptions
from transformer_xl.pretrain import StreamPretraining
from transformer_xl.stream import PreparedStream, open_stream

# As the text was prepared, and another value of each option.
PREPARED: dict[str, Any] = {
    "lower_case": True, "max_vocab": 20, "min_count": 2, "encoding": "cp1252", "text_column": "body",
    "valid_fraction": 0.2, "test_fraction": 0.3,
}  # fmt: skip
OTHERS = {
    "lower_case": "False", "max_vocab": "5000", "min_count": "3", "encoding": "latin-1", "text_column": "text",
    "valid_fraction": "0.1", "test_fraction": "0.1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def stream(tmp_path: Path) -> PreparedStream:
    records = "".join(json.dumps({"body": f"The word{n % 30} ends"}) + "\n" for n in range(300))
    (tmp_path / "text.jsonl").write_text(records, encoding="utf-8")
    return prepare_stream(StreamOptions(data=str(tmp_path / "text.jsonl"), **PREPARED), tmp_path / "stream")


def parse(stream: PreparedStream, *words: str) -> Options:
    return parse_options("lstm", ["--data", str(stream.folder), "--output_dir", "runs/never", *words])


def open_given(stream: PreparedStream, *words: str) -> PreparedStream:
    """By the run, and by its plan."""
    options = parse(stream, *words)
    plan_of_run(options, options.plan)
    return StreamPretraining(options).prepare()


@pytest.mark.parametrize("name", list(OTHERS))
def test_a_value_that_contradicts_the_stream_is_refused(name: str, stream: PreparedStream) -> None:
    value = str(PREPARED[name])
    words = [f"--{name}", OTHERS[name], "--global_batch_size", "4", "--tgt_len", "10"]
    with pytest.raises(UserError, match=rf"--{name} .*: the stream in .* with {value}.*leave it out") as raised:
        open_given(stream, *words)
    assert OTHERS[name] in str(raised.value)
    options = parse(stream, *words)
    with pytest.raises(UserError, match=f"--{name} "):
        plan_of_run(options, options.plan)
    with pytest.raises(UserError, match=f"--{name} "):  # in Python nobody tells what was given
        prepare_stream(StreamOptions(data=str(stream.folder), **{name: getattr(options.data, name)}), given=[name])


def test_what_is_true_of_the_stream_is_taken(stream: PreparedStream) -> None:
    words = [word for name, value in PREPARED.items() for word in (f"--{name}", str(value))]
    small = ["--global_batch_size", "4", "--tgt_len", "10"]
    assert open_given(stream, *small, *words).manifest == stream.manifest
    assert open_given(stream, *small, "--encoding=windows-1252", "--lower-case").manifest == stream.manifest
    assert prepare_stream(StreamOptions(data=str(stream.folder), **PREPARED)).manifest == stream.manifest


def test_a_recipes_values_are_not_the_users(stream: PreparedStream) -> None:
    """That of the tiny recipe has 10,000 words and other shares."""
    small = ["--global_batch_size", "4", "--tgt_len", "10"]
    assert open_given(stream, "--recipe", "tiny", *small).manifest == stream.manifest


def test_in_python_what_differs_from_its_default_is_given(stream: PreparedStream) -> None:
    with pytest.raises(UserError, match=r"--max_vocab 5000: the stream in .* with 20"):
        prepare_stream(StreamOptions(data=str(stream.folder), max_vocab=5000))
    assert prepare_stream(StreamOptions(data=str(stream.folder))).manifest == stream.manifest


def test_an_option_that_had_no_say(stream: PreparedStream, tmp_path: Path) -> None:
    """A text with parts of its own is not cut, and JSON has no other encoding to be read in."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        (folder / f"{part}.txt").write_text("a b\n" * 40)
    parted = prepare_stream(StreamOptions(data=str(folder)), tmp_path / "parted")
    others: dict[str, Any] = {"valid_fraction": 0.1, "text_column": "body"}
    for name, value in others.items():
        with pytest.raises(UserError, match=rf"--{name} {value}: the stream in .* needed none.*leave it out"):
            prepare_stream(StreamOptions(data=str(parted.folder), **{name: value}))
    assert prepare_stream(StreamOptions(data=str(parted.folder)), given=["valid_fraction"]).folder == parted.folder


def run_prepare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What `python -m transformer_xl prepare WORDS` prints."""
    monkeypatch.setattr("sys.argv", ["transformer_xl", "prepare", *words])
    transformer_xl.__main__.main()
    return capsys.readouterr().out


def test_the_command_prepares_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every option: the same stream as those options make, and where it is said to be."""
    records = "".join(json.dumps({"body": f"The word{n % 30} ends"}) + "\n" for n in range(300))
    (tmp_path / "text.jsonl").write_text(records, encoding="utf-8")
    words = [word for name, value in PREPARED.items() for word in (f"--{name}", str(value))]
    given = ["--data", str(tmp_path / "text.jsonl"), *words]
    told = run_prepare(capsys, monkeypatch, *given, "--output_dir", str(tmp_path / "own"))
    made = open_stream(tmp_path / "own")
    counts = f"{len(made.train):,} train, {len(made.valid):,} valid, {len(made.test):,} test tokens of 20 kinds, "
    assert re.fullmatch(rf"{counts}[\d.]+ MB/s \(\d+ s\), in {tmp_path / 'own'}\n", told)
    expected = prepare_stream(StreamOptions(data=str(tmp_path / "text.jsonl"), **PREPARED))
    assert made.manifest == expected.manifest and expected.folder != made.folder
    assert "MB/s" not in run_prepare(capsys, monkeypatch, *given, "--output_dir", str(tmp_path / "own"))  # made before
    assert str(expected.folder) in run_prepare(capsys, monkeypatch, *given)  # without a folder: where training finds it
    assert {field.name for field in dataclasses.fields(PrepareOptions)} == {
        *(field.name for field in dataclasses.fields(StreamOptions)), "output_dir"
    }  # fmt: skip


def test_what_the_command_refuses(
    stream: PreparedStream, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = str(tmp_path / "text.jsonl")
    cases = {
        ("--data", str(stream.folder)): "is prepared already: train on it",
        ("--data", text, "--output_dir", str(tmp_path)): "holds no prepared stream: name a new folder",
        ("--data", text, "--output_dir", str(stream.folder)): "different: .*max_vocab",
        ("--data", text, "--max_vocb", "5"): "did you mean '--max_vocab'",
        ("--data", text, "--text_column", "body", "--max_vocab", "1"): "--max_vocab 1: choose 2 or more",
        ("--data", str(tmp_path / "none.txt")): "no such file",
    }
    for words, told in cases.items():
        with pytest.raises(SystemExit) as left:
            run_prepare(capsys, monkeypatch, *words)
        assert left.value.code == EXIT_CODE and re.search(told, capsys.readouterr().err), words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "stream", "text.jsonl"]
