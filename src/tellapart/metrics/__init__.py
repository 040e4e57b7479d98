"""Metrics of probabilities (N, K) and labels (N,), with 95% confidence intervals. All functions are pure.

classification: metrics of a confusion matrix and of single rows. averages: averages over the classes of a confusion
matrix. ranking: ROC area and average precision. calibration: reliability and calibration error. intervals: confidence
intervals and the bootstrap. paired: the comparison of two classifiers.
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
from tellapart.metrics.intervals import (
    Estimate,
    bootstrap,
    percentile_interval,
    percentile_intervals,
    resample_weights,
    wilson_interval,
)
from tellapart.metrics.ranking import make_ranking_metrics

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
    "make_ranking_metrics",
    "percentile_interval",
    "percentile_intervals",
    "precision_recall_f1",
    "reliability",
    "resample_weights",
    "row_brier",
    "row_log_loss",
    "top_k_hits",
    "wilson_interval",
]
