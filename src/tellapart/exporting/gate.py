"""The gate: an exported file is handed over only if it answers as the original does, in the runtime that will run it.

Letters: N pictures, K classes, E ways into a file, such as a picture of any size or one already resized.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier import Classifier
from tellapart.data.decode import Picture
from tellapart.data.loader import BATCH, blocks
from tellapart.data.parallel import map_in_order
from tellapart.data.samples import Samples
from tellapart.data.sources import Source
from tellapart.errors import CannotExport, printable
from tellapart.evaluation.labelled import Judged, open_labelled
from tellapart.evaluation.provenance import tested_source
from tellapart.metrics import Estimate, wilson
from tellapart.progress import Progress
from tellapart.randomness import shuffled

TOLERANCE = 1e-3  # of a probability, in float32
_LIMIT = 2000  # pictures
_LISTED = 5

Probabilities = NDArray[np.float32]
Answer = Callable[[Picture], Probabilities]  # a decoded picture (H, W, 3) -> probabilities by each way in (E, K)


@dataclass(frozen=True)
class Checked:
    """Pictures that an export is checked on: rows (N,) of samples, and the labels (N,) as classes of the original.

    labels: -1 where the picture shows a class that the original does not tell.
    """

    samples: Samples
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def picture(self, place: int) -> Picture:
        """Return one of the pictures (H, W, 3)."""
        return self.samples.pictures.picture(int(self.rows[place]))

    def name(self, place: int) -> str:
        """Return the picture's name for people."""
        return self.samples.pictures.name(int(self.rows[place]))


@dataclass(frozen=True)
class Difference:
    """A picture that the exported file answers otherwise: the most probable class of each, and how far they differ."""

    path: str
    original: str
    exported: str
    difference: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return vars(self)


@dataclass(frozen=True)
class Agreement:
    """How the exported file answers, beside the original, on the same pictures.

    same: share of pictures with the same most probable class. largest, mean: of the differences of probabilities.
    accuracy, exported_accuracy: on the pictures with a class that is known, None if there are none. differing: pictures
    beyond the tolerance, the worst first.
    """

    pictures: int
    same: float
    largest: float
    mean: float
    accuracy: Estimate | None
    exported_accuracy: Estimate | None
    differing: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        estimates = {
            name: figure.to_json() if (figure := getattr(self, name)) else None
            for name in ("accuracy", "exported_accuracy")
        }
        return vars(self) | estimates | {"differing": [each.to_json() for each in self.differing]}


def pictures_to_check(judged: Judged, source: Source | None, progress: Progress) -> Checked:
    """Return up to 2,000 pictures: those of a source, or else the test pictures of the classifier's own run.

    Raises `CannotExport` if neither is at hand, or what `open_labelled` raises.
    """
    if source is None and judged.run is None:
        raise CannotExport(
            f"{judged.name} is not a run's folder, so its test pictures are not known: give some by --check, a folder "
            "with pictures such as it will see."
        )
    data = open_labelled(tested_source(judged, progress) if source is None else source, [], progress)
    rows = np.sort(shuffled(0, 0, data.rows)[:_LIMIT])
    index = {name: k for k, name in enumerate(judged.classifier.classes)}
    labels = [index.get(data.found.samples.label_name(int(row)), -1) for row in rows]
    return Checked(data.found.samples, rows, np.array(labels, np.int64))


def agreement(
    classifier: Classifier, answer: Answer, classes: Sequence[str], checked: Checked, progress: Progress
) -> Agreement:
    """Return how an exported file answers.

    answer: a decoded picture (H, W, 3) -> probabilities (E, K), by each way into the file, in its own runtime. classes:
    those of the file, in its order.
    """
    count = len(checked.rows)
    originals, exported = [], []
    with progress.bar("Comparing with the original", count) as advance:
        for block in blocks(count, BATCH):
            pictures = list(map_in_order(checked.picture, range(block.start, block.stop)))
            originals.append(classifier.probabilities(pictures))
            exported += [answer(picture) for picture in pictures]
            advance(len(pictures), "")
    return compared(np.concatenate(originals), np.array(exported), classifier.classes, classes, checked)


def compared(
    originals: Probabilities,
    exported: Probabilities,
    classes: Sequence[str],
    their_classes: Sequence[str],
    checked: Checked,
) -> Agreement:
    """Return the agreement of probabilities (N, K) and (N, E, K), whose classes are matched by name."""
    if exported.shape[2:] != originals.shape[1:] or set(classes) != set(their_classes):
        raise CannotExport("The exported file tells other classes than the original: it is not written.")
    theirs = exported[:, :, [list(their_classes).index(name) for name in classes]]
    differences = np.nan_to_num(np.abs(theirs - originals[:, None]), nan=np.inf)  # N E K
    apart, best, their_best = differences.max(axis=(1, 2)), originals.argmax(axis=1), theirs.argmax(axis=2)
    same = (their_best == best[:, None]).all(axis=1)
    wrong = np.flatnonzero((apart > TOLERANCE) | ~same)
    worst = wrong[np.argsort(-apart[wrong], kind="stable")].tolist()
    entry = differences.max(axis=2).argmax(axis=1)  # the way in that differs most
    known = checked.labels >= 0
    return Agreement(
        len(originals),
        float(same.mean()),
        float(apart.max()),
        float(differences.mean()),
        _accuracy(best[known], checked.labels[known]),
        _accuracy(their_best[known, 0], checked.labels[known]),
        tuple(
            Difference(checked.name(n), classes[best[n]], classes[their_best[n, entry[n]]], float(apart[n]))
            for n in worst
        ),
    )


def refuse_differing(found: Agreement, out: Path) -> None:
    """Raise `CannotExport` unless the exported file answers as the original does, naming the worst pictures."""
    if not found.differing:
        return
    worst = ", ".join(
        f"{each.path} ({each.original}, exported {each.exported}, {each.difference:.4f} apart)"
        for each in found.differing[:_LISTED]
    )
    raise CannotExport(
        f"The exported file answers otherwise than the original on {len(found.differing)} of {found.pictures} pictures "
        f"(probabilities more than {TOLERANCE} apart, or another class): {printable(str(out))} is not written. The "
        f"worst: {worst}."
    )


def _accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> Estimate | None:
    return wilson(int((predicted == labels).sum()), len(labels)) if len(labels) else None
