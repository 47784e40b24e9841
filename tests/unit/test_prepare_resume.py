"""A preparation that was killed, starved or given mended text goes on, to the same files."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from bert import making, packing
from bert.journal import Journal
from bert.making import prepare, unfinished_folder
from bert.packing import PartWriter
from bert.prepared import open_prepared
from bert.tokenizer import train_tokenizer
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.corpora.encoding import EncoderPool
from nlp_adan.errors import UserError
from tests.corpora import contents, make_documents, write_texts

SHARD_BYTES = 2000  # 31 blocks of 32 tokens


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr("bert.build.BATCH_CHARS", 700)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # what a power cut would need takes most of the time


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(make_documents(100), 300)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


@pytest.fixture(scope="module")
def expected(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    files = contents(run(write_texts(folder / "texts"), tokenizer, folder / "data").folder)
    assert sum(file.endswith(".bin") for file in files) > 20
    return files


def run(texts: Path, tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> Any:
    return prepare(
        open_corpus(str(texts), one_document_per_file=False),
        tokenizer,
        32,
        0.2,
        folder,
        shard_bytes=SHARD_BYTES,
        **options,
    )


def killed(work: Callable[[], object]) -> None:
    """Do it in a forked process that must die by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it came to its end"


def kill_at(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, after: bool) -> None:
    """Let the process be killed at a call of a function, before or after it does its work."""
    original = getattr(owner, name)
    count = 0

    def replacement(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    patch.setattr(owner, name, replacement)


MOMENTS = [
    (PartWriter, "add", 1, True),
    (PartWriter, "add", 101, True),
    (packing._ShardFile, "publish", 3, True),
    (packing.os, "replace", 2, True),
    (packing.os, "replace", 9, False),
    (Journal, "add", 1, True),
    (Journal, "add", 12, False),
    (Journal, "add", 12, True),
    (Journal, "finish", 1, False),
    (Journal, "finish", 1, True),
    (making, "write_manifest", 1, True),
    (making.Path, "rename", 1, True),
]


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"), MOMENTS, ids=lambda value: getattr(value, "__name__", None)
)
def test_killed_and_gone_on(
    owner: Any, name: str, call: int, after: bool, texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    expected: dict[str, bytes],
) -> None:  # fmt: skip
    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, owner, name, call, after)
            run(texts, tokenizer, tmp_path / "data")

    killed(work)
    assert contents(run(texts, tokenizer, tmp_path / "data").folder) == expected
    assert not unfinished_folder(tmp_path / "data").exists()


def test_killed_again_and_again(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Each start gets two shards further, and does not make again what is finished."""

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, Journal, "add", 3, after=False)
            run(texts, tokenizer, tmp_path / "data")

    for start in range(1, 6):
        killed(work)
        journal = Journal.read(unfinished_folder(tmp_path / "data"))
        assert journal is not None and len(journal.entries) == 2 * start
    assert contents(run(texts, tokenizer, tmp_path / "data").folder) == expected


def test_a_kill_from_outside(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    original = PartWriter.add

    def slow_add(self: PartWriter, *args: Any) -> None:
        time.sleep(0.005)
        original(self, *args)

    for wait in (0.3, 0.6):
        child = os.fork()
        if child == 0:
            try:
                PartWriter.add = slow_add  # type: ignore[method-assign, assignment]
                run(texts, tokenizer, tmp_path / "data")
            finally:
                os._exit(0)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert contents(run(texts, tokenizer, tmp_path / "data").folder) == expected


def test_a_full_disk(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """A limit on the size of a file stands for it: the journal grows beyond it after some shards."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    tokenizer_bytes = len(expected["tokenizer/tokenizer.json"])
    assert tokenizer_bytes < len(expected["journal.jsonl"]) - 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(tokenizer_bytes, len(expected["journal.jsonl"]) // 2), limit[1]))
    try:
        with pytest.raises(
            UserError, match=r"no space left on .*GB of shards are finished; all of it needs about"
        ) as raised:
            run(texts, tokenizer, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "goes on" in str(raised.value)
    journal = Journal.read(unfinished_folder(tmp_path / "data"))
    assert journal is not None and len(journal.entries) > 5
    assert contents(run(texts, tokenizer, tmp_path / "data").folder) == expected


def test_a_mended_source_keeps_the_shards_before_it(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = texts / "part2.jsonl"
    records = [f'{{"text": "{text}"}}' for text in make_documents(60, seed=9)]
    # Its first record changes too: a shard that ended inside of it is none of "before".
    other = '{"text": "A beginning that the mended file does not have, long enough for several blocks. %s"}' % (
        "x " * 900
    )
    bad.write_text("\n".join([other, *records[1:30], "{", *records[31:]]))
    with pytest.raises(UserError, match=r"part2\.jsonl, line 31 is not JSON"):
        run(texts, tokenizer, tmp_path / "data")
    kept = Journal.read(unfinished_folder(tmp_path / "data"))
    assert kept is not None and {entry.next.position[0] for entry in kept.entries} >= {0, 1, 2}
    bad.write_text("\n".join(records))
    found = run(texts, tokenizer, tmp_path / "data")
    before = sum(entry.next.position[0] < 2 for entry in kept.entries)
    assert f"part2.jsonl changed); {before} finished shards" in capsys.readouterr().out and before > 5
    assert contents(found.folder) == contents(run(texts, tokenizer, tmp_path / "undisturbed").folder)


def test_a_failure_in_the_cache_keeps_the_finished_shards(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed, a stream that breaks: the next start has the same key and goes on."""
    corpus = open_corpus(str(texts), one_document_per_file=False)
    with pytest.MonkeyPatch.context() as patch:
        encode, calls = EncoderPool.encode, 0

        def breaking(self: EncoderPool, batches: Any) -> Any:
            nonlocal calls
            for found in encode(self, batches):
                calls += 1
                if calls == 4:
                    raise UserError("a process that tokenizes ended")
                yield found

        patch.setattr("bert.build.BATCH_CHARS", 10_000)
        patch.setattr(EncoderPool, "encode", breaking)
        with pytest.raises(UserError, match="a process that tokenizes ended"):
            prepare(corpus, tokenizer, 32, 0.2, shard_bytes=SHARD_BYTES)
    (partial,) = (tmp_path / "cache").glob(".prepared-*.unfinished")
    kept = Journal.read(partial)
    assert kept is not None and kept.entries
    found = prepare(open_corpus(str(texts), one_document_per_file=False), tokenizer, 32, 0.2, shard_bytes=SHARD_BYTES)
    assert contents(found.folder) == contents(run(texts, tokenizer, tmp_path / "undisturbed").folder)
    assert not partial.exists()


def test_an_unfinished_preparation_from_other_options(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, Journal, "add", 3, after=True)
            run(texts, tokenizer, tmp_path / "data")

    killed(work)
    with pytest.raises(UserError, match=r"\.data\.unfinished holds an unfinished .*different: split_seed\)"):
        run(texts, tokenizer, tmp_path / "data", seed=1)
    other = train_tokenizer(make_documents(100), 299)
    with pytest.raises(UserError, match=r"different: tokenizer\)"):
        run(texts, other, tmp_path / "data")
    (texts / "part3.txt").write_text("other words. " * 400)
    # A tokenizer that was trained on the corpus differs with it: then nothing of before is of use.
    found = run(texts, other, tmp_path / "data")
    assert contents(found.folder) == contents(run(texts, other, tmp_path / "undisturbed").folder)


def test_two_at_once_make_it_once(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    made: list[None] = []
    original = making._make

    def slow_make(*args: Any) -> None:
        time.sleep(0.3)
        made.append(original(*args))

    monkeypatch.setattr(making, "_make", slow_make)
    threads = [threading.Thread(target=run, args=(texts, tokenizer, tmp_path / "data")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(open_prepared(tmp_path / "data").train) > 100
    assert "another process prepares" in capsys.readouterr().out
