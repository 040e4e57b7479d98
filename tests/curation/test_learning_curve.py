"""Whether more pictures would help: on real digits, where the answer can be looked up, and at the edges."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from folders import digit_folder, run_cli
from tellapart.curation.learning_curve import (
    _fit,
    _fit_law,
    _standardised,
    _stratified_shares,
    learning_curve,
)
from tellapart.errors import WrongInput
from tellapart.metrics import Estimate


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


def accuracy_of(features, labels, train, validation):
    inputs, validation_inputs = _standardised(features[train], features[validation])
    return (_fit(inputs, labels[train]).predict(validation_inputs) == labels[validation]).mean()


@pytest.mark.parametrize("count", [150, 250])
def test_what_more_digits_really_bring_lies_in_the_interval(digits, count):
    features, labels = digits
    held = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(labels))
        now, validation = order[:count], order[-500:]
        curve = learning_curve(features[now], labels[now], features[validation], labels[validation], seed)
        before = accuracy_of(features, labels, now, validation)
        for forecast in (curve.twice, curve.four_times):
            reached = accuracy_of(features, labels, order[: forecast.pictures], validation)
            held.append(forecast.accuracy.low <= reached <= forecast.accuracy.high)
            held.append(forecast.gain.low <= reached - before <= forecast.gain.high)
        assert curve.accuracies[-1] == pytest.approx(before)
    assert np.mean(held) >= 0.9


def blobs(random, count, classes, distance, width=20):
    labels = random.integers(0, classes, count)
    features = random.normal(size=(count, width))
    features[:, 0] += distance * labels
    return features, labels


def test_where_all_is_learned_more_pictures_hardly_help():
    random = np.random.default_rng(0)
    curve = learning_curve(*blobs(random, 1000, 2, 12), *blobs(random, 1000, 2, 12))
    assert curve.accuracies[-1] == 1
    assert curve.verdict.startswith("More pictures would hardly help: twice as many would bring 0.0 points at most")


def test_two_classes_that_overlap_have_a_floor():
    random = np.random.default_rng(0)
    curve = learning_curve(*blobs(random, 2000, 2, 2), *blobs(random, 2000, 2, 2))
    best = 0.8413  # of the true boundary: the normal distribution at half the distance
    assert abs(curve.twice.accuracy.value - best) < 0.02
    assert curve.twice.gain.high < 0.03


def test_the_same_seed_gives_the_same_curve_and_it_is_json(digits):
    features, labels = digits
    arrays = features[:200], labels[:200], features[1000:1200], labels[1000:1200]
    first = learning_curve(*arrays, seed=3)
    assert learning_curve(*arrays, seed=3) == first
    assert learning_curve(*arrays, seed=4) != first
    written = json.loads(json.dumps(first.to_json()))
    assert written["verdict"] == first.verdict
    assert written["twice"]["pictures"] == 400
    assert written["twice"]["accuracy"].keys() == {"value", "low", "high"}
    assert first.verdict.startswith("Twice the pictures would bring about ")


def test_parts_are_nested_and_hold_every_class_in_its_share():
    labels = np.repeat([0, 1, 2, 3], [200, 50, 2, 1])
    shares = _stratified_shares(labels, np.random.default_rng(0))
    for share, counts in ((0.1, [20, 5, 1, 1]), (0.4, [80, 20, 1, 1]), (0.7, [140, 35, 1, 1]), (1.0, [200, 50, 2, 1])):
        assert np.bincount(labels[shares <= share]).tolist() == counts


def test_classes_of_two_pictures_do_no_harm(digits):
    features, labels = digits
    rows = np.concatenate([np.flatnonzero(labels == label)[: 2 if label > 7 else 40] for label in range(10)])
    curve = learning_curve(features[rows], labels[rows], features[1000:], labels[1000:])
    assert curve.sizes[-1] == len(rows) == 324
    assert all(low < high for low, high in zip(curve.sizes, curve.sizes[1:], strict=False))
    assert isinstance(curve.twice.gain, Estimate)


def test_too_few_pictures_tell_nothing(digits):
    features, labels = digits
    two_each = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(10)])
    assert learning_curve(features[two_each], labels[two_each], features[1000:], labels[1000:]) is None
    assert learning_curve(features[:500], labels[:500], features[1000:1010], labels[1000:1010]) is None


def test_arrays_that_do_not_fit_are_refused(digits):
    features, labels = digits
    with pytest.raises(WrongInput, match="of the same width"):
        learning_curve(features, labels, features[:, :3], labels)
    with pytest.raises(WrongInput, match="one label for each row"):
        learning_curve(features, labels[:5], features, labels)
    with pytest.raises(WrongInput, match="at least two classes"):
        learning_curve(features, np.zeros_like(labels), features, labels)


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.05, 0.1, 0.5), (0.0, 0.3, 0.35), (0.02, 0.01, 1.0)])
def test_the_law_is_found_where_it_holds_exactly(floor, scale, exponent):
    relative = np.array([0.1, 0.2, 0.4, 0.7, 1.0])
    errors = floor + scale * relative**-exponent
    found = _fit_law(relative, errors[None], np.ones((1, 5)), np.array([np.inf]))[0]
    np.testing.assert_allclose(found, [floor, scale, exponent], atol=1e-9)


def test_a_source_is_judged_by_its_best_features(tmp_path, capsys):
    folder = digit_folder(tmp_path / "digits", 5, 80)
    code, out, err = run_cli(capsys, "curve", folder, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["source"] == str(folder)
    assert found["accuracies"][-1] > 0.9
    assert found["sizes"] == sorted(found["sizes"])
    assert found["twice"]["pictures"] == 2 * found["sizes"][-1]
    code, out, _ = run_cli(capsys, "curve", folder)
    assert code == 0
    assert found["verdict"] in " ".join(out.split())


def test_too_few_pictures_for_a_curve_are_one_clear_error(tmp_path, capsys):
    code, out, err = run_cli(capsys, "curve", digit_folder(tmp_path / "digits", 2, 12))
    assert (code, out) == (1, "")
    assert "too few for a learning curve" in " ".join(err.split())
