"""The predictions of a classifier on the test rows, which the error analysis examines."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.batching import PixelArray
from tellapart.inference.prediction import PredictionBatch
from tellapart.metrics import Units


@dataclass(frozen=True)
class TestPredictions:
    """The test rows (N,) of a dataset, their pixels (N, S, S, 3), labels (N,), and the predictions of a classifier.

    groups (N,): the independent unit of each row; None if all rows are independent.
    """

    rows: NDArray[np.int64]
    pixels: PixelArray
    labels: NDArray[np.int64]
    predictions: PredictionBatch
    groups: NDArray[np.int64] | None = None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The probabilities of all classes (N, K)."""
        return self.predictions.probabilities

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each row (N,)."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is correct (N,)."""
        correct: NDArray[np.bool_] = self.predicted == self.labels
        return correct

    @property
    def units(self) -> Units:
        """The independent units of the rows."""
        return Units.of(self.groups, self.correct, self.labels)

    @property
    def misclassified(self) -> NDArray[np.int64]:
        """The indices (n,) of the test rows whose prediction is wrong."""
        return np.flatnonzero(self.predicted != self.labels)
