"""Learning curves of real digits, whose forecasts can be verified, and edge cases."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from folders import digit_folder, run_cli
from tellapart.curation.learning_curve import (
    _fit,
    _fit_power_law,
    _standardize,
    _stratified_shares,
    fit_learning_curve,
)
from tellapart.errors import InputShapeError, SplitError
from tellapart.metrics import Estimate


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


def accuracy_of(features, labels, train, validation):
    inputs, validation_inputs = _standardize(features[train], features[validation])
    return (_fit(inputs, labels[train]).predict(validation_inputs) == labels[validation]).mean()


@pytest.mark.parametrize("count", [150, 250])
def test_intervals_of_forecasts_cover_the_accuracy_with_more_digits(digits, count):
    features, labels = digits
    covered = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(labels))
        now, validation = order[:count], order[-500:]
        curve = fit_learning_curve(features[now], labels[now], features[validation], labels[validation], seed)
        before = accuracy_of(features, labels, now, validation)
        for forecast in (curve.twice, curve.four_times):
            reached = accuracy_of(features, labels, order[: forecast.images], validation)
            covered.append(forecast.accuracy.low <= reached <= forecast.accuracy.high)
            covered.append(forecast.gain.low <= reached - before <= forecast.gain.high)
        assert curve.accuracies[-1] == pytest.approx(before)
    assert np.mean(covered) >= 0.9


def blobs(random, count, classes, distance, width=20):
    labels = random.integers(0, classes, count)
    features = random.normal(size=(count, width))
    features[:, 0] += distance * labels
    return features, labels


def test_a_perfect_classifier_needs_no_more_images():
    random = np.random.default_rng(0)
    curve = fit_learning_curve(*blobs(random, 1000, 2, 12), *blobs(random, 1000, 2, 12))
    assert curve.accuracies[-1] == 1
    assert not curve.more_data_helps
    assert curve.twice.gain.high < 0.001


def test_overlapping_classes_have_an_error_floor():
    random = np.random.default_rng(0)
    curve = fit_learning_curve(*blobs(random, 2000, 2, 2), *blobs(random, 2000, 2, 2))
    best = 0.8413  # of the true boundary: the normal distribution at half the distance
    assert abs(curve.twice.accuracy.value - best) < 0.02
    assert curve.twice.gain.high < 0.03


def test_a_curve_is_reproducible_and_converts_to_json(digits):
    features, labels = digits
    arrays = features[:200], labels[:200], features[1000:1200], labels[1000:1200]
    first = fit_learning_curve(*arrays, seed=3)
    assert fit_learning_curve(*arrays, seed=3) == first
    assert fit_learning_curve(*arrays, seed=4) != first
    written = json.loads(json.dumps(first.to_json()))
    assert written["verdict"] == first.verdict
    assert written["twice"]["images"] == 400
    assert written["twice"]["accuracy"].keys() == {"value", "low", "high"}
    assert first.more_data_helps


def test_subsets_are_nested_and_stratified():
    labels = np.repeat([0, 1, 2, 3], [200, 50, 2, 1])
    shares = _stratified_shares(labels, np.random.default_rng(0))
    for share, counts in ((0.1, [20, 5, 1, 1]), (0.4, [80, 20, 1, 1]), (0.7, [140, 35, 1, 1]), (1.0, [200, 50, 2, 1])):
        assert np.bincount(labels[shares <= share]).tolist() == counts


def test_classes_with_two_images(digits):
    features, labels = digits
    rows = np.concatenate([np.flatnonzero(labels == label)[: 2 if label > 7 else 40] for label in range(10)])
    curve = fit_learning_curve(features[rows], labels[rows], features[1000:], labels[1000:])
    assert curve.sizes[-1] == len(rows) == 324
    assert all(low < high for low, high in zip(curve.sizes, curve.sizes[1:], strict=False))
    assert isinstance(curve.twice.gain, Estimate)


def test_too_few_images_give_no_curve(digits):
    features, labels = digits
    two_each = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(10)])
    assert fit_learning_curve(features[two_each], labels[two_each], features[1000:], labels[1000:]) is None
    assert fit_learning_curve(features[:500], labels[:500], features[1000:1010], labels[1000:1010]) is None


def test_invalid_arrays_are_refused(digits):
    features, labels = digits
    with pytest.raises(InputShapeError):
        fit_learning_curve(features, labels, features[:, :3], labels)
    with pytest.raises(InputShapeError):
        fit_learning_curve(features, labels[:5], features, labels)
    with pytest.raises(InputShapeError):
        fit_learning_curve(features, np.zeros_like(labels), features, labels)


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.05, 0.1, 0.5), (0.0, 0.3, 0.35), (0.02, 0.01, 1.0)])
def test_an_exact_power_law_is_recovered(floor, scale, exponent):
    relative = np.array([0.1, 0.2, 0.4, 0.7, 1.0])
    errors = floor + scale * relative**-exponent
    result = _fit_power_law(relative, errors[None], np.ones((1, 5)), np.array([np.inf]))[0]
    np.testing.assert_allclose(result, [floor, scale, exponent], atol=1e-9)


def test_a_source_is_evaluated_on_its_best_features(tmp_path, capsys):
    folder = digit_folder(tmp_path / "digits", 5, 80)
    code, out, err = run_cli(capsys, "learning-curve", folder, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["source"] == str(folder)
    assert result["accuracies"][-1] > 0.9
    assert result["sizes"] == sorted(result["sizes"])
    assert result["twice"]["images"] == 2 * result["sizes"][-1]
    code, out, _ = run_cli(capsys, "learning-curve", folder)
    assert code == 0
    assert result["verdict"] in " ".join(out.split())


def test_too_few_images_for_a_curve_are_an_error(tmp_path, capsys):
    code, out, _ = run_cli(capsys, "learning-curve", digit_folder(tmp_path / "digits", 2, 12), "--json")
    assert code == 1
    assert json.loads(out)["error"]["code"] == SplitError.code


def test_few_validation_images_never_show_that_more_images_would_not_help(digits):
    features, labels = digits
    rows = np.flatnonzero(labels < 2)  # two digits that are easy to tell apart: no error on so few images
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(rows)
        now, validation = order[:60], order[60:85]
        curve = fit_learning_curve(features[now], labels[now], features[validation], labels[validation], seed)
        assert curve.more_data_helps
        groups = np.arange(25) // 5
        wider = fit_learning_curve(features[now], labels[now], features[validation], labels[validation], seed, groups)
        assert wider.twice.gain.high > curve.twice.gain.high
