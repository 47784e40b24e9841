"""What a run sends to the hub (`--push_to_hub`): the model and its records, and nothing that is the run's own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer import TRAINING_ARGS_NAME

from nlp_adan.errors import UserError
from nlp_adan.training.positions import PositionEngine

# The lock, which ends when this process reads the file (locks.py); checkpoints that are being written, deleted or
# damaged; a pickle.
KEPT = (".*", "damaged-*", TRAINING_ARGS_NAME)


@contextlib.contextmanager
def keeping_the_runs_own() -> Iterator[None]:
    """Within it, an upload of a folder leaves `KEPT` out."""
    whole = HfApi.upload_folder

    @functools.wraps(whole)
    def upload(*args: Any, ignore_patterns: Any = None, **kwargs: Any) -> Any:
        given = [ignore_patterns] if isinstance(ignore_patterns, str) else list(ignore_patterns or ())
        return whole(*args, ignore_patterns=[*given, *KEPT], **kwargs)

    api: Any = HfApi
    api.upload_folder = upload
    try:
        yield
    finally:
        api.upload_folder = whole


class NotSent(UserError):
    """The hub did not take what was trained; it is on the disk."""


class HubEngine(PositionEngine):
    """The engine, with what it sends to the hub."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """See the Trainer. Of a checkpoint that could not be written nothing is sent."""
        if not Path(checkpoint_folder).is_dir():
            return
        with keeping_the_runs_own():
            super()._push_from_checkpoint(checkpoint_folder)
        if self.is_world_process_zero():
            Path(str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """See the Trainer. Raises NotSent where the hub cannot be reached, or refuses."""
        try:
            with keeping_the_runs_own():
                return super().push_to_hub(*args, **kwargs)
        except Exception as error:
            if not _of_the_net(error):
                raise
            folder = self.args.output_dir
            raise NotSent(
                f"--push_to_hub: {folder} holds the trained model, but the hub did not take it ({_told(error)}); "
                f"`hf upload {self.hub_model_id} {folder}` sends it"
            ) from error

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """See the Trainer. Raises UserError where the hub cannot be reached, or refuses."""
        try:
            super().init_hf_repo(*args, **kwargs)
        except Exception as error:
            if not _of_the_net(error):
                raise
            raise UserError(
                f"--push_to_hub: the hub does not make the repository {self.args.hub_model_id!r} ({_told(error)}); "
                "name one of yours with `--hub_model_id`, or leave the option out"
            ) from error


def _of_the_net(error: Exception) -> bool:
    """Whether the hub's library raised it, or the HTTP library of its version."""
    of_libraries = type(error).__module__.partition(".")[0] in ("huggingface_hub", "httpx", "httpcore", "requests")
    return of_libraries or isinstance(error, (ConnectionError, TimeoutError))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
