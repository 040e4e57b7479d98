"""The parity check: an exported file is written only if its predictions equal the original's, in its own runtime.

Letters: N images, K classes, E inputs of a file (an image of any size, a resized image).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.data.batching import BATCH_SIZE, batch_slices
from tellapart.data.image import ImageArray
from tellapart.data.threads import map_in_order
from tellapart.errors import ExportError, printable
from tellapart.exporters.image_sets import ImageSet
from tellapart.metrics import Estimate, Units, proportion
from tellapart.progress import Progress

TOLERANCE = 1e-3  # of a probability, in float32
_LISTED = 5

Probabilities = NDArray[np.float32]
Infer = Callable[[ImageArray], Probabilities]  # a decoded image (H, W, 3) -> probabilities by each input (E, K)


@dataclass(frozen=True)
class Difference:
    """An image on which the predictions differ: the label of each, and the largest difference of a probability."""

    path: str
    original: str
    exported: str
    difference: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return vars(self)


@dataclass(frozen=True, kw_only=True)
class ParityResult:
    """The predictions of an exported file compared with the original's on the same images.

    images: how many. same: share with the same label. largest, mean: of the differences of probabilities. accuracy,
    exported_accuracy: on the images of a class that the classifier has; None without such images. differing: the
    images beyond the tolerance, the worst first.
    """

    images: int
    same: float
    largest: float
    mean: float
    accuracy: Estimate | None
    exported_accuracy: Estimate | None
    differing: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        estimates = {
            name: estimate.to_json() if (estimate := getattr(self, name)) else None
            for name in ("accuracy", "exported_accuracy")
        }
        return vars(self) | estimates | {"differing": [difference.to_json() for difference in self.differing]}


def measure_parity(
    classifier: Classifier,
    infer: Infer,
    classes: Sequence[str],
    images: ImageSet,
    progress: Progress,
    tolerance: float = TOLERANCE,
) -> ParityResult:
    """Return the parity of an exported file.

    infer: a decoded image (H, W, 3) -> probabilities (E, K) by each input of the file, in its own runtime. classes:
    of the file, in its order. tolerance: of a probability.
    """
    count = len(images.rows)
    originals, exported = [], []
    with progress.bar("Parity check", count) as advance:
        for batch in batch_slices(count, BATCH_SIZE):
            decoded = list(map_in_order(images.read, range(batch.start, batch.stop)))
            originals.append(classifier.probabilities(decoded))
            exported += [infer(image) for image in decoded]
            advance(len(decoded), "")
    if set(classes) != set(classifier.classes):
        raise ExportError("The classes of the exported file differ from the original's: it is not written.")
    in_order = np.array(exported)[:, :, [list(classes).index(name) for name in classifier.classes]]
    return compare_probabilities(np.concatenate(originals), in_order, classifier.classes, images, tolerance)


def compare_probabilities(
    originals: Probabilities, exported: Probabilities, classes: Sequence[str], images: ImageSet, tolerance: float
) -> ParityResult:
    """Return the parity of probabilities (N, K) and (N, E, K)."""
    differences = np.nan_to_num(np.abs(exported - originals[:, None]), nan=np.inf)  # N E K
    largest, labels, their_labels = differences.max(axis=(1, 2)), originals.argmax(axis=1), exported.argmax(axis=2)
    same = (their_labels == labels[:, None]).all(axis=1)
    beyond = np.flatnonzero((largest > tolerance) | ~same)
    worst_first = beyond[np.argsort(-largest[beyond], kind="stable")].tolist()
    worst_input = differences.max(axis=2).argmax(axis=1)
    labelled = images.labels >= 0
    return ParityResult(
        images=len(originals),
        same=float(same.mean()),
        largest=float(largest.max()),
        mean=float(differences.mean()),
        accuracy=_accuracy(labels == images.labels, images, labelled),
        exported_accuracy=_accuracy(their_labels[:, 0] == images.labels, images, labelled),
        differing=tuple(
            Difference(images.name(n), classes[labels[n]], classes[their_labels[n, worst_input[n]]], float(largest[n]))
            for n in worst_first
        ),
    )


def check_parity(parity: ParityResult, out: Path) -> None:
    """Raise `ExportError` unless the predictions are equal; the message names the images that differ most."""
    if not parity.differing:
        return
    worst = ", ".join(map(_describe, parity.differing[:_LISTED]))
    raise ExportError(
        f"The exported file failed the parity check on {len(parity.differing)} of {parity.images} images (another "
        f"label, or a probability that differs by more than {TOLERANCE}), so {printable(str(out))} is not written; "
        f"the largest differences: {worst}."
    )


def _describe(difference: Difference) -> str:
    original, exported = printable(difference.original), printable(difference.exported)
    return f"{difference.path} ({original}, exported {exported}, difference {difference.difference:.4f})"


def _accuracy(correct: NDArray[np.bool_], images: ImageSet, labelled: NDArray[np.bool_]) -> Estimate | None:
    """Return the accuracy on the images of a class that the classifier has; None without such images."""
    if not labelled.any():
        return None
    groups = None if images.groups is None else images.groups[labelled]
    return proportion(correct[labelled], Units.of(groups, correct[labelled]))
