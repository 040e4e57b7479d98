"""A trial: its calibrated validation result, its pruning reports, and how results are stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from folders import QUICK, digit_folder
from tellapart.classifier.forward import logits
from tellapart.data.batching import PixelDataset
from tellapart.metrics import row_log_loss
from tellapart.pipeline.train import train
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.tuning.selection import ValidationResult
from tellapart.tuning.trial import decode_validation_result, encode_result, predict_validation
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    root = tmp_path_factory.mktemp("trial")
    run = train(digit_folder(root / "digits", 3, 20), out=root / "run", autotune=False, **QUICK)
    return replace(run.classifier, temperature=1.0)


@pytest.fixture(scope="module")
def validation(classifier):
    random, side = np.random.default_rng(0), classifier.preprocess.size
    pixels = random.integers(0, 256, (40, side, side, 3), np.uint8)
    return PixelDataset(pixels, random.integers(0, 3, 40), np.arange(40))


def test_the_temperature_is_fitted_on_logits(classifier, validation):
    """The result equals the one from the logarithms of the probabilities, as long as none of them is tiny."""
    result = predict_validation(classifier, validation)
    logarithms = np.log(classifier.predict_proba(validation.pixels))
    expected = softmax(logarithms, fit_temperature(logarithms, validation.labels))
    assert (result.predicted == expected.argmax(axis=1)).all()
    assert result.losses == pytest.approx(row_log_loss(expected, validation.labels), rel=1e-4)


def test_extreme_logits_are_not_clipped(classifier, validation):
    """With logits 1,000 times as large, probabilities underflow to 0, but calibration undoes the factor."""
    network = classifier.architecture.build()
    network.load_state_dict(classifier.network.state_dict())
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.mul_(1000)
    extreme = replace(classifier, network=network.eval())
    values = logits(extreme.network, Preprocess(extreme.preprocess), validation.pixels)
    assert (softmax(values, 1.0) == 0).any()
    result = predict_validation(extreme, validation)
    expected = softmax(values, fit_temperature(values, validation.labels))
    assert (result.losses == row_log_loss(expected, validation.labels)).all()


def test_results_survive_the_storage():
    result = ValidationResult(np.array([0, 999, 3]), np.array([0.25, 1e-6, 30.5]))
    stored = decode_validation_result(encode_result(result))
    assert (stored.predicted == result.predicted).all()
    assert stored.losses == pytest.approx(result.losses, rel=1e-6)
