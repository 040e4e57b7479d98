"""Pictures that an export is checked on, and those that say what numbers a network meets.

Letters: N pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import Audit, audit
from tellapart.data.batching import BATCH, blocks
from tellapart.data.dataset import TRAIN, VALIDATION, Samples
from tellapart.data.image import Picture
from tellapart.data.sources import Source, load_source
from tellapart.data.threads import map_in_order
from tellapart.errors import BadSource, CannotCompare, CannotExport
from tellapart.evaluation.dataset import Judged, open_labelled
from tellapart.evaluation.provenance import tested_source
from tellapart.inference.predictor import Predictor
from tellapart.progress import Progress
from tellapart.randomness import shuffled

_CHECKED, _CALIBRATING = 2000, 256
_ALL = 2**31


@dataclass(frozen=True)
class Shown:
    """Pictures with labels: rows (N,) of samples, and the labels (N,) as classes of the original.

    labels: -1 where the picture shows a class that the original does not tell.
    """

    samples: Samples
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def pixels(self, classifier: Predictor) -> NDArray[np.uint8]:
        """Return the pictures as a classifier takes them, (N, S, S, 3)."""
        return np.concatenate(list(self.batches(classifier)))

    def batches(self, classifier: Predictor) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures as a classifier takes them, (n, S, S, 3), some at a time."""
        for block in blocks(len(self.rows), BATCH):
            places = range(block.start, block.stop)
            yield np.stack(list(map_in_order(lambda n: classifier.resize(self.picture(n)), places)))

    def some(self, most: int) -> "Shown":
        """Return `most` of them at most, from all over the source."""
        places = np.linspace(0, len(self.rows) - 1, min(most, len(self.rows))).round().astype(int)
        return Shown(self.samples, self.rows[places], self.labels[places])

    def picture(self, place: int) -> Picture:
        """Return one of the pictures (H, W, 3)."""
        return self.samples.pictures.picture(int(self.rows[place]))

    def name(self, place: int) -> str:
        """Return the picture's name for people."""
        return self.samples.pictures.name(int(self.rows[place]))


def pictures_to_check(judged: Judged, source: Source | None, progress: Progress) -> Shown:
    """Return up to 2,000 pictures: those of a source, or else the test pictures of the classifier's own run.

    Raises `CannotExport` if neither is at hand, or what `open_labelled` raises.
    """
    if source is None and judged.run is None:
        raise CannotExport(
            f"{judged.name} is not a run's folder, so its test pictures are not known: give some by --check, a folder "
            "of class folders, or any other source, with pictures such as it will see."
        )
    data = open_labelled(tested_source(judged, progress) if source is None else source, [], progress)
    return _some(judged, data.found, data.rows, _CHECKED)


def pictures_to_calibrate(judged: Judged, source: Source | None, progress: Progress) -> tuple[Shown, Shown | None]:
    """Return up to 256 pictures such as the classifier learned from, and those of its run's validation part.

    source: where the first are from; the run's own training part if None. The second are None without a run, or where
    its pictures are no longer at hand.
    Raises `CannotExport` if neither a source nor a run is at hand, or what `load_source` raises.
    """
    run = None
    if judged.run is not None:
        try:
            run = audit(load_source(tested_source(judged, progress), progress), progress)
        except (CannotCompare, BadSource):
            if source is None:
                raise
    if source is not None:
        found = audit(load_source(source, progress), progress)
        rows = found.usable()
    elif run is not None:
        found, rows = run, _part(run, TRAIN)
    else:
        raise CannotExport(
            f"{judged.name} is not a run's folder, so its training pictures are not known: give some by --calibration, "
            "a folder of class folders, or any other source, with pictures such as it will see."
        )
    if not len(rows):
        raise CannotExport(f"{found.samples.title} has no picture to take the ranges of numbers from.")
    validation = _some(judged, run, _part(run, VALIDATION), _ALL) if run else None
    return _some(judged, found, rows, _CALIBRATING), validation


def _part(found: Audit, part: int) -> NDArray[np.int64]:
    rows = found.usable()
    chosen: NDArray[np.int64] = rows[found.samples.preset[rows] == part]
    return chosen


def _some(judged: Judged, found: Audit, rows: NDArray[np.int64], most: int) -> Shown:
    """Return some of the rows, drawn without order."""
    drawn = np.sort(shuffled(0, 0, rows)[:most])
    index = {name: k for k, name in enumerate(judged.classifier.classes)}
    labels = [index.get(found.samples.label_name(int(row)), -1) for row in drawn]
    return Shown(found.samples, drawn, np.array(labels, np.int64))
