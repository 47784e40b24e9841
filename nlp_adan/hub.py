"""Names that may stand for a folder or for a model on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from nlp_adan.errors import UserError, nearest

TIMEOUT_SECONDS = 5.0


def check_name(name: str, option: str) -> None:
    """Return if `name` is a folder, or a model that the hub has.

    One short request tells; without it, loading a name that is not there retries for most of a minute offline.

    Raises:
        UserError: neither, or the hub cannot be reached.
    """
    path = Path(name)
    try:
        if path.is_dir():
            return
        siblings = sorted(str(other) for other in path.parent.iterdir() if other.is_dir())
    except OSError:
        siblings = []
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    is_cached = (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()
    missing = f"{option}: there is no folder {name!r}{nearest(name, siblings)}"
    if path.exists():
        raise UserError(f"{option}: {name!r} is a file; name the folder that holds it")
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
        if is_cached:
            return
        raise UserError(f"{missing}, and HF_HUB_OFFLINE=1 keeps the hub from being asked")
    try:
        HfApi().model_info(name, timeout=TIMEOUT_SECONDS)
    except HFValidationError:
        raise UserError(f"{missing}, and a model on the hub is named like organisation/name") from None
    except HfHubHTTPError:
        raise UserError(f"{missing}, and the hub has no model of this name that you may read") from None
    except Exception as error:  # whatever the HTTP library in use raises without a network
        if is_cached:
            return
        raise UserError(f"{missing}, and the hub cannot be reached ({type(error).__name__})") from None
