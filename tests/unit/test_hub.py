"""What a run sends to the hub while it trains, and at its end."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import filter_repo_objects
from transformers.trainer_utils import HubStrategy, SaveStrategy

from nlp_adan.errors import UserError
from nlp_adan.locks import RankLock
from nlp_adan.training.hub import HubEngine, NotSent
from tests.checkpoints import make_checkpoint

REFUSED: Any = SimpleNamespace(headers={}, status_code=403, request=None)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run's folder, as it may be when a push begins; locked."""
    run = tmp_path / "run"
    make_checkpoint(run, 5, files={"config.json": b"{}", "model.safetensors": b"weights"})
    make_checkpoint(run, 4).rename(run / ".removed-checkpoint-4")
    make_checkpoint(run, 3).rename(run / "damaged-checkpoint-3")
    (run / "log.jsonl").write_text("")
    RankLock(run).take_all()
    yield run
    RankLock(run).release()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of each upload, which are read; in the place of a hub that takes them."""
    uploads: list[list[str]] = []

    def upload(self: HfApi, *, folder_path: Any, ignore_patterns: Any = None, **_: Any) -> Any:
        files = {str(path.relative_to(folder_path)): path for path in Path(folder_path).rglob("*") if path.is_file()}
        chosen = sorted(filter_repo_objects(files, ignore_patterns=ignore_patterns))
        uploads.append([name for name in chosen if files[name].read_bytes() is not None])
        return SimpleNamespace(done=lambda: True)

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return uploads


def engine(run: Path, strategy: HubStrategy) -> Any:
    """One that has not been set up."""
    made: Any = object.__new__(HubEngine)
    made.args = SimpleNamespace(
        output_dir=str(run), hub_strategy=strategy, hub_always_push=True, save_strategy=SaveStrategy.STEPS,
        hub_token=None, hub_revision=None, hub_model_id="a/b", should_save=True,
    )  # fmt: skip
    made.state, made.control = SimpleNamespace(global_step=5, epoch=1.0), None
    made.processing_class, made.push_in_progress, made.hub_model_id = None, None, "a/b"
    made.callback_handler = SimpleNamespace(on_push_begin=lambda *_: None)
    made.is_world_process_zero = lambda: True
    made.model, made.save_model, made.create_model_card = None, lambda **_: None, lambda **_: None
    return made


def holds_lock(run: Path) -> bool:
    """Whether another process is refused."""
    pid = os.fork()
    if pid == 0:
        try:
            RankLock(run).take_all()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_the_runs_own_is_not_sent_and_its_lock_is_kept(run: Path, sent: list[list[str]]) -> None:
    """A process that reads a file which it has locked lets go of it."""
    made = engine(run, HubStrategy.ALL_CHECKPOINTS)
    made._push_from_checkpoint(str(run / "checkpoint-5"))
    model = ["config.json", "log.jsonl", "model.safetensors"]
    checkpoint = ["config.json", "manifest.json", "model.safetensors", "trainer_state.json"]
    assert sent == [model, checkpoint]
    made.push_to_hub()
    assert sent[2] == model
    assert not (run / "training_args.bin").exists()
    assert holds_lock(run)
    HfApi().upload_folder(repo_id="a/b", folder_path=run)
    assert ".lock" in sent[3] and not holds_lock(run)  # which is what it is about


def test_of_a_checkpoint_that_was_not_written_nothing_is_sent(run: Path, sent: list[list[str]]) -> None:
    engine(run, HubStrategy.CHECKPOINT)._push_from_checkpoint(str(run / "checkpoint-6"))
    assert sent == []


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), HfHubHTTPError("403 Forbidden\nmore", response=REFUSED)]
)
def test_what_the_hub_does_not_take_is_told_with_where_it_is(
    run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def upload(self: HfApi, **_: Any) -> Any:
        raise error

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    with pytest.raises(NotSent, match=rf"{re.escape(str(run))} holds the trained model.*hf upload a/b ") as caught:
        engine(run, HubStrategy.END).push_to_hub()
    assert type(error).__name__ in str(caught.value) and "\n" not in str(caught.value)


def test_another_error_while_sending_stays_what_it_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def upload(self: HfApi, **_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    with pytest.raises(OSError, match="No space"):
        engine(run, HubStrategy.END).push_to_hub()


def test_a_repository_that_the_hub_does_not_make(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: HfApi, *_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "create_repo", create)
    made = engine(run, HubStrategy.END)
    made.args.hub_private_repo = None
    with pytest.raises(UserError, match=r"--push_to_hub: .*'a/b'.*--hub_model_id"):
        made.init_hf_repo()
