"""What a run sends to the hub (`--push_to_hub`): the model and its records, and nothing that is the run's own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer import TRAINING_ARGS_NAME

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
        """See the Trainer."""
        with keeping_the_runs_own():
            return super().push_to_hub(*args, **kwargs)
