"""How good a network is on the validation rows, and what counts as better."""

import math

import numpy as np
from numpy.typing import NDArray

from tellapart.metrics import confusion_matrix, precision_recall_f1, row_log_loss
from tellapart.training.checkpointing.state import Score


def judge(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int, monitor: str
) -> tuple[Score, dict[str, float]]:
    """Return the monitored figure with its standard error, and all figures, of probabilities (N, K)."""
    predicted = probabilities.argmax(axis=1)
    f1 = precision_recall_f1(confusion_matrix(predicted, labels, num_classes))[2]
    right, losses = predicted == labels, row_log_loss(probabilities, labels)
    judged = {
        "accuracy": float(right.mean()),
        "macro_f1": float(f1[np.unique(labels)].mean()),
        "log_loss": float(losses.mean()),
    }
    value = -judged["log_loss"] if monitor == "log_loss" else judged[monitor]
    # Two right and two wrong are added (Agresti and Coull 1998), or a faultless score would have no error at all.
    share = (right.sum() + 2) / (len(labels) + 4)
    spread = float(losses.std()) if monitor == "log_loss" else math.sqrt(share * (1 - share))
    return (value, spread / math.sqrt(len(labels))), {f"validation_{name}": v for name, v in judged.items()}
