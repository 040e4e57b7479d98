"""Metrics of probabilities (N, K) and labels (N,), with 95% confidence intervals. All functions are pure.

units: which rows are independent. intervals: confidence intervals. classification: metrics of a confusion matrix and of
single rows. averages: averages over the classes of a confusion matrix. losses: log loss and Brier score. ranking: ROC
area and average precision. calibration: reliability and calibration error. paired: the comparison of two classifiers.
"""

from tellapart.metrics.averages import average_estimates, averages, kappa, macro_f1, macro_f1_error
from tellapart.metrics.calibration import calibration_error, reliability
from tellapart.metrics.classification import (
    class_estimates,
    confusion_matrix,
    precision_recall_f1,
    row_brier,
    row_log_loss,
    top_k_hits,
)
from tellapart.metrics.intervals import Estimate, proportion, wilson_interval
from tellapart.metrics.losses import loss_estimates
from tellapart.metrics.ranking import ranking_estimates
from tellapart.metrics.units import Units

__all__ = [
    "Estimate",
    "Units",
    "average_estimates",
    "averages",
    "calibration_error",
    "class_estimates",
    "confusion_matrix",
    "kappa",
    "loss_estimates",
    "macro_f1",
    "macro_f1_error",
    "precision_recall_f1",
    "proportion",
    "ranking_estimates",
    "reliability",
    "row_brier",
    "row_log_loss",
    "top_k_hits",
    "wilson_interval",
]
