"""Fields of dataclasses that are read from TOML or JSON: the values that a field accepts, and their validation."""

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from tellapart.errors import TellapartError, did_you_mean, printable

_MAX_EXACT = 2**53  # integers below are exact as floats


def number(low: float, high: float, default: Any = MISSING, *words: str) -> Any:
    """Return a field for a number from `low` to `high`, or one of some words."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "choices": words})


def choice(default: str | None, *choices: str) -> Any:
    """Return a field for one of some words."""
    return dataclasses.field(default=default, metadata={"choices": choices})


def check_values(
    kind: type, values: Mapping[str, Any], prefix: str, error: type[TellapartError], required: bool = True
) -> dict[str, Any]:
    """Return validated values for a dataclass: integers as floats and lists as tuples where the fields need them.

    prefix: precedes each key in messages. Raises `error` for an unknown key, a value of another type or out of range,
    or, if `required`, a missing key.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            hint = did_you_mean(str(key), fields)
            raise error(f"{prefix}{printable(str(key))}: unknown key, expected one of {', '.join(fields)}.{hint}")
    for key, field in fields.items():
        if required and field.default is MISSING and field.default_factory is MISSING and key not in values:
            raise error(f"{prefix}{key}: missing, expected {_describe(hints[key], field.metadata)}.")
    return {
        key: _check(f"{prefix}{key}", value, hints[key], fields[key].metadata, error) for key, value in values.items()
    }


def _check(name: str, value: Any, hint: Any, metadata: Mapping[str, Any], error: type[TellapartError]) -> Any:
    kinds = _kinds(hint)
    for kind in kinds:
        if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
            item_hint = typing.get_args(kind)[0]
            return tuple(_check(f"{name}[{k}]", item, item_hint, metadata, error) for k, item in enumerate(value))
    if float in kinds and type(value) is int:
        value = float(value) if abs(value) < _MAX_EXACT else math.inf * (1 if value > 0 else -1)
    if not _is_allowed(value, kinds, metadata):
        suggestion = did_you_mean(str(value), metadata.get("choices", ()))
        raise error(f"{name}: expected {_describe(hint, metadata)}, found {reprlib.repr(value)}.{suggestion}")
    return value


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _is_allowed(value: Any, kinds: tuple[Any, ...], metadata: Mapping[str, Any]) -> bool:
    if type(value) not in [typing.get_origin(kind) or kind for kind in kinds]:
        return False
    if isinstance(value, str):
        return not metadata.get("choices") or value in metadata["choices"]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and "low" in metadata:
        return bool(metadata["low"] <= value <= metadata["high"])  # False for NaN
    return True


def _describe(hint: Any, metadata: Mapping[str, Any]) -> str:
    choices = [f"'{choice}'" for choice in metadata.get("choices", ())]
    words = f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices) or "text"
    limits = f" from {metadata['low']:g} to {metadata['high']:g}" if "low" in metadata else ""
    descriptions = {
        int: f"an integer{limits}",
        float: f"a number{limits}",
        bool: "true or false",
        str: words,
        dict: "a table",
        tuple: "a list",
    }
    kinds = [typing.get_origin(kind) or kind for kind in _kinds(hint)]
    return " or ".join(text for kind, text in descriptions.items() if kind in kinds)
