import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from simulation import predictions
from tellapart.metrics import make_ranking_metrics


@settings(deadline=None, max_examples=60, derandomize=True)
@given(predictions(), st.booleans(), st.integers(0, 100))
def test_ranking_metrics_equal_scikit_learn_with_ties_and_weights(drawn, with_ties, seed):
    probabilities, labels = drawn
    probabilities = probabilities.round(1) if with_ties else probabilities
    weights = np.random.default_rng(seed).integers(1, 4, len(labels)).astype(float)
    metrics = make_ranking_metrics(probabilities, labels)(weights[None].astype(np.float32))
    areas, precisions = (draws[0] for draws in metrics)
    for k in range(probabilities.shape[1]):
        is_class, column = labels == k, probabilities[:, k]
        if not is_class.any():
            assert np.isnan([areas[k], precisions[k]]).all()
            continue
        expected = oracle.average_precision_score(is_class, column, sample_weight=weights)
        assert precisions[k] == pytest.approx(expected)
        if not is_class.all():
            assert areas[k] == pytest.approx(oracle.roc_auc_score(is_class, column, sample_weight=weights))
