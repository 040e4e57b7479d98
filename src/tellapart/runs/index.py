"""What runs there are in a folder, for a table: read from the files that each has written, without its classifier."""

import json
import operator
import re
import tomllib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.errors import BadSetting, did_you_mean, printable
from tellapart.recipe import flat

_CONDITION = re.compile(r"\s*(?P<name>[\w.]+)\s*(?P<sign>>=|<=|!=|=|>|<)\s*(?P<value>.+?)\s*")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "=": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_HEADLINES = ("accuracy", "macro_f1", "log_loss", "calibration_error")


@dataclass(frozen=True)
class Listed:
    """A run: its folder, when it ended or last went on (seconds since 1970), and what is known of it by name.

    values: `test.accuracy` and other figures, `model`, `epochs`, `seconds`, `data` (the fingerprint of the pictures),
    `combined` (as "vote of 3", for one made of others, which has no epochs and seconds), and the keys of its recipe, as
    `training.learning_rate`. finished: False for one that has not ended.
    """

    directory: Path
    when: float
    finished: bool
    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the run as a JSON object."""
        about = {"directory": str(self.directory), "when": self.when, "finished": self.finished}
        return about | {"values": self.values}


def list_runs(folder: Path) -> list[Listed]:
    """Return the runs in a folder and below it, the newest first; what is damaged in one is left out of its values."""
    found = [_read(path.parent) for path in sorted(folder.rglob("recipe.toml")) if (path.parent / "run.json").is_file()]
    return sorted(found, key=lambda run: -run.when)


def selected(runs: Iterable[Listed], conditions: Iterable[str], order: str | None) -> list[Listed]:
    """Return the runs for which all conditions hold, as `test.accuracy>0.9`, `model=resnet18` or `data=3fa4`.

    order: the name of a value, the highest first; with a minus before it the lowest first. A run without the value does
    not fulfil a condition, and comes last. Raises `BadSetting` for a condition that cannot be read, or a name that is
    no run's.
    """
    kept = list(runs)
    known_names = {name for run in kept for name in run.values}
    for text in conditions:
        match = _CONDITION.fullmatch(text)
        if not match:
            raise BadSetting(
                f"Expected a condition such as 'test.accuracy>0.9' or model=resnet18, found '{printable(text)}': the "
                "shell takes a > that stands in no quotes."
            )
        _check_name(match["name"], known_names)
        kept = [
            run for run in kept if _holds(match["name"], run.values.get(match["name"]), match["sign"], match["value"])
        ]
    if order:
        lowest, name = order.startswith("-"), order.lstrip("-")
        _check_name(name, known_names)
        known = [run for run in kept if isinstance(run.values.get(name), (int, float))]
        rest = [run for run in kept if run not in known]
        kept = sorted(known, key=lambda run: run.values[name], reverse=not lowest) + rest
    return kept


def _check_name(name: str, known: Collection[str]) -> None:
    if known and name not in known:
        likely = f"test.{name}" if f"test.{name}" in known else ""
        advice = f" Did you mean '{likely}'?" if likely else did_you_mean(name, known)
        raise BadSetting(f"No run has a value called '{printable(name)}'.{advice}")


def _holds(name: str, value: Any, sign: str, wanted: str) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return _SIGNS[sign](value, float(wanted))
        except ValueError:
            return sign == "!="
    if value is None or sign not in ("=", "!="):
        return False
    text = str(value)
    same = text.lower() == wanted.lower() or (name == "data" and len(wanted) >= 4 and text.startswith(wanted))
    return same == (sign == "=")


def _read(directory: Path) -> Listed:
    history, metrics = _lines(directory / "history.jsonl"), _document(directory / "metrics.json")
    facts = _document(directory / "report.json").get("facts")
    values = flat(_recipe(directory / "recipe.toml"))
    for part, figures in metrics.items():
        found = {name: figures.get(name) for name in _HEADLINES} if isinstance(figures, dict) else {}
        values |= {f"{part}.{name}": each["value"] for name, each in found.items() if isinstance(each, dict)}
    values |= {"epochs": len(history), "seconds": history[-1].get("seconds") if history else None}
    if combined := _document(directory / "run.json").get("combined"):  # their course is that of the first of them
        values |= {"combined": combined, "epochs": None, "seconds": None}
    values["data"] = facts.get("fingerprint") if isinstance(facts, dict) else None
    newest = max(_changed(directory / name) for name in ("recipe.toml", "history.jsonl", "model.safetensors"))
    return Listed(directory, newest, (directory / "model.safetensors").is_file(), values)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it is not there, or not any more
        return 0.0


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [entry for entry in found if isinstance(entry, dict)]


def _recipe(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
