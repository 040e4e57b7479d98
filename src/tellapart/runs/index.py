"""The runs in a folder, as a table: read from their files, without loading classifiers."""

import json
import operator
import re
import tomllib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.errors import OptionError, did_you_mean, printable
from tellapart.io.run_directory import RunDirectory, find_runs
from tellapart.recipe.recipe import flatten

_CONDITION = re.compile(r"\s*(?P<name>[\w.]+)\s*(?P<operator>>=|<=|!=|=|>|<)\s*(?P<value>.+?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "=": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_HEADLINES = ("accuracy", "macro_f1", "log_loss", "calibration_error")
_MIN_PREFIX = 4  # characters of a fingerprint that identify it


@dataclass(frozen=True)
class RunSummary:
    """A run: its directory, when it was last changed (seconds since 1970), whether it is finished, and its values.

    values, by name: `test.accuracy` and other metrics, `epochs`, `seconds`, `data` (the fingerprint of the images), the
    keys of the recipe such as `optimizer.learning_rate`, and for a run that combines others `ensemble` (as in
    "probabilities of 3"); then `epochs` and `seconds` are None.
    """

    directory: Path
    when: float
    finished: bool
    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the run as a JSON object."""
        return {
            "directory": str(self.directory),
            "when": self.when,
            "finished": self.finished,
            "values": self.values,
        }


def list_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder, at any depth, newest first; values from damaged files are omitted."""
    return sorted(map(_summarize, find_runs(folder)), key=lambda run: -run.when)


def select_runs(runs: Iterable[RunSummary], conditions: Iterable[str], order: str | None) -> list[RunSummary]:
    """Return the runs that meet all conditions, such as `test.accuracy>0.9`, `model.name=resnet18` or `data=3fa4`.

    order: the name of a value, highest first; with a leading minus, lowest first. A run without a value meets no
    condition on it, and is sorted last. Raises `OptionError` for an invalid condition or an unknown name.
    """
    selected = list(runs)
    names = {name for run in selected for name in run.values}
    for text in conditions:
        match = _CONDITION.fullmatch(text)
        if not match:
            raise OptionError(
                f"Invalid condition '{printable(text)}': expected one such as 'test.accuracy>0.9' or "
                "model.name=resnet18. Quote a condition with < or >, since the shell would treat it as a redirection."
            )
        name, symbol, value = match.group("name", "operator", "value")
        _check_name(name, names)
        selected = [run for run in selected if _is_met(name, run.values.get(name), symbol, value)]
    return _sort(selected, order, names) if order else selected


def _sort(runs: list[RunSummary], order: str, names: Collection[str]) -> list[RunSummary]:
    ascending, name = order.startswith("-"), order.lstrip("-")
    _check_name(name, names)
    numeric = [run for run in runs if isinstance(run.values.get(name), (int, float))]
    others = [run for run in runs if run not in numeric]
    return sorted(numeric, key=lambda run: run.values[name], reverse=not ascending) + others


def _check_name(name: str, names: Collection[str]) -> None:
    if names and name not in names:
        qualified = f"test.{name}"
        hint = f" Did you mean '{qualified}'?" if qualified in names else did_you_mean(name, names)
        raise OptionError(f"No run has a value named '{printable(name)}'.{hint}")


def _is_met(name: str, value: Any, symbol: str, expected: str) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return _OPERATORS[symbol](value, float(expected))
        except ValueError:
            return symbol == "!="
    if value is None or symbol not in ("=", "!="):
        return False
    text = str(value)
    is_prefix = name == "data" and len(expected) >= _MIN_PREFIX and text.startswith(expected)
    is_equal = text.lower() == expected.lower() or is_prefix
    return is_equal == (symbol == "=")


def _summarize(run: RunDirectory) -> RunSummary:
    history, report = _read_lines(run.history), _read_document(run.report_json)
    values = flatten(_read_toml(run.recipe)) | _headlines(_read_document(run.metrics))
    last = history[-1] if history else {}
    values |= {"epochs": last.get("epoch", 0), "seconds": last.get("seconds")}
    if ensemble := _read_document(run.info).get("ensemble"):  # its history is that of its first member
        values |= {"ensemble": ensemble, "epochs": None, "seconds": None}
    metadata = report.get("metadata")
    values["data"] = metadata.get("fingerprint") if isinstance(metadata, dict) else None
    newest = max(_modification_time(path) for path in (run.recipe, run.history, run.classifier))
    return RunSummary(run.path, newest, run.is_finished, values)


def _headlines(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the headline metrics by name, such as `test.accuracy`."""
    return {
        f"{split}.{name}": values[name]["value"]
        for split, values in metrics.items()
        if isinstance(values, dict)
        for name in _HEADLINES
        if isinstance(values.get(name), dict)
    }


def _modification_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
