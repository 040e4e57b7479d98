"""Out-of-distribution detection: its false positive rate, its power, and its file."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tellapart.uncertainty.ood import OODDetector, fit_ood_detector, required_units


def clusters(rows, seed, width=96, classes=5):
    """Return features of `classes` clusters with a shared covariance, and their labels."""
    world = np.random.default_rng(7)
    centers, mixing = world.normal(size=(classes, width)) * 4, world.normal(size=(width, width)) / np.sqrt(width)
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    return (centers[labels] + random.normal(size=(rows, width)) @ mixing).astype(np.float32), labels


def test_false_positive_rate_is_nominal():
    features, labels = clusters(2000, 0)
    detector = fit_ood_detector(features, labels, clusters(1000, 1)[0], 0.02)
    assert detector.false_positive_rate == 0.02
    assert 1 - detector.is_in_distribution(clusters(4000, 2)[0]).mean() == pytest.approx(0.02, abs=0.012)


def test_images_far_from_all_classes_are_out_of_distribution():
    features, labels = clusters(2000, 0)
    detector = fit_ood_detector(features, labels, clusters(500, 1)[0], 0.01)
    far = np.random.default_rng(3).normal(size=(500, 96)).astype(np.float32) * 4
    assert not detector.is_in_distribution(far).any()
    between = (features[:500] + features[500:1000]) / 2  # halfway between two images, mostly of different classes
    assert detector.is_in_distribution(between).mean() < 0.5


def test_distance_is_mahalanobis_if_the_axes_span_all_but_one_direction():
    features, labels = clusters(3000, 0, width=24)
    detector = fit_ood_detector(features, labels, features, 0.01)
    means = np.stack([features[labels == k].mean(axis=0) for k in range(5)])
    covariance = np.cov((features - means[labels]).T, bias=True)
    new, _ = clusters(50, 9, width=24)
    expected = cdist(new, means, "mahalanobis", VI=np.linalg.inv(covariance)).min(axis=1) / np.sqrt(24)
    assert detector.distances(new) == pytest.approx(expected, rel=1e-2)


def test_few_images_with_many_features_and_absent_classes_suffice():
    features, labels = clusters(30, 0, width=1280)
    detector = fit_ood_detector(features, labels * 3, clusters(19, 1, width=1280)[0], 0.01)
    assert detector.false_positive_rate == pytest.approx(1 / 20)  # 19 images cannot estimate a rate of 1%
    assert detector.is_in_distribution(clusters(200, 2, width=1280)[0]).mean() > 0.5
    assert not detector.is_in_distribution(np.full((1, 1280), 30, np.float32))[0]


@pytest.mark.parametrize(("rate", "required"), [(0.0, 19), (0.01, 19), (0.05, 19), (0.1, 9), (0.2, 4)])
def test_the_threshold_is_finite_from_the_required_number_of_units_on(rate, required):
    features, labels = clusters(30, 0, width=64)
    validation = clusters(2 * required, 1, width=64)[0]
    groups = np.arange(len(validation)) // 2
    assert required_units(rate) == required
    assert np.isfinite(fit_ood_detector(features, labels, validation, rate, groups).threshold)
    assert np.isinf(fit_ood_detector(features, labels, validation[2:], rate, groups[2:]).threshold)


def test_constant_features_do_not_divide_by_zero():
    features = np.ones((10, 4), np.float32)
    detector = fit_ood_detector(features, np.arange(10) % 2, features, 0.1)
    assert detector.is_in_distribution(features).all()
    assert not detector.is_in_distribution(features + 1).any()


def test_detector_is_equal_after_a_file_round_trip():
    features, labels = clusters(100, 0)
    detector = fit_ood_detector(features, labels, features, 0.05)
    loaded = OODDetector.from_file(detector.tensors(), detector.to_json())
    assert np.array_equal(loaded.distances(features), detector.distances(features))
    assert (loaded.threshold, loaded.false_positive_rate) == (detector.threshold, detector.false_positive_rate)


def test_inconsistent_values_of_a_file_raise_an_error():
    features, labels = clusters(100, 0)
    detector = fit_ood_detector(features, labels, features, 0.05)
    with pytest.raises(ValueError, match=r"\d"):
        OODDetector.from_file(detector.tensors() | {"axes": detector.axes[:, :5]}, detector.to_json())
    for damage in ({"noise": 0}, {"threshold": float("nan")}, {"noise": "much"}):
        with pytest.raises(ValueError):  # noqa: PT011
            OODDetector.from_file(detector.tensors(), detector.to_json() | damage)
    with pytest.raises(KeyError):
        OODDetector.from_file(detector.tensors(), {"noise": 1.0})


def test_distances_do_not_depend_on_the_block_size(monkeypatch):
    features, labels = clusters(400, 0)
    detector = fit_ood_detector(features, labels, features, 0.05)
    expected = detector.distances(features)
    monkeypatch.setattr("tellapart.uncertainty.ood._BLOCK_COORDINATES", 1000)
    assert detector.distances(features) == pytest.approx(expected, rel=1e-9)
    assert detector.distances(features[:0]).shape == (0,)
