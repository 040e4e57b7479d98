"""ROC area and average precision against scikit-learn, and their variance against the jackknife."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from simulation import predictions
from tellapart.metrics import Units, ranking_estimates


@settings(deadline=None, max_examples=60, derandomize=True)
@given(predictions(), st.booleans())
def test_ranking_metrics_equal_scikit_learn_with_ties(drawn, with_ties):
    probabilities, labels = drawn
    probabilities = probabilities.round(1) if with_ties else probabilities
    macro, by_class = ranking_estimates(probabilities, labels, Units.independent(len(labels)))
    areas, precisions = by_class["roc_auc"], by_class["average_precision"]
    ranked = []
    for k in range(probabilities.shape[1]):
        is_class, column = labels == k, probabilities[:, k]
        if not is_class.any():
            assert np.isnan([areas[k].value, precisions[k].value]).all()
            continue
        assert precisions[k].value == pytest.approx(oracle.average_precision_score(is_class, column))
        if not is_class.all():
            assert areas[k].value == pytest.approx(oracle.roc_auc_score(is_class, column))
            ranked.append(k)
    for name, values in (("macro_roc_auc", areas), ("macro_average_precision", precisions)):
        assert (name in macro) == bool(ranked)
        if ranked:
            assert macro[name].value == pytest.approx(np.mean([values[k].value for k in ranked]))


@pytest.mark.parametrize(
    ("name", "score"), [("roc_auc", oracle.roc_auc_score), ("average_precision", oracle.average_precision_score)]
)
def test_width_of_the_interval_is_that_of_the_jackknife(name, score):
    random = np.random.default_rng(0)
    labels = (random.random(400) < 0.3).astype(int)
    scores = 1 / (1 + np.exp(-random.normal(1.2 * labels, 1)))
    left_out = [score(np.delete(labels, row), np.delete(scores, row)) for row in range(400)]
    deviation = np.sqrt(399 / 400 * np.square(left_out - np.mean(left_out)).sum())
    probabilities = np.stack([1 - scores, scores], axis=1)
    estimate = ranking_estimates(probabilities, labels, Units.independent(400))[1][name][1]
    assert (estimate.high - estimate.low) / 3.92 == pytest.approx(deviation, rel=0.06)


def test_a_perfect_ranking_of_few_images_is_no_certainty():
    for images in (10, 100):
        labels = np.arange(images) % 2
        macro, by_class = ranking_estimates(np.eye(2)[labels] * 0.8 + 0.1, labels, Units.independent(images))
        for estimate in (*macro.values(), *by_class["roc_auc"], *by_class["average_precision"]):
            assert (estimate.value, estimate.high) == (1, 1)
            assert estimate.low < (0.96 if images == 10 else 0.999)


def test_a_class_of_one_image_has_no_interval():
    labels = np.repeat([0, 1], [30, 1])
    macro, by_class = ranking_estimates(np.random.default_rng(0).dirichlet([1, 1], 31), labels, Units.independent(31))
    assert np.isnan(by_class["roc_auc"][1].low)
    assert np.isnan(macro["macro_roc_auc"].low)
