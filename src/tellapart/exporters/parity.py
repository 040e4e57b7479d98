"""The gate: an exported file is handed over only if it answers as the original does, in the runtime that will run it.

Letters: N pictures, K classes, E ways into a file, such as a picture of any size or one already resized.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.data.batching import BATCH, blocks
from tellapart.data.image import Picture
from tellapart.data.threads import map_in_order
from tellapart.errors import CannotExport, printable
from tellapart.exporters.image_sets import Shown
from tellapart.metrics import Estimate, wilson
from tellapart.progress import Progress

TOLERANCE = 1e-3  # of a probability, in float32
_LISTED = 5

Probabilities = NDArray[np.float32]
Answer = Callable[[Picture], Probabilities]  # a decoded picture (H, W, 3) -> probabilities by each way in (E, K)


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


def agreement(
    classifier: Classifier,
    answer: Answer,
    classes: Sequence[str],
    checked: Shown,
    progress: Progress,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Return how an exported file answers.

    answer: a decoded picture (H, W, 3) -> probabilities (E, K), by each way into the file, in its own runtime. classes:
    those of the file, in its order. tolerance: of a probability.
    """
    count = len(checked.rows)
    originals, exported = [], []
    with progress.bar("Comparing with the original", count) as advance:
        for block in blocks(count, BATCH):
            pictures = list(map_in_order(checked.picture, range(block.start, block.stop)))
            originals.append(classifier.probabilities(pictures))
            exported += [answer(picture) for picture in pictures]
            advance(len(pictures), "")
    return compared(np.concatenate(originals), np.array(exported), classifier.classes, classes, checked, tolerance)


def compared(
    originals: Probabilities,
    exported: Probabilities,
    classes: Sequence[str],
    their_classes: Sequence[str],
    checked: Shown,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Return the agreement of probabilities (N, K) and (N, E, K), whose classes are matched by name."""
    if exported.shape[2:] != originals.shape[1:] or set(classes) != set(their_classes):
        raise CannotExport("The exported file tells other classes than the original: it is not written.")
    theirs = exported[:, :, [list(their_classes).index(name) for name in classes]]
    differences = np.nan_to_num(np.abs(theirs - originals[:, None]), nan=np.inf)  # N E K
    apart, best, their_best = differences.max(axis=(1, 2)), originals.argmax(axis=1), theirs.argmax(axis=2)
    same = (their_best == best[:, None]).all(axis=1)
    wrong = np.flatnonzero((apart > tolerance) | ~same)
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
