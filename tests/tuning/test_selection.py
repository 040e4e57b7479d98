"""Selection: the bias of the best score is corrected, and the default is replaced only by a better candidate."""

from dataclasses import replace

import numpy as np
import pytest

from tellapart.metrics import Estimate
from tellapart.tuning.selection import Improvement, ValidationResult, measure_improvement, select


def simulate(random, accuracies, count):
    """Return candidates that predict one of two classes with the given accuracies, and the labels."""
    labels = random.integers(0, 2, count)
    difficulty = random.normal(0, 1, count)  # an image is difficult for all candidates
    candidates = []
    for accuracy in accuracies:
        noise = np.sqrt(0.5) * difficulty + np.sqrt(0.5) * random.normal(0, 1, count)
        correct = noise < np.quantile(random.normal(0, 1, 100_000), accuracy)
        candidates.append(ValidationResult(np.where(correct, labels, 1 - labels), np.where(correct, 0.1, 2.0)))
    return candidates, labels


def test_the_bias_of_the_best_of_equal_candidates_is_corrected():
    random = np.random.default_rng(0)
    selections = [select(*simulate(random, [0.9] * 20, 200), "accuracy", seed=seed) for seed in range(40)]
    score = np.mean([selection.selection_score for selection in selections])
    optimism = np.mean([selection.optimism for selection in selections])
    assert score > 0.93
    assert score - optimism == pytest.approx(0.9, abs=0.012)
    assert np.mean([selection.selected != 0 for selection in selections]) < 0.4
    assert np.mean([s.unbiased_score.low <= 0.9 <= s.unbiased_score.high for s in selections]) > 0.85


def test_equal_candidates_are_sufficient_as_often_as_the_win_rate_allows():
    """Of candidates that equal the default, 20% are better in 80% of the resamples."""
    random, sufficient = np.random.default_rng(3), []
    for seed in range(150):
        (default, candidate), labels = simulate(random, [0.9] * 2, 200)
        sufficient.append(measure_improvement(candidate, default, labels, "log_loss", seed=seed).is_sufficient)
    assert np.mean(sufficient) == pytest.approx(0.2, abs=0.1)
    (default, candidate), labels = simulate(random, [0.85, 0.95], 400)
    assert measure_improvement(candidate, default, labels, "accuracy").win_rate > 0.95


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
def test_a_better_candidate_is_selected(metric):
    random = np.random.default_rng(1)
    for seed in range(5):
        candidates, labels = simulate(random, [0.85] * 5 + [0.96], 400)
        selection = select(candidates, labels, metric, seed=seed)
        assert selection.selected == selection.best == 5
        assert selection.improvement.win_rate > 0.95
        assert selection.improvement.gain.low > 0


def test_groups_are_resampled_as_wholes():
    """Ten copies of each image are no more evidence than one."""
    candidates, labels = simulate(np.random.default_rng(2), [0.8, 0.86], 60)
    copies = [ValidationResult(each.predicted.repeat(10), each.losses.repeat(10)) for each in candidates]
    groups = np.arange(60).repeat(10)

    def width(selection):
        return selection.improvement.gain.high - selection.improvement.gain.low

    single = width(select(candidates, labels, "accuracy"))
    assert width(select(copies, labels.repeat(10), "accuracy", groups)) == pytest.approx(single, rel=0.15)
    assert width(select(copies, labels.repeat(10), "accuracy")) < 0.6 * single


def test_a_selection_as_json():
    candidates, labels = simulate(np.random.default_rng(1), [0.85, 0.96], 400)
    selection = select(candidates, labels, "accuracy")
    document = selection.to_json()
    assert document["selected"] == document["best"] == 1
    assert document["optimism"] == pytest.approx(document["selection_score"] - document["unbiased_score"]["value"])
    assert set(document["improvement"]) == {"gain", "win_rate", "division_gains", "significant"}
    assert document["confirmation"] is None


@pytest.mark.parametrize("luck", [0.0, 0.02])
def test_equal_recipes_are_rarely_called_better(luck):
    """luck: standard deviation of the accuracy over trainings of one recipe."""
    random, better, probably = np.random.default_rng(7), [], []
    for seed in range(150):
        gains, parts = [], []
        for _ in range(3):
            (default, candidate), labels = simulate(random, np.clip(random.normal(0.9, luck, 2), 0.5, 0.99), 120)
            gains.append((candidate.predicted == labels).mean() - (default.predicted == labels).mean())
            parts.append((default, candidate, labels))
        default, candidate = (
            ValidationResult(
                np.concatenate([part[k].predicted for part in parts]),
                np.concatenate([part[k].losses for part in parts]),
            )
            for k in (0, 1)
        )
        labels = np.concatenate([part[2] for part in parts])
        improvement = measure_improvement(candidate, default, labels, "accuracy", seed=seed)
        improvement = replace(improvement, division_gains=tuple(gains), validation_share=0.2)
        better.append(improvement.is_significant)
        probably.append(improvement.is_sufficient)
    assert np.mean(better) <= 0.05
    assert np.mean(probably) > 0.1


def test_a_clearly_better_recipe_is_called_better():
    improvement = Improvement(Estimate(0.06, 0.03, 0.09), 1.0, (0.055, 0.06, 0.065), 0.2)
    assert improvement.is_significant
    assert not replace(improvement, division_gains=(0.18, 0.0, 0.0)).is_significant
    assert not replace(improvement, division_gains=()).is_significant
    assert not replace(improvement, win_rate=0.9).is_significant


@pytest.mark.parametrize(
    ("images", "groups", "has_interval"), [(40, None, False), (60, None, True), (60, 3, False), (60, 20, True)]
)
def test_few_images_or_groups_give_no_interval(images, groups, has_interval):
    random = np.random.default_rng(0)
    right = random.random((3, images)) < 0.8
    candidates = [ValidationResult(np.where(row, 0, 1), np.where(row, 0.1, 2.0)) for row in right]
    units = None if groups is None else np.arange(images) % groups
    selection = select(candidates, np.zeros(images, np.int64), "accuracy", units)
    for estimate in (selection.unbiased_score, selection.improvement.gain):
        assert (estimate.to_json()["low"] is not None) == has_interval
