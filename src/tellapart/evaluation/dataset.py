"""New labelled pictures as classifiers see them: which rows are judged, their labels matched by name, their pixels.

Letters: N rows judged, K classes of a classifier.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit, audit
from tellapart.data.dataset import TEST, Samples
from tellapart.data.pixel_cache import Pixels, open_pixels
from tellapart.data.sources import Source, load_source
from tellapart.errors import BadSource, UnknownClass, did_you_mean, listed, printable
from tellapart.inference.load import load
from tellapart.inference.predictor import Predictor
from tellapart.progress import Event, Progress

Model = str | os.PathLike[str] | Predictor


@dataclass(frozen=True)
class Judged:
    """A classifier, how people name it, and the folder of the run that it comes from, if that lies beside it."""

    classifier: Predictor
    name: str
    run: Path | None


def open_model(model: Model, progress: Progress) -> Judged:
    """Return a classifier, or the one in a file, a run's folder or of a published name; raises as `load` does."""
    if isinstance(model, Predictor):
        return Judged(model, printable(str(model.facts.get("title", "the classifier"))), None)
    classifier, path = load(model, progress), Path(model)
    folder = path if path.is_dir() else path.parent
    return Judged(classifier, printable(os.fspath(model)), folder if _is_run_of(folder, classifier) else None)


def _is_run_of(folder: Path, classifier: Predictor) -> bool:
    """Whether a folder is that of the run that made the classifier: a file may have been copied to beside another."""
    try:
        identity = json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(identity == classifier.facts.get("identity")) and (folder / "split.csv").is_file()


@dataclass(frozen=True)
class Labelled:
    """Labelled pictures that were audited, and the rows (N,) of them that classifiers are judged on.

    part: "test" where the source says which pictures are for testing, and only those are judged; else "all".
    """

    found: Audit
    rows: NDArray[np.int64]
    part: str

    @property
    def names(self) -> list[str]:
        """The name of each picture, for people."""
        return [self.found.samples.pictures.name(row) for row in self.rows.tolist()]

    @property
    def label_names(self) -> list[str]:
        """The class that each picture is of."""
        return [self.found.samples.label_name(row) for row in self.rows.tolist()]

    def labels(self, classifier: Predictor) -> NDArray[np.int64]:
        """Return the labels (N,) as indices into the classifier's own classes."""
        index = {name: k for k, name in enumerate(classifier.classes)}
        return np.array([index[name] for name in self.label_names], np.int64)

    def pixels(self, classifier: Predictor, progress: Progress) -> Pixels:
        """Return the pictures as the classifier takes them, (N, S, S, 3), through the cache of resized pictures."""
        size = classifier.preprocess.size
        pixels = open_pixels(self.found, classifier.resize, classifier.resize_key(), size, progress)
        return pixels.rows(self.rows)

    def lacking(self, classifier: Predictor) -> tuple[str, ...]:
        """Return the classes that the classifier tells and no picture shows."""
        shown = set(self.label_names)
        return tuple(name for name in classifier.classes if name not in shown)

    @property
    def unreadable(self) -> int:
        """How many pictures would have been judged and cannot be read."""
        preset = self.found.samples.preset
        return sum(self.part == "all" or preset[row] == TEST for row, _ in self.found.unreadable)

    def excluded(self) -> list[dict[str, str]]:
        """Return every file that was left out, with its reason, as rows of excluded.csv."""
        return [{"path": skipped.name, "reason": skipped.reason} for skipped in self.found.excluded()]


def open_labelled(source: Source, models: Sequence[Judged], progress: Progress) -> Labelled:
    """Read and audit labelled pictures that the classifiers are to be judged on.

    What training would leave out is left out here too: files that cannot be read, and pictures under two labels.
    Raises `UnknownClass` naming a class that one of the classifiers does not tell, before any picture is decoded, and
    `BadSource` if no picture remains.
    """
    samples = load_source(source, progress)
    for model in models:
        _refuse_unknown(samples, model)
    found = audit(samples, progress)
    rows, part = found.usable(), "all"
    if (samples.preset == TEST).any():
        rows, part = rows[samples.preset[rows] == TEST], "test"
        progress.report(
            Event.TEST_SPLIT_FOUND,
            f"{samples.title} says which pictures are for testing: those {len(rows)} are judged.",
        )
    if not len(rows):
        first = found.excluded()[0]
        raise BadSource(
            f"{samples.title} has no picture to judge a classifier on: all are left out, the first of them "
            f"{first.name} ({first.reason})."
        )
    return Labelled(found, rows, part)


def _refuse_unknown(samples: Samples, model: Judged) -> None:
    unknown = [name for name in samples.classes if name not in model.classifier.classes]
    if unknown:
        known = model.classifier.classes
        raise UnknownClass(
            f"{samples.title} has pictures of {listed(unknown)}, which {model.name} does not tell: it knows "
            f"{listed(known)}, and classes are matched by name.{did_you_mean(unknown[0], known)}"
        )
