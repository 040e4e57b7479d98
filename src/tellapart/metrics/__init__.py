"""Pure functions on probabilities (N, K) and labels (N,), with 95 % intervals.

figures: what a confusion matrix and single rows say. ranking: how well probabilities order the pictures. calibration:
whether they mean what they say. intervals: what all of these could have been with other pictures.
"""

from tellapart.metrics.calibration import calibration_error, reliability
from tellapart.metrics.figures import (
    accuracy,
    averages,
    confusion_matrix,
    kappa,
    precision_recall_f1,
    row_brier,
    row_log_loss,
    top_k_hits,
)
from tellapart.metrics.intervals import Estimate, bootstrap, interval, matrix_draws, wilson
from tellapart.metrics.ranking import Ranking

__all__ = [
    "Estimate",
    "Ranking",
    "accuracy",
    "averages",
    "bootstrap",
    "calibration_error",
    "confusion_matrix",
    "interval",
    "kappa",
    "matrix_draws",
    "precision_recall_f1",
    "reliability",
    "row_brier",
    "row_log_loss",
    "top_k_hits",
    "wilson",
]
