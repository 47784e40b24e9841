"""What the parts of a checkpoint are made with, around the libraries that write them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import modeling_utils

from nlp_adan.training.agreement import largest_over_ranks
from nlp_adan.training.checkpoint.run_checkpoints import discard
from nlp_adan.training.checkpoint.tensor_files import TensorFile


@contextlib.contextmanager
def deferred_weights(folder: Path, files: list[TensorFile]) -> Iterator[None]:
    """Within it, `save_pretrained` leaves the weights to the writer: `files` gets what it would have written."""

    def defer(tensors: Mapping[str, Tensor], path: str, metadata: Mapping[str, str] | None = None) -> None:
        files.append(TensorFile(Path(path).relative_to(folder).as_posix(), dict(tensors), dict(metadata or {})))

    # transformers offers no other way to have names and sharding without the file; a test holds that it is there.
    module: Any = modeling_utils
    writes = module.safe_save_file
    module.safe_save_file = defer
    try:
        yield
    finally:
        module.safe_save_file = writes


@contextlib.contextmanager
def whole_parameters(model: Any) -> Iterator[None]:
    """Within it, parameters that ZeRO-3 has divided are whole on every rank; rank 0's are kept."""
    divided = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not divided:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(divided, modifier_rank=0):
        yield


def is_of_the_disk(error: Exception) -> bool:
    """Whether an error is what a disk without room, or a folder without permission, makes of a library's write.

    safetensors, tokenizers and torch.save have errors of their own.
    """
    torchs = isinstance(error, RuntimeError) and (
        "PytorchStreamWriter" in str(error) or "inline_container" in str(error)
    )
    return isinstance(error, (OSError, SafetensorError)) or type(error) is Exception or torchs


def reason_of(error: Exception, partial: Path) -> str:
    """Why a rank could not write its files."""
    if isinstance(error, OSError):
        return f"{error.filename or partial}: {error.strerror}"
    return f"{partial}: {type(error).__name__}: {error}"


def make_folder(partial: Path, rank: int) -> str | None:
    """Make the folder of a checkpoint, empty; why this rank cannot write into it. Every rank has to call it."""
    error = None
    if rank == 0:
        try:
            discard(partial)  # of an attempt before
            partial.mkdir(parents=True)
        except OSError as caught:
            error = f"{partial}: {caught.strerror}"
    failed = largest_over_ranks(float(error is not None))[0]
    if not failed and not partial.is_dir():
        return f"{partial} is not there for rank {rank}: all ranks have to share the file system of --output_dir"
    return error


def torch_bytes(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()
