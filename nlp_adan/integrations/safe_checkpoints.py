"""DeepSpeed's checkpoint files written whole and loaded without running what is in them.

DeepSpeed's own engine loads with `weights_only=False`: whoever can change a file of a checkpoint can run code in the
training. The seam is DeepSpeed's: `DeepSpeedEngine.checkpoint_engine`, an object of a `CheckpointEngine`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_safe_globals, get_unsafe_globals_in_checkpoint, safe_globals

from nlp_adan.errors import UserError
from nlp_adan.storage import sync_folder
from nlp_adan.weights import refusal, weights_only_forced

NAME = "SafeCheckpointEngine"
PARTIAL = ".partial"  # ends the name of a file that is being written; no pattern of DeepSpeed's finds it
_REMEDY = "Load a checkpoint of your own; a class of yours is allowed by `torch.serialization.add_safe_globals([...])`"


@functools.cache
def deepspeed_globals() -> tuple[type, ...]:
    """Classes that DeepSpeed's files hold at stages 0 to 3, besides tensors and what Python calls plain.

    All are records of numbers, whose constructors do nothing else: the stage, the range of a parameter in its group's
    flat tensor, and the loss scale, static or dynamic (fp16).
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return ZeroStageEnum, fragment_address, LossScaler, DynamicLossScaler


@functools.cache
def safe_checkpoint_engine() -> type:
    """The class; made when first asked for, because it derives from one of DeepSpeed's."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class SafeCheckpointEngine(CheckpointEngine):
        """Files as torch writes them, one state each: `write_state` and `read_state`."""

        def __init__(self, config_params: Any = None) -> None:
            super().__init__(config_params)
            self.name = NAME

        def create(self, info: Any) -> None:
            """A checkpoint begins: nothing is to be done."""

        def save(self, state_dict: Any, path: str) -> None:
            """Write one file; see `write_state`."""
            write_state(state_dict, path)

        def load(self, path: str, map_location: Any = None) -> Any:
            """Read one file; see `read_state`."""
            return read_state(path, map_location)

        def commit(self, info: Any) -> bool:
            """A checkpoint ends: this rank's files are on the disk already."""
            return True

    return SafeCheckpointEngine


def use_safe_checkpoints(engine: Any) -> None:
    """Let a DeepSpeedEngine save and load its checkpoints safely; call it right after `deepspeed.initialize`.

    Its `save_checkpoint`, `save_16bit_model` and `load_checkpoint` are used as before. Also where DeepSpeed loads past
    its checkpoint engine (ZeRO-3's weights without the optimizer's states, universal checkpoints) nothing but tensors
    and `deepspeed_globals` is loaded. What else a checkpoint is to hold (`client_state`) may be made of numbers, texts,
    lists, dicts and tensors; a class beyond them is allowed by `torch.serialization.add_safe_globals`.

    Raises:
        UserError: another writer is configured, or this version of DeepSpeed has no such seam.
    """
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    present = getattr(engine, "checkpoint_engine", None)
    if isinstance(present, safe_checkpoint_engine()):
        return
    if present is None:
        import deepspeed

        raise UserError(
            f"deepspeed {deepspeed.__version__} has no DeepSpeedEngine.checkpoint_engine, where safe checkpoints go; "
            "install the version of requirements.lock"
        )
    if type(present) is not TorchCheckpointEngine:
        raise UserError(
            f"the DeepSpeed configuration chose {type(present).__name__} to write checkpoints, and safe ones are "
            'written in its place: take "writer" out of "checkpoint", or "datastates_ckpt" out of the configuration'
        )
    engine.checkpoint_engine = safe_checkpoint_engine()(engine._config)
    engine.load_checkpoint = _safely(engine.load_checkpoint)


def write_state(state: Any, path: str | os.PathLike[str]) -> None:
    """`torch.save` so that a reader, or a crash, finds the old file or the new one, and the new one is on the disk.

    Raises:
        UserError: the state holds a class that `read_state` would refuse; nothing is written.
        OSError, RuntimeError: as the file system or torch says; an older file of this name is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _check_loads(temporary, path)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def _check_loads(written: Path, path: Path) -> None:
    """Raise a UserError where `read_state` would refuse a file, by a look at its pickle alone."""
    try:
        with _allowed():
            refused = get_unsafe_globals_in_checkpoint(written)
    except pickle.UnpicklingError as error:
        refused = [str(error)]
    if refused:
        raise UserError(
            f"{path}: not written, because its {', '.join(sorted(refused))} would be refused at loading; save plain "
            "values, or allow the class for saving and loading by `torch.serialization.add_safe_globals([...])`"
        )


def read_state(path: str | os.PathLike[str], map_location: Any = None) -> Any:
    """`torch.load` of tensors, plain values and `deepspeed_globals`; anything else is refused before it acts.

    Raises:
        UserError: the file holds another class or function, is missing, or is damaged.
    """
    try:
        with _allowed():
            return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{os.fspath(path)}: no such file; load a whole checkpoint, or an earlier one") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise refusal(os.fspath(path), error, _REMEDY) from error


def _safely(load_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """`load_checkpoint` of a DeepSpeedEngine, where each torch.load in it is one of `weights_only=True`."""

    @functools.wraps(load_checkpoint)
    def load(load_dir: str, *args: Any, **options: Any) -> Any:
        try:
            with weights_only_forced(), _allowed():
                return load_checkpoint(load_dir, *args, **options)
        except pickle.UnpicklingError as error:  # past the checkpoint engine, which raises a UserError
            raise refusal(load_dir, error, _REMEDY) from error

    return load


@contextlib.contextmanager
def _allowed() -> Iterator[None]:
    present = get_safe_globals()  # whose end would take away what was allowed before, too
    with safe_globals([each for each in deepspeed_globals() if each not in present]):
        yield
