"""Classifiers that vote, and the mean of their weights, are classifiers like others: one file, exported, the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tellapart
from folders import QUICK, digit_folder
from tellapart.classifier import Classifier
from tellapart.combining import averaged, ensemble
from tellapart.errors import CannotCombine
from tellapart.exporting.export import export
from tellapart.pipeline import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("combined")
    folder = digit_folder(root / "digits", 3, 20)
    fast = QUICK | {"training__autotune": False, "preprocess__size": 32}
    return [
        train(folder, out=root / "a", **fast),
        train(folder, out=root / "b", **(fast | {"seed": 1, "head": [24]})),
        train(folder, out=root / "c", **(fast | {"seed": 2, "model": "lenet5"})),
    ]


def some(run, count=12):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, run.classifier.preprocess.size, run.classifier.preprocess.size, 3), np.uint8)


def test_the_vote_is_the_mean(runs, tmp_path):
    classifiers = [run.classifier for run in runs]
    assert len({each.temperature for each in classifiers}) == 3
    found, pixels = ensemble(classifiers), some(runs[0])
    expected = np.mean([each.of_pixels(pixels) for each in classifiers], axis=0)
    assert found.of_pixels(pixels) == pytest.approx(expected, abs=1e-6)
    found.save(tmp_path / "vote.safetensors")
    again = tellapart.load(tmp_path / "vote.safetensors")
    assert (again.of_pixels(pixels) == found.of_pixels(pixels)).all()
    assert isinstance(again, Classifier)


def test_the_vote_is_exported(runs, tmp_path):
    ensemble([run.classifier for run in runs]).save(tmp_path / "vote.safetensors")
    exported = export(tmp_path / "vote.safetensors", check=runs[0].directory.parent / "digits")
    pictures = sorted((runs[0].directory.parent / "digits").rglob("*.png"))[:6]
    expected = tellapart.load(tmp_path / "vote.safetensors").probabilities(pictures)
    assert tellapart.load(exported.path).probabilities(pictures) == pytest.approx(expected, abs=1e-5)


def test_the_mean_of_weights(runs):
    one, pixels = runs[0].classifier, some(runs[0])
    assert averaged([one, one]).of_pixels(pixels) == pytest.approx(
        replace(one, temperature=1).of_pixels(pixels), abs=1e-6
    )
    other = replace(one, network=one.architecture.build().eval())
    other.network.load_state_dict({name: 3 * value for name, value in one.network.state_dict().items()})
    found = averaged([one, other]).network.state_dict()
    for name, value in one.network.state_dict().items():
        assert torch.allclose(found[name].float(), 2 * value.float(), atol=1e-6) or not value.is_floating_point()


def test_what_does_not_go_together_is_refused(runs):
    first, second, third = (run.classifier for run in runs)
    for wrong, said in (
        ([first], "at least two"),
        ([first, replace(second, classes=("x", "y", "z"))], "different classes"),
        ([first, replace(second, preprocess=replace(second.preprocess, resize="pad"))], "resize"),
        ([ensemble([first, second]), third], "member of another"),
    ):
        with pytest.raises(CannotCombine, match=said):
            ensemble(wrong)
    with pytest.raises(CannotCombine, match="let the classifiers vote"):
        averaged([first, replace(second, preprocess=first.preprocess)])
