"""All metrics of a split together, as `compute_metrics` returns them."""

import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from simulation import predictions
from tellapart.errors import InputShapeError
from tellapart.evaluation.scoring import baseline_warning, compute_metrics
from tellapart.metrics import wilson_interval

MACRO = ("balanced_accuracy", "kappa", "macro_precision", "macro_recall", "macro_f1")
AVERAGES = (*MACRO, "weighted_precision", "weighted_recall", "weighted_f1")


def evaluate(probabilities, labels, groups=None):
    classes = tuple(f"class {k}" for k in range(probabilities.shape[1]))
    return compute_metrics(probabilities.astype(np.float32), labels, classes, groups)


def expand(matrix):
    """Return probabilities and labels with this confusion matrix."""
    true, predicted = np.indices(matrix.shape).reshape(2, -1)
    times = matrix.ravel()
    return np.eye(len(matrix))[predicted.repeat(times)], true.repeat(times)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(predictions())
def test_averages_equal_scikit_learn_and_are_within_their_intervals(drawn):
    probabilities, labels = drawn
    predicted = probabilities.argmax(axis=1)
    metrics = evaluate(probabilities, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about classes that are predicted but not in the labels
        expected = {"balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted)}
        agreement = oracle.cohen_kappa_score(labels, predicted)
    expected["kappa"] = 0.0 if np.isnan(agreement) else agreement
    for kind in ("macro", "weighted"):
        scores = oracle.precision_recall_fscore_support(labels, predicted, average=kind, zero_division=0)
        expected |= {f"{kind}_{n}": s for n, s in zip(("precision", "recall", "f1"), scores[:3], strict=True)}
    assert {name: metrics[name]["value"] for name in AVERAGES} == pytest.approx(expected)
    for name in AVERAGES:
        if metrics[name]["low"] is not None:
            assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"] <= 1


def test_interval_of_a_perfect_score_on_few_images_is_wide():
    few, many = (evaluate(*expand(np.diag([n, n, n]))) for n in (5, 500))
    for name in AVERAGES:
        assert few[name]["value"] == 1
        assert few[name]["low"] < 0.98
        assert few[name]["low"] < many[name]["low"] < 1


def test_groups_widen_the_intervals():
    random = np.random.default_rng(0)
    groups = np.arange(400) // 20
    labels = random.integers(0, 2, 400)
    hard = random.random(20) < 0.3  # groups with half of the predictions wrong
    correct = np.where(hard[groups], random.random(400) < 0.5, True)
    probabilities = np.where((correct == (labels == 1))[:, None], [0.2, 0.8], [0.8, 0.2])
    independent, grouped = evaluate(probabilities, labels), evaluate(probabilities, labels, groups)
    for name in ("accuracy", "macro_f1", "kappa", "log_loss", "brier"):
        assert grouped[name]["value"] == pytest.approx(independent[name]["value"], abs=0.02)
        width = grouped[name]["high"] - grouped[name]["low"]
        assert width > 1.5 * (independent[name]["high"] - independent[name]["low"]), name


def test_interval_of_a_perfect_score_on_few_groups_is_wide():
    labels = np.arange(100) % 2
    metrics = evaluate(np.eye(2)[labels] * 0.8 + 0.1, labels, np.arange(100) // 10)
    assert metrics["accuracy"]["low"] < wilson_interval(10, 10).low
    assert metrics["units"] == 10


def test_one_group_has_values_but_no_intervals():
    labels = np.arange(100) % 2
    metrics = evaluate(np.eye(2)[labels] * 0.8 + 0.1, labels, np.zeros(100, int))
    for name in ("accuracy", *AVERAGES, "log_loss", "brier", "macro_roc_auc", "calibration_error"):
        assert metrics[name]["value"] is not None
        assert (metrics[name]["low"], metrics[name]["high"]) == (None, None), name
    assert baseline_warning(metrics)


def test_metrics_of_classes_without_images_are_null_in_json():
    metrics = evaluate(np.random.default_rng(0).dirichlet([1, 1, 1], 30), np.arange(30) % 2)
    absent = metrics["classes"]["class 2"]
    assert absent["images"] == 0
    assert absent["roc_auc"] == {"value": None, "low": None, "high": None}
    json.dumps(metrics, allow_nan=False)
    assert metrics["macro_roc_auc"]["low"] is None


def test_labels_of_a_single_class_have_no_ranking_metrics():
    metrics = evaluate(np.random.default_rng(0).dirichlet([1, 1], 20), np.zeros(20, np.int64))
    assert "macro_roc_auc" not in metrics
    json.dumps(metrics, allow_nan=False)


@st.composite
def edge_cases(draw):
    """Draw one row, two or a thousand classes, all correct, all wrong, probabilities of 1, or ties."""
    count, rows = draw(st.sampled_from([2, 3, 7, 1000])), draw(st.sampled_from([1, 2, 5, 40]))
    random = np.random.default_rng(draw(st.integers(0, 100)))
    labels = random.integers(0, draw(st.sampled_from([1, count])), rows)
    shift = draw(st.sampled_from([np.zeros(rows, int), np.ones(rows, int), random.integers(0, 2, rows)]))
    one_hot = np.eye(count, dtype=np.float32)[(labels + shift) % count]
    smoothing = draw(st.sampled_from([0.0, 0.3, 1.0]))
    groups = draw(st.sampled_from([None, np.zeros(rows, int), random.integers(0, 3, rows)]))
    return (1 - smoothing) * one_hot + smoothing / count, labels, groups


@settings(deadline=None, max_examples=12, derandomize=True)
@given(edge_cases())
def test_metrics_are_within_their_ranges_in_edge_cases(drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = evaluate(*drawn)
    json.dumps(metrics, allow_nan=False)
    for name, metric in metrics.items():
        if isinstance(metric, dict) and "low" in metric:
            lowest = -1 if name == "kappa" else 0
            if metric["low"] is None:
                assert metric["high"] is None, name
                continue
            assert lowest <= metric["low"] <= metric["value"] + 1e-9, name
            assert metric["value"] - 1e-9 <= metric["high"] <= (np.inf if name in ("log_loss", "brier") else 1), name
            if name not in ("log_loss", "brier", "calibration_error"):
                assert metric["low"] < metric["high"], name


def test_baseline_warning_names_the_majority_class_and_its_share():
    labels, classes = np.repeat([0, 1], [30, 10]), ("cat", "dog")
    majority = compute_metrics(np.tile(np.float32([0.9, 0.1]), (40, 1)), labels, classes)
    assert "cat" in baseline_warning(majority)
    assert "75.0%" in baseline_warning(majority)
    correct = np.eye(2, dtype=np.float32)[labels]
    assert baseline_warning(compute_metrics(correct, labels, classes)) == ""
    assert baseline_warning(compute_metrics(correct[:30], labels[:30], classes)) == ""  # a single class


def test_probabilities_that_are_not_finite_raise_an_error():
    with pytest.raises(InputShapeError) as error:
        evaluate(np.array([[0.5, 0.5], [np.nan, 1], [0, 1]]), np.zeros(3, np.int64))
    assert error.value.code == "input_shape"
    assert re.findall(r"\d+", str(error.value))[:2] == ["1", "3"]  # images with such probabilities, and all images


@pytest.mark.parametrize("confidence", [0.999, 1.0])
def test_calibration_error_without_wrong_predictions_has_an_upper_bound_above_0(confidence):
    labels = np.arange(60) % 3
    metrics = evaluate(confidence * np.eye(3)[labels] + (1 - confidence) / 3, labels)
    assert metrics["calibration_error"]["low"] == 0
    assert 0.01 < metrics["calibration_error"]["high"] < 0.2
