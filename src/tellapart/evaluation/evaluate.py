"""The figures of one part of the data, as they stand in `metrics.json`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics import (
    accuracy,
    averaged,
    confusion_matrix,
    log_loss,
    precision_recall_f1,
    top_k_accuracy,
    wilson,
)


def evaluate(probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return headline figures with 95 % intervals, the figures of each class, and the confusion matrix.

    probabilities: (N, K). labels: (N,). A class without a picture has support 0 and figures of 0.
    """
    count = len(classes)
    matrix = confusion_matrix(probabilities.argmax(axis=1), labels, count)
    figures: dict[str, Any] = {"pictures": len(labels), "accuracy": accuracy(probabilities, labels).to_json()}
    if count > 5:
        figures["top5_accuracy"] = top_k_accuracy(probabilities, labels, 5).to_json()
    figures |= {name: e.to_json() for name, e in averaged(matrix).items()}
    figures["log_loss"] = log_loss(probabilities, labels).to_json()
    figures["classes"] = _by_class(matrix, classes)
    figures["confusion_matrix"] = matrix.tolist()
    return figures


def _by_class(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, Any]:
    precision, recall, f1 = precision_recall_f1(matrix)
    return {
        name: {
            "pictures": int(matrix[k].sum()),
            "precision": wilson(int(matrix[k, k]), int(matrix[:, k].sum())).to_json() | {"value": float(precision[k])},
            "recall": wilson(int(matrix[k, k]), int(matrix[k].sum())).to_json() | {"value": float(recall[k])},
            "f1": float(f1[k]),
        }
        for k, name in enumerate(classes)
    }
