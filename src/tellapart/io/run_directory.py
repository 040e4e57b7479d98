"""`RunDirectory`: the files in the directory of a run. No other module knows their names."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLASSIFIER = "model.safetensors"
_RECIPE = "recipe.toml"
_INFO = "run.json"


@dataclass(frozen=True)
class RunDirectory:
    """The paths of the files of a run; the files need not exist."""

    path: Path

    @property
    def classifier(self) -> Path:
        """The classifier file, which is written last."""
        return self.path / CLASSIFIER

    @property
    def recipe(self) -> Path:
        """The resolved recipe (TOML)."""
        return self.path / _RECIPE

    @property
    def info(self) -> Path:
        """The identity of the run and the versions of packages (JSON)."""
        return self.path / _INFO

    @property
    def split(self) -> Path:
        """The images of each split (CSV)."""
        return self.path / "split.csv"

    @property
    def excluded(self) -> Path:
        """The excluded images, with the reasons (CSV)."""
        return self.path / "excluded.csv"

    @property
    def history(self) -> Path:
        """The training metrics, one JSON object per epoch."""
        return self.path / "history.jsonl"

    @property
    def metrics(self) -> Path:
        """The metrics of each split (JSON)."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """The report (HTML)."""
        return self.path / "report.html"

    @property
    def report_json(self) -> Path:
        """The content of the report (JSON)."""
        return self.path / "report.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoint"

    @property
    def onnx(self) -> Path:
        """The exported classifier, where `tellapart export` writes it by default."""
        return self.path / "model.onnx"

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete: its classifier file exists."""
        return self.classifier.is_file()

    def read_identity(self) -> str | None:
        """Return the identity of the run; None if its file is missing or damaged."""
        try:
            return str(json.loads(self.info.read_text(encoding="utf-8"))["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def find_runs(folder: Path) -> Iterator[RunDirectory]:
    """Yield the runs in a folder, at any depth."""
    for path in sorted(folder.rglob(_RECIPE)):
        run = RunDirectory(path.parent)
        if run.info.is_file():
            yield run
