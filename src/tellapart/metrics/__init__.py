"""Pure functions on probabilities (N, K) and labels (N,), with 95 % intervals.

figures: what a confusion matrix and single rows say. averages: over the classes of a confusion matrix. ranking: how
well probabilities order the pictures. calibration: whether they mean what they say. intervals: what all of these could
have been with other pictures.
"""

from tellapart.metrics.averages import average_intervals, averages, kappa
from tellapart.metrics.calibration import calibration_error, reliability
from tellapart.metrics.classification import (
    accuracy,
    confusion_matrix,
    f1_intervals,
    precision_recall_f1,
    row_brier,
    row_log_loss,
    top_k_hits,
)
from tellapart.metrics.intervals import Estimate, bootstrap, wilson
from tellapart.metrics.ranking import rankings

__all__ = [
    "Estimate",
    "accuracy",
    "average_intervals",
    "averages",
    "bootstrap",
    "calibration_error",
    "confusion_matrix",
    "f1_intervals",
    "kappa",
    "precision_recall_f1",
    "rankings",
    "reliability",
    "row_brier",
    "row_log_loss",
    "top_k_hits",
    "wilson",
]
