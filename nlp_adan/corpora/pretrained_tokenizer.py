"""Any Hugging Face tokenizer, from a folder or the hub: loaded, counted, told apart."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.storage import sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """A tokenizer of a local folder or of the hub, through AutoTokenizer.

    Raises: UserError where there is none.
    """
    from transformers import AutoTokenizer

    path = Path(name_or_path).expanduser()
    is_local = path.is_dir()
    if is_local and not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise UserError(
            f"the folder {name_or_path!r} holds no tokenizer (tokenizer.json): name one saved by transformers"
        )
    if not is_local:
        check_name(name_or_path, "--tokenizer")
    try:
        return AutoTokenizer.from_pretrained(str(path) if is_local else name_or_path, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes of the libraries
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--tokenizer: {name_or_path!r} holds no tokenizer that loads ({reason})") from error


def num_token_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows that a model's embedding needs: the largest id and one, for a vocabulary may have holes."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hexadecimal SHA-256 of all that gives a text its ids. Padding, truncation and maximal length do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state: Any = sorted(chain(tokenizer.get_vocab().items(), tokenizer.get_added_vocab().items()))
    else:
        state = json.loads(backend.to_str())
        state.update(padding=None, truncation=None)
    return sha256_json({"state": state, "special": {name: str(token) for name, token in _special_tokens(tokenizer)}})


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, Any]]:
    return sorted(tokenizer.special_tokens_map.items())
