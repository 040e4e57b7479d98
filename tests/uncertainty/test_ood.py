"""How familiar a picture is: far ones are told from near ones, and known ones are rarely refused."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tellapart.uncertainty.ood import Familiarity, fit_familiarity


def clouds(rows, seed, width=96, classes=5):
    """Features of `classes` clouds that share a covariance, and their labels."""
    world = np.random.default_rng(7)
    centres, mixing = world.normal(size=(classes, width)) * 4, world.normal(size=(width, width)) / np.sqrt(width)
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    return (centres[labels] + random.normal(size=(rows, width)) @ mixing).astype(np.float32), labels


def test_known_pictures_are_refused_as_rarely_as_asked():
    features, labels = clouds(2000, 0)
    found = fit_familiarity(features, labels, clouds(1000, 1)[0], 0.02)
    assert found.share == 0.02
    assert 1 - found.familiar(clouds(4000, 2)[0]).mean() == pytest.approx(0.02, abs=0.012)


def test_strangers_are_refused():
    features, labels = clouds(2000, 0)
    found = fit_familiarity(features, labels, clouds(500, 1)[0], 0.01)
    strangers = np.random.default_rng(3).normal(size=(500, 96)).astype(np.float32) * 4
    assert not found.familiar(strangers).any()
    between = (features[:500] + features[500:1000]) / 2  # halfway between two pictures, mostly of two classes
    assert found.familiar(between).mean() < 0.5


def test_distance_is_mahalanobis_where_the_axes_span_all_but_one_direction():
    features, labels = clouds(3000, 0, width=24)
    found = fit_familiarity(features, labels, features, 0.01)
    means = np.stack([features[labels == k].mean(axis=0) for k in range(5)])
    covariance = np.cov((features - means[labels]).T, bias=True)
    new, _ = clouds(50, 9, width=24)
    expected = cdist(new, means, "mahalanobis", VI=np.linalg.inv(covariance)).min(axis=1) / np.sqrt(24)
    assert found.distances(new) == pytest.approx(expected, rel=1e-2)


def test_few_pictures_of_many_features_and_absent_classes_are_enough():
    features, labels = clouds(30, 0, width=1280)
    found = fit_familiarity(features, labels * 3, clouds(8, 1, width=1280)[0], 0.01)
    assert found.share == pytest.approx(1 / 9)  # eight pictures cannot promise one in a hundred
    assert found.familiar(clouds(200, 2, width=1280)[0]).mean() > 0.5
    assert not found.familiar(np.full((1, 1280), 30, np.float32))[0]


def test_constant_features_do_not_divide_by_zero():
    features = np.ones((10, 4), np.float32)
    found = fit_familiarity(features, np.arange(10) % 2, features, 0.1)
    assert found.familiar(features).all()
    assert not found.familiar(features + 1).any()


def test_what_a_file_holds_must_fit_together():
    features, labels = clouds(100, 0)
    found = fit_familiarity(features, labels, features, 0.05)
    again = Familiarity.from_file(found.tensors(), found.to_json())
    assert np.array_equal(again.distances(features), found.distances(features))
    with pytest.raises(ValueError, match="axes"):
        Familiarity.from_file(found.tensors() | {"axes": found.axes[:, :5]}, found.to_json())
    for damage in ({"noise": 0}, {"limit": float("nan")}, {"noise": "much"}):
        with pytest.raises(ValueError, match=r"familiarity|convert"):
            Familiarity.from_file(found.tensors(), found.to_json() | damage)


def test_many_pictures_at_once_are_what_they_are_alone(monkeypatch):
    features, labels = clouds(400, 0)
    found = fit_familiarity(features, labels, features, 0.05)
    whole = found.distances(features)
    monkeypatch.setattr("tellapart.uncertainty.ood._AT_ONCE", 1000)
    assert found.distances(features) == pytest.approx(whole, rel=1e-9)
    assert found.distances(features[:0]).shape == (0,)
