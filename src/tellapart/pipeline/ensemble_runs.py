"""`combine(runs) -> Combined`: several runs as one, or one that sees each picture in several ways.

All were trained on the same parts of the same pictures, so that those of validation can tell what is gained by it, and
those of test are new to each. Letters: N validation pictures.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.data.batching import Part
from tellapart.data.pixel_cache import open_pixels
from tellapart.data.split import read_splits
from tellapart.errors import CannotCombine, printable
from tellapart.evaluation.dataset import Judged, open_model
from tellapart.evaluation.provenance import tested_source
from tellapart.metrics import row_log_loss
from tellapart.metrics.paired import PairedDifference, paired_difference
from tellapart.pipeline.ensemble import averaged, ensemble
from tellapart.pipeline.train import conclude, prepare
from tellapart.progress import Event, Progress, progress_for_viewers
from tellapart.recipe import load_recipe
from tellapart.runs.run import Run, open_run, read_run, write_history
from tellapart.training.fit import Fitted, part_of

_VERDICTS = {
    "b": "In accuracy that is surely better.",
    "a": "In accuracy that is surely worse: the best of them alone is the one to take.",
    None: "In accuracy that is not surely better than the best of them alone.",
}
_WAYS = {"vote": "vote", "weights": "mean"}  # what people ask for, and what a list of runs calls it
_TIMED, _REPEATS = 64, 5  # pictures, and how often


@dataclass(frozen=True)
class Seen:
    """A classifier on the validation pictures; seconds: for a picture, here."""

    name: str
    accuracy: float
    log_loss: float
    seconds: float


@dataclass(frozen=True)
class Combined:
    """The run of the combined classifier, and what is gained by it on the validation pictures.

    members: the best first. gain: of the combined one over the best of them.
    """

    run: Run
    members: tuple[Seen, ...]
    whole: Seen
    gain: PairedDifference

    def sentence(self) -> str:
        """Return the result in words."""
        best, gain = self.members[0], self.gain.difference
        return (
            f"On {self.gain.pictures:,} validation pictures: accuracy {self.whole.accuracy:.1%} instead of "
            f"{best.accuracy:.1%}, {100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}); "
            f"log loss {self.whole.log_loss:.3f} instead of {best.log_loss:.3f}; "
            f"{self.whole.seconds / best.seconds:.1f} times the time for a picture. {_VERDICTS[self.gain.better]}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `combine --json` prints."""
        return {
            "directory": str(self.run.directory),
            "members": [vars(member) for member in self.members],
            "combined": vars(self.whole),
            "gain": self.gain.difference.to_json(),
            "test": self.run.metrics["test"],
        }


def combine(
    runs: Sequence[str | Path],
    *,
    by: str = "vote",
    views: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Combined:
    """Make one classifier of several runs, calibrate it, say what it gains on validation pictures, and test it.

    runs: folders of runs on the same parts of the same pictures. by: "vote", the mean of probabilities, or "weights",
    the mean of the weights of one architecture. views: "mirror" and "shifts", how each sees a picture besides as it
    is; with them one run is enough. out: the folder of the combined run, <first run>-combined by default.
    resume: begin again in `out` where it was cut short.

    Raises `CannotCombine` for runs that do not go together, `RunExists`, `CannotCompare` where the pictures are no
    longer at hand, or what `load` raises.
    """
    said = progress or progress_for_viewers()
    if by not in _WAYS:
        raise CannotCombine(f"Runs are combined by {' or by '.join(_WAYS)}, not by '{printable(by)}'.")
    judged = [open_model(run, said) for run in runs]
    members, first = _same_parts(judged)
    found = _combined(members, by, views)
    folder = Path(out) if out is not None else first.parent / f"{first.name}-combined"
    recipe = load_recipe(first / "recipe.toml")
    purpose = "-".join(["", by, *views, *(str(each.facts.get("identity")) for each in members)])
    prepared = prepare(tested_source(judged[0], said), recipe, {}, folder, resume, said, purpose)
    pixels = open_pixels(prepared.found, found.resize, found.resize_key(), found.preprocess.size, said)
    train, validation, _ = (part_of(prepared.found, pixels, rows) for rows in prepared.splits.parts())
    history = read_run(first).history
    if not prepared.finished:
        made_of = ", ".join([f"{_WAYS[by]} of {len(members)}", *views])
        open_run(prepared.directory, prepared.recipe, prepared.identity, prepared.found, prepared.splits, made_of)
        write_history(prepared.directory, history)
        conclude(prepared, Fitted(found, train, validation, history, prepared.found, pixels), said)
    run = read_run(prepared.directory)
    said.report(Event.ENSEMBLE_SCORING, "Measuring on the validation pictures what is gained.")
    whole, right = _seen("combined", run.classifier, validation)
    told = [_seen(each.name, member, validation) for each, member in zip(judged, members, strict=True)]
    told.sort(key=lambda pair: (-pair[0].accuracy, pair[0].log_loss))
    gain = paired_difference(told[0][1], right)
    return Combined(run, tuple(seen for seen, _ in told), whole, gain)


def _combined(members: Sequence[Classifier], by: str, views: Sequence[str]) -> Classifier:
    if by == "vote":
        return ensemble(members, views)
    mean = averaged(members)
    return ensemble([mean], views) if views else mean


def _same_parts(judged: Sequence[Judged]) -> tuple[list[Classifier], Path]:
    """Return the classifiers, and the folder of the first; `CannotCombine` if another has learned of other pictures."""
    if not judged:
        raise CannotCombine("Expected at least one run to combine.")
    members, folders, parts = list[Classifier](), list[Path](), list[dict[str, set[str]]]()
    for each in judged:
        if each.run is None or not isinstance(each.classifier, Classifier):
            raise CannotCombine(
                f"{each.name} is not a run's folder: the combined classifier is calibrated and tested on the pictures "
                "of its runs, so name the folders that `tellapart train` has written."
            )
        members.append(each.classifier)
        folders.append(each.run)
        parts.append(_parts(each.run))
        same_data = each.classifier.facts.get("fingerprint") == judged[0].classifier.facts.get("fingerprint")
        if not same_data or parts[-1] != parts[0]:
            raise CannotCombine(
                f"{judged[0].name} and {each.name} were trained on different parts of their pictures, so what one has "
                "learned would test the other: train both with one split, as by `tellapart train RUN/split.csv`."
            )
    return members, folders[0]


def _parts(run: Path) -> dict[str, set[str]]:
    """Return the pictures of each part of a run: where their files are, or their names."""
    split = read_splits(run / "split.csv")
    files = all((run / name).is_file() for names in split.values() for name in names)
    return {part: {str((run / n).resolve()) if files else n for n in names} for part, names in split.items()}


def _seen(name: str, classifier: Classifier, validation: Part) -> tuple[Seen, NDArray[np.bool_]]:
    """Return how a classifier does on the validation pictures, and which (N,) it gets right."""
    answers = classifier.of_pixels(validation.pixels)
    right = answers.argmax(axis=1) == validation.labels
    some = validation.pixels[slice(0, _TIMED)]
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        classifier.of_pixels(some)
        seconds.append((time.perf_counter() - began) / len(some))
    loss = float(row_log_loss(answers, validation.labels).mean())
    return Seen(name, float(right.mean()), loss, statistics.median(seconds)), right
