"""Figures against scikit-learn and SciPy; intervals by what they must do."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from tellapart.errors import WrongInput
from tellapart.evaluation.scoring import evaluate, guessing
from tellapart.metrics import (
    accuracy,
    average_intervals,
    averages,
    bootstrap,
    calibration_error,
    confusion_matrix,
    kappa,
    precision_recall_f1,
    rankings,
    reliability,
    row_brier,
    row_log_loss,
    top_k_hits,
    wilson,
)

MACRO = ("balanced_accuracy", "kappa", "macro_precision", "macro_recall", "macro_f1")
AVERAGES = (*MACRO, "weighted_precision", "weighted_recall", "weighted_f1")


@st.composite
def predictions(draw):
    """Probabilities (N, K) and labels (N,), K from 2 to 6; some classes may be missing."""
    count, rows, seed = draw(st.integers(2, 6)), draw(st.integers(1, 60)), draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    present = random.permutation(count)[: draw(st.integers(1, count))]
    return random.dirichlet(np.full(count, 0.7), rows), random.choice(present, rows)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 100_000), st.floats(0, 1))
def test_wilson_is_scipys(trials, share):
    successes = round(share * trials)
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson(successes, trials)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], atol=1e-9)
    assert found.low <= found.value <= found.high
    assert found.value == successes / trials


def test_wilson_without_trials_knows_nothing():
    assert wilson(0, 0).to_json() == {"value": 0.0, "low": 0.0, "high": 1.0}


def test_wilson_holds_the_true_share_in_95_of_100_cases():
    random = np.random.default_rng(0)
    found = [wilson(int(k), 60) for k in random.binomial(60, 0.8, 4000)]
    assert 0.93 < np.mean([e.low <= 0.8 <= e.high for e in found]) < 0.97


@settings(deadline=None, max_examples=100, derandomize=True)
@given(predictions())
def test_figures_are_scikit_learns(drawn):
    probabilities, labels = drawn
    count = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    every = np.arange(count)
    matrix = confusion_matrix(predicted, labels, count)
    np.testing.assert_array_equal(matrix, oracle.confusion_matrix(labels, predicted, labels=every))
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    np.testing.assert_allclose(precision_recall_f1(matrix), expected[:3])
    assert accuracy(probabilities, labels).value == pytest.approx(oracle.accuracy_score(labels, predicted))
    for k in range(1, count if count > 2 else 1):
        score = oracle.top_k_accuracy_score(labels, probabilities, k=k, labels=every)
        assert top_k_hits(probabilities, labels, k).mean() == pytest.approx(score)
    assert top_k_hits(probabilities, labels, count).all()
    clipped = probabilities.clip(1e-7, 1)
    score = oracle.log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=every)
    assert row_log_loss(probabilities, labels).mean() == pytest.approx(score, abs=1e-5)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(predictions())
def test_averages_are_scikit_learns_within_their_intervals(drawn):
    probabilities, labels = drawn
    predicted = probabilities.argmax(axis=1)
    found = evaluated(probabilities, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes that are predicted and never true
        expected = {"balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted)}
        agreement = oracle.cohen_kappa_score(labels, predicted)
    expected["kappa"] = 0.0 if np.isnan(agreement) else agreement
    for kind in ("macro", "weighted"):
        scores = oracle.precision_recall_fscore_support(labels, predicted, average=kind, zero_division=0)
        expected |= {f"{kind}_{n}": s for n, s in zip(("precision", "recall", "f1"), scores[:3], strict=True)}
    assert {name: found[name]["value"] for name in AVERAGES} == pytest.approx(expected)
    for name in AVERAGES:
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1


@settings(deadline=None, max_examples=60, derandomize=True)
@given(predictions(), st.booleans(), st.integers(0, 100))
def test_rankings_are_scikit_learns_with_ties_and_weights(drawn, coarse, seed):
    probabilities, labels = drawn
    probabilities = probabilities.round(1) if coarse else probabilities
    weights = np.random.default_rng(seed).integers(1, 4, len(labels)).astype(float)
    areas, precisions = (found[0] for found in rankings(probabilities, labels)(weights[None].astype(np.float32)))
    for k in range(probabilities.shape[1]):
        mine, column = labels == k, probabilities[:, k]
        if not mine.any():
            assert np.isnan([areas[k], precisions[k]]).all()
            continue
        assert precisions[k] == pytest.approx(oracle.average_precision_score(mine, column, sample_weight=weights))
        if not mine.all():
            assert areas[k] == pytest.approx(oracle.roc_auc_score(mine, column, sample_weight=weights))


def test_brier_is_scikit_learns():
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet([1, 1, 1], 200), random.integers(0, 3, 200)
    expected = oracle.brier_score_loss(labels, probabilities, labels=[0, 1, 2], scale_by_half=False)
    assert row_brier(probabilities, labels).mean() == pytest.approx(expected)


def test_kappa_is_0_for_answers_by_chance_and_where_there_is_no_choice():
    assert kappa(np.array([[40, 10], [40, 10]])) == pytest.approx(0)
    assert kappa(np.array([[7, 0], [0, 0]])) == 0


def evaluated(probabilities, labels, groups=None):
    classes = tuple(f"class {k}" for k in range(probabilities.shape[1]))
    return evaluate(probabilities.astype(np.float32), labels, classes, groups)


def of_matrix(matrix):
    """Probabilities and labels with this confusion matrix."""
    true, predicted = np.indices(matrix.shape).reshape(2, -1)
    times = matrix.ravel()
    return np.eye(len(matrix))[predicted.repeat(times)], true.repeat(times)


def test_averages_of_a_perfect_score_on_few_pictures_are_not_certain():
    few, many = (evaluated(*of_matrix(np.diag([n, n, n]))) for n in (5, 500))
    for name in AVERAGES:
        assert few[name]["value"] == 1
        assert few[name]["low"] < 0.98
        assert few[name]["low"] < many[name]["low"] < 1


def simulated(pictures, sets, skill):
    """Confusion matrices of test sets of a classifier of ten classes of unequal size, and the expected one."""
    random = np.random.default_rng(5)
    share = np.geomspace(0.2, 0.04, 10)
    wrong = random.dirichlet(np.full(10, 0.5), 10)
    expected = share[:, None] / share.sum() * (skill * np.eye(10) + (1 - skill) * wrong)
    return random.multinomial(pictures, expected.ravel(), sets).reshape(sets, 10, 10), expected


@pytest.mark.parametrize("pictures", [200, 1000])
@pytest.mark.parametrize("skill", [0.6, 0.9])
def test_intervals_of_averages_hold_the_truth_in_95_of_100_cases(pictures, skill):
    drawn, expected = simulated(pictures, 1000, skill)
    truth = averages(expected)
    found = [average_intervals(matrix) for matrix in drawn]
    for name in AVERAGES:
        share = np.mean([each[name].low <= truth[name] <= each[name].high for each in found])
        assert 0.92 < share < 0.98, name


def test_deviation_of_averages_is_that_of_many_drawn_matrices():
    drawn, _ = simulated(5000, 2000, 0.8)
    seen = {name: np.std([averages(matrix)[name] for matrix in drawn]) for name in AVERAGES}
    widths = average_intervals(drawn[0])
    for name in AVERAGES:
        assert (widths[name].high - widths[name].low) / 3.92 == pytest.approx(seen[name], rel=0.1), name


def test_pictures_of_few_groups_say_less_than_as_many_alone():
    random = np.random.default_rng(0)
    groups = np.arange(400) // 20
    labels = random.integers(0, 2, 400)
    hard = random.random(20) < 0.3  # groups in which half of the answers are wrong
    right = np.where(hard[groups], random.random(400) < 0.5, True)
    probabilities = np.where((right == (labels == 1))[:, None], [0.2, 0.8], [0.8, 0.2])
    alone, grouped = evaluated(probabilities, labels), evaluated(probabilities, labels, groups)
    for name in ("accuracy", "macro_f1", "kappa", "log_loss", "brier"):
        assert grouped[name]["value"] == pytest.approx(alone[name]["value"], abs=0.02)
        width = grouped[name]["high"] - grouped[name]["low"]
        assert width > 1.5 * (alone[name]["high"] - alone[name]["low"]), name


def test_a_perfect_score_on_few_groups_is_not_certain():
    labels = np.arange(100) % 2
    found = evaluated(np.eye(2)[labels] * 0.8 + 0.1, labels, np.arange(100) // 10)
    assert found["accuracy"]["low"] == pytest.approx(wilson(10, 10).low)


def test_a_perfect_ranking_on_few_pictures_is_not_certain():
    labels = np.arange(40) % 2
    probabilities = np.eye(2)[labels] * 0.8 + 0.1
    found = evaluated(probabilities, labels)
    assert found["macro_roc_auc"] == {"value": 1.0, "low": pytest.approx(wilson(40, 40).low), "high": 1.0}
    assert found["classes"]["class 1"]["average_precision"]["low"] == pytest.approx(wilson(20, 20).low)
    grouped = evaluated(probabilities, labels, np.arange(40) // 10 * 2 + labels)  # 4 groups of each class
    assert grouped["classes"]["class 0"]["roc_auc"]["low"] == pytest.approx(wilson(4, 4).low)
    assert grouped["macro_roc_auc"]["low"] == pytest.approx(wilson(8, 8).low)


def test_classes_without_pictures_have_figures_that_json_can_hold():
    found = evaluated(np.random.default_rng(0).dirichlet([1, 1, 1], 30), np.arange(30) % 2)
    absent = found["classes"]["class 2"]
    assert absent["pictures"] == 0
    assert absent["roc_auc"] == {"value": None, "low": None, "high": None}
    json.dumps(found, allow_nan=False)
    assert found["macro_roc_auc"]["low"] <= found["macro_roc_auc"]["value"]


def test_one_class_alone_has_no_ranking():
    found = evaluated(np.random.default_rng(0).dirichlet([1, 1], 20), np.zeros(20, np.int64))
    assert "macro_roc_auc" not in found
    json.dumps(found, allow_nan=False)


@st.composite
def extremes(draw):
    """What is at the edge: one row, two classes or a thousand, all right, all wrong, certainty, ties."""
    count, rows = draw(st.sampled_from([2, 3, 7, 1000])), draw(st.sampled_from([1, 2, 5, 40]))
    random = np.random.default_rng(draw(st.integers(0, 100)))
    labels = random.integers(0, draw(st.sampled_from([1, count])), rows)
    answers = (
        labels + draw(st.sampled_from([np.zeros(rows, int), np.ones(rows, int), random.integers(0, 2, rows)]))
    ) % count
    certain = np.eye(count, dtype=np.float32)[answers]
    doubt = draw(st.sampled_from([0.0, 0.3, 1.0]))
    groups = draw(st.sampled_from([None, np.zeros(rows, int), random.integers(0, 3, rows)]))
    return (1 - doubt) * certain + doubt / count, labels, groups


@settings(deadline=None, max_examples=12, derandomize=True)
@given(extremes())
def test_nothing_extreme_gives_nonsense(drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluated(*drawn)
    json.dumps(found, allow_nan=False)
    for name, figure in found.items():
        if isinstance(figure, dict) and "low" in figure:
            least = -1 if name == "kappa" else 0
            assert least <= figure["low"] <= figure["value"] + 1e-9, name
            assert figure["value"] - 1e-9 <= figure["high"] <= (np.inf if name == "log_loss" else 2), name
    assert found["accuracy"]["low"] < found["accuracy"]["high"]
    if drawn[2] is None:
        for name in AVERAGES:
            assert found[name]["low"] < found[name]["high"], name


def test_an_accuracy_that_guessing_reaches_too_is_called_so():
    labels, classes = np.repeat([0, 1], [30, 10]), ("cat", "dog")
    always = evaluate(np.tile(np.float32([0.9, 0.1]), (40, 1)), labels, classes)
    assert guessing(always).startswith("The accuracy is not surely better than that of naming every picture cat, 75.0%")
    right = np.eye(2, dtype=np.float32)[labels]
    assert guessing(evaluate(right, labels, classes)) == ""
    assert guessing(evaluate(right[:30], labels[:30], classes)) == ""  # of one class alone nothing can be said


def test_probabilities_that_are_no_numbers_are_refused():
    with pytest.raises(WrongInput, match="1 of 3 pictures"):
        evaluated(np.array([[0.5, 0.5], [np.nan, 1], [0, 1]]), np.zeros(3, np.int64))


def test_no_mistake_on_few_pictures_is_not_perfect_calibration():
    labels = np.arange(60) % 3
    for certainty in (0.999, 1.0):
        found = evaluated(certainty * np.eye(3)[labels] + (1 - certainty) / 3, labels)["calibration_error"]
        assert found["low"] == 0
        assert 0.01 < found["high"] < 0.2


def confident(rows, seed, promised=1.0, classes=10):
    """Probabilities sharpened by `promised`, and labels that follow the unsharpened ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * 4
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)
    sharp = np.exp(logits * promised)
    return sharp / sharp.sum(axis=1, keepdims=True), labels


def test_reliability_has_bins_of_equal_numbers_and_the_usual_error():
    probabilities, labels = confident(1000, 0, promised=2)
    found = reliability(probabilities, labels)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    assert len(found.share) == 10
    assert found.share == pytest.approx(np.full(10, 0.1))
    assert (np.diff(found.confidence) > 0).all()
    assert (found.share * found.accuracy).sum() == pytest.approx(right.mean())
    true, predicted = calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    assert found.accuracy == pytest.approx(true, abs=0.011)  # scikit-learn's edges may fall one row off
    assert found.confidence == pytest.approx(predicted, abs=0.011)


@pytest.mark.parametrize("rows", [200, 1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_calibration_error_of_honest_probabilities_holds_0(rows):
    found = [calibration_error(reliability(*confident(rows, seed))) for seed in range(200)]
    assert np.mean([each.low == 0 for each in found]) > 0.93
    assert np.mean([each.value for each in found]) < 0.6 * np.mean(
        [reliability(*confident(rows, seed)).binned_error for seed in range(200)]
    )


@pytest.mark.parametrize("rows", [200, 1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_calibration_error_of_boasting_holds_the_truth(rows):
    probabilities, labels = confident(400_000, 1, promised=1.8)
    right = probabilities.argmax(axis=1) == labels
    truth = (probabilities.max(axis=1) - right).mean()  # too high for all confidences
    found = [calibration_error(reliability(*confident(rows, seed, promised=1.8))) for seed in range(300)]
    assert 0.91 < np.mean([each.low <= truth <= each.high for each in found]) < 0.98
    assert np.mean([each.value for each in found]) == pytest.approx(truth, rel=0.1)


def test_a_certain_mistake_costs_much_but_not_everything():
    losses = row_log_loss(np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), np.array([0, 1]))
    assert losses == pytest.approx([0, -np.log(1e-7)])


def test_bootstrap_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).exponential(size=400)
    found = bootstrap(lambda draws: (draws @ values / 400)[:, None], np.zeros(400, np.int64))[0]
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([found.value - half, found.value + half], abs=0.15 * half)


def test_bootstrap_keeps_the_number_of_each_class():
    labels = np.array([0, 1, 1, 2, 2, 2])
    found = bootstrap(lambda draws: draws @ np.eye(3)[labels], labels)
    assert [(each.low, each.value, each.high) for each in found] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


def test_averages_leave_out_classes_that_never_were():
    matrix = np.zeros((4, 4), np.int64)
    matrix[:2, :2] = [[8, 2], [1, 9]]
    assert averages(matrix, matrix)["macro_recall"] == pytest.approx(0.85)
