"""The predictions of a classifier on the test rows, which the error analysis examines."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.batching import PixelArray
from tellapart.inference.prediction import PredictionBatch


@dataclass(frozen=True)
class TestPredictions:
    """The test rows (N,) of a dataset, their pixels (N, S, S, 3), labels (N,), and the predictions of a classifier."""

    rows: NDArray[np.int64]
    pixels: PixelArray
    labels: NDArray[np.int64]
    predictions: PredictionBatch

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
    def misclassified(self) -> NDArray[np.int64]:
        """The indices (n,) of the test rows whose prediction is wrong."""
        return np.flatnonzero(self.predicted != self.labels)
