"""Files of `torch.save` from elsewhere: what torch refuses of them with `weights_only=True`, in words."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator

from nlp_adan.errors import UserError

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
def only_data(what: str, remedy: str) -> Iterator[None]:
    """Tell, as `refusal` does, of a file that torch refused inside, whoever loaded it."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise refusal(what, error, remedy) from error


@contextlib.contextmanager
def only_weights(name_or_path: str, option: str) -> Iterator[None]:
    """Tell of a model's pytorch_model.bin that holds more than weights."""
    with only_data(f"{option}: {name_or_path!r}, pytorch_model.bin", "Name a folder with a model.safetensors"):
        yield
