"""Durations as text."""

import re

from tellapart.errors import RecipeError, printable

_SECONDS = {"s": 1, "m": 60, "h": 3600}  # by unit


def parse_duration(text: str | float) -> float:
    """Return seconds, from a number, or from text with a unit: "90s", "5m" or "1.5h"; raises `RecipeError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text if isinstance(text, str) else f"{text}s")
    if not match:
        raise RecipeError(f"Expected a duration such as 90s, 5m or 1h, found '{printable(str(text))}'.")
    return float(match[1]) * _SECONDS[match[2]]
