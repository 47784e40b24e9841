"""Are the members of a dataclass that was read from JSON what its annotations say?"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

SHOWN_CHARACTERS = 60


def check_members(instance: Any) -> None:
    """Raise a ValueError that names the first member of another type; JSON's lists stand for tuples, too."""
    for name, hint in typing.get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        if not fits(value, hint):
            shown = repr(value)
            raise ValueError(
                f"{name} is {shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + '...'}"
            )


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an annotation names: plain ones, unions, lists, tuples and mappings."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inside)
    if origin is typing.Literal:
        return value in inside
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(each, inside[0]) for each in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(each, inside[1]) for each in value.values())
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        fields = typing.get_type_hints(hint)
        return isinstance(value, hint) and all(fits(getattr(value, name), each) for name, each in fields.items())
    return isinstance(value, hint)
