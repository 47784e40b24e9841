"""Does a file of weights hold the body that a configuration describes, all of it and no more?

What is missing would be drawn at random and what is too much left out, with a note in the library's log at most: a
model of half its layers fine-tunes without a word, and its scores are not the model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from transformers import PreTrainedModel

POOLER = "pooler"  # between body and head: models pretrained on masked words have none
REMEDY = "take both from one model"


def body_problem(model: PreTrainedModel, told: Mapping[str, Iterable[str]]) -> str:
    """What is wrong, in words; empty where the weights are those of the body.

    model: as loaded, with a head of its own. told: `missing_keys` and `unexpected_keys`, the library's loading info.
    """
    prefix = f"{model.base_model_prefix}."
    missing = sorted(name for name in told["missing_keys"] if name.startswith(prefix) and POOLER not in name)
    if missing:
        return f"its weights hold no {missing[0]}{_more(missing, 'nor')}, which its config.json asks for; {REMEDY}"
    # Weights of a body alone have no prefix. Another task's head may be left, a further layer of the body may not.
    kinds = {_kind(name.removeprefix(prefix)) for name in model.state_dict() if name.startswith(prefix)}
    layers = {kind for kind in kinds if "#" in kind}
    left = sorted(name for name in told["unexpected_keys"] if _kind(name.removeprefix(prefix)) in layers)
    if left:
        return f"its weights hold {left[0]}{_more(left, 'and')}, which its config.json has no place for; {REMEDY}"
    return ""


def _kind(name: str) -> str:
    """`encoder.layer.#.output.dense.bias` for every layer's."""
    return re.sub(r"\.\d+\.", ".#.", name)


def _more(names: list[str], word: str) -> str:
    more = len(names) - 1
    return f" ({word} {more:,} {'other' if more == 1 else 'others'})" if more else ""
