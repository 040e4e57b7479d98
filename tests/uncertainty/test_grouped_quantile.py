import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.uncertainty.grouped_quantile import upper_quantile


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.integers(1, 200), st.floats(0.5, 0.99), st.integers(0, 99))
def test_without_groups_it_is_the_rank_of_split_conformal_prediction(count, probability, seed):
    scores = np.random.default_rng(seed).random(count)
    rank = int(np.ceil((count + 1) * probability - 1e-9))
    expected = np.sort(scores)[rank - 1] if rank <= count else np.inf
    assert upper_quantile(scores, probability) == expected
    assert upper_quantile(scores, probability, np.arange(count)) == expected


@pytest.mark.parametrize(("groups", "size", "probability"), [(40, 20, 0.95), (19, 30, 0.9), (9, 50, 0.9)])
def test_images_of_new_groups_are_covered(groups, size, probability):
    random = np.random.default_rng(0)
    covered = []
    for _ in range(3000):
        effects = random.normal(0, 1, groups + 1)
        scores = random.normal(np.repeat(effects[:-1], size), 0.5)
        threshold = upper_quantile(scores, probability, np.repeat(np.arange(groups), size))
        covered.append(random.normal(effects[-1], 0.5) <= threshold)
    assert np.mean(covered) > probability - 0.015


def test_copies_do_not_make_a_threshold_more_certain():
    scores = np.linspace(0, 1, 15)
    assert upper_quantile(scores, 0.95) == np.inf
    assert upper_quantile(np.repeat(scores, 10), 0.95, np.repeat(np.arange(15), 10)) == np.inf
    assert upper_quantile(np.repeat(scores, 10), 0.95) < 1.01


def test_without_scores_it_is_infinite():
    assert upper_quantile(np.zeros(0), 0.9) == np.inf
