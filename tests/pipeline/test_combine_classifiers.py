"""Ensembles: averages of probabilities and of weights, and test-time augmentation, in one network and one file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tellapart
from folders import QUICK, digit_folder
from tellapart.classifier.classifier import Classifier
from tellapart.errors import EnsembleError
from tellapart.exporters.export import export
from tellapart.pipeline.combine_classifiers import average_probabilities, average_weights
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("ensembles")
    folder = digit_folder(root / "digits", 3, 20)
    fast = QUICK | {"autotune": False, "size": 32}
    return [
        train(folder, out=root / "a", **fast),
        train(root / "a/split.csv", out=root / "b", **(fast | {"seed": 1, "head": [24]})),
        train(folder, out=root / "c", **(fast | {"seed": 2, "model": "lenet5"})),
    ]


def random_pixels(run, count=12):
    side = run.classifier.preprocess.size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def test_an_ensemble_predicts_the_mean(runs, tmp_path):
    classifiers, pixels = [run.classifier for run in runs], random_pixels(runs[0])
    assert len({classifier.temperature for classifier in classifiers}) == 3
    average = average_probabilities(classifiers)
    expected = np.mean([classifier.predict_proba(pixels) for classifier in classifiers], axis=0)
    assert average.predict_proba(pixels) == pytest.approx(expected, abs=1e-6)
    average.save(tmp_path / "ensemble.safetensors")
    loaded = tellapart.load(tmp_path / "ensemble.safetensors")
    assert (loaded.predict_proba(pixels) == average.predict_proba(pixels)).all()
    assert isinstance(loaded, Classifier)


@pytest.mark.slow
def test_an_ensemble_can_be_exported(runs, tmp_path):
    average_probabilities([run.classifier for run in runs]).save(tmp_path / "ensemble.safetensors")
    exported = export(tmp_path / "ensemble.safetensors", check=runs[0].directory.parent / "digits")
    images = sorted((runs[0].directory.parent / "digits").rglob("*.png"))[:6]
    expected = tellapart.load(tmp_path / "ensemble.safetensors").probabilities(images)
    assert tellapart.load(exported.path).probabilities(images) == pytest.approx(expected, abs=1e-5)


def test_weights_are_averaged(runs):
    one, pixels = runs[0].classifier, random_pixels(runs[0])
    same = average_weights([one, one]).predict_proba(pixels)
    assert same == pytest.approx(replace(one, temperature=1).predict_proba(pixels), abs=1e-6)
    other = replace(one, network=one.architecture.build().eval())
    other.network.load_state_dict({name: 3 * value for name, value in one.network.state_dict().items()})
    mean = average_weights([one, other]).network.state_dict()
    for name, value in one.network.state_dict().items():
        assert torch.allclose(mean[name].float(), 2 * value.float(), atol=1e-6) or not value.is_floating_point()


def test_test_time_augmentation_averages_flipped_and_shifted_images(runs, tmp_path):
    """The expected views are made with NumPy."""
    one, pixels = runs[0].classifier, random_pixels(runs[0])  # of 32 x 32, where a shift is one pixel
    wide = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    views = [pixels, pixels[:, :, ::-1], wide[:, 1:-1, 2:], wide[:, 1:-1, :-2], wide[:, 2:, 1:-1], wide[:, :-2, 1:-1]]
    expected = np.mean([one.predict_proba(np.ascontiguousarray(view)) for view in views], axis=0)
    average = average_probabilities([one], ["hflip", "shift"])
    assert average.predict_proba(pixels) == pytest.approx(expected, abs=1e-6)
    sizes = [sum(v.numel() for v in each.network.state_dict().values()) for each in (one, average)]
    assert sizes[0] == sizes[1]  # the views share the weights
    average.save(tmp_path / "views.safetensors")
    loaded = tellapart.load(tmp_path / "views.safetensors")
    assert (loaded.predict_proba(pixels) == average.predict_proba(pixels)).all()
    exported = export(tmp_path / "views.safetensors", check=runs[0].directory.parent / "digits")
    assert exported.parity.same == 1


def test_an_unknown_view_is_refused(runs):
    with pytest.raises(EnsembleError) as error:
        average_probabilities([runs[0].classifier], ["vflip"])
    assert "'vflip'" in str(error.value)


def test_classifiers_that_do_not_fit_together_are_refused(runs):
    first, second, third = (run.classifier for run in runs)
    for classifiers in (
        [first],
        [first, replace(second, classes=("x", "y", "z"))],
        [first, replace(second, preprocess=replace(second.preprocess, resize="pad"))],
        [average_probabilities([first, second]), third],
    ):
        with pytest.raises(EnsembleError):
            average_probabilities(classifiers)
    with pytest.raises(EnsembleError):
        average_weights([first, replace(second, preprocess=first.preprocess)])
