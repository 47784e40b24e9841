"""Files of `torch.save` from elsewhere: nothing but data is loaded, and what torch refuses of them is told in words."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Iterator

from nlp_adan.errors import UserError

# torch's own words for "every torch.load is weights_only=True" and for the opposite, which excludes the first.
_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_DETAIL = re.compile(r"WeightsUnpickler error:\s*(.{1,100})")
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")


def refused_object(error: Exception) -> str | None:
    """The class or function that torch would not load, such as `posix.system`; None where it was something else."""
    found = _REFUSED.search(str(error))
    return found[1] if found else None


def refusal(what: str, error: Exception, remedy: str) -> UserError:
    """The error of files that torch did not load.

    what: names them, with the option or the folder. remedy: a sentence.
    """
    if (found := refused_object(error)) is not None:
        return UserError(f"{what}: holds {found}, which is no data and could run code; it was not loaded. {remedy}")
    if isinstance(error, pickle.UnpicklingError):  # its message advises to load without care
        detail = _DETAIL.search(str(error))
        reason = f"it is no file of tensors and plain values: {detail[1] if detail else 'not as torch writes them'}"
    else:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{what}: cannot be loaded ({reason}). {remedy}")


@contextlib.contextmanager
def weights_only_forced() -> Iterator[None]:
    """Within it every `torch.load` is one of `weights_only=True`, also where a library asks for the opposite."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCE, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def only_data(what: str, remedy: str) -> Iterator[None]:
    """Let torch load data only, whoever asks for it, and tell of a file that it refused, as `refusal` does."""
    try:
        with weights_only_forced():
            yield
    except pickle.UnpicklingError as error:
        raise refusal(what, error, remedy) from error


@contextlib.contextmanager
def only_weights(name_or_path: str, option: str) -> Iterator[None]:
    """Tell of a model's pytorch_model.bin that holds more than weights."""
    with only_data(f"{option}: {name_or_path!r}, pytorch_model.bin", "Name a folder with a model.safetensors"):
        yield
