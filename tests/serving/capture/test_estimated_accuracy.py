"""The estimated accuracy is that of the labels, within its interval; where it cannot be known, there is none."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from servers import wait_for
from tellapart.serving.capture.estimated_accuracy import (
    ProbabilityError,
    estimate_accuracy,
    probability_value,
    read_probabilities,
)

EXPECTED = {"images": 500, "probability_error": {"mean": 0.0, "standard_error": 0.01}, "out_of_distribution": 0.02}


def counted(probabilities, reasons):
    values = [probability_value(reason, p) for reason, p in zip(reasons, probabilities, strict=True)]
    return {value: values.count(value) for value in set(values)}


def draw(random, count, shift=0.0):
    """Return probabilities, reasons of capture, and whether predictions are right; shift: too sure where uncertain."""
    probabilities = random.beta(6, 0.8, count).clip(0.2, 0.9999)
    reasons = ["uncertain" if p < 0.8 else None for p in probabilities]
    truth = [p - shift * (reason is not None) for p, reason in zip(probabilities, reasons, strict=True)]
    return probabilities, reasons, random.random(count) < truth


def test_the_interval_has_its_coverage_for_calibrated_probabilities():
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        probabilities, _, right = draw(random, 400)
        reference = ProbabilityError.of(list(right - probabilities))
        probabilities, reasons, right = draw(random, 200)
        recent = read_probabilities(counted(probabilities, reasons), [])
        estimate = estimate_accuracy(EXPECTED | {"probability_error": vars(reference)}, recent, has_drifted=False)
        covered += estimate.low <= right.mean() <= estimate.high
        assert estimate.value == pytest.approx(probabilities.mean() + reference.mean, abs=0.001)
    assert covered >= 0.93 * 300


def test_labels_correct_the_estimate_of_images_captured_for_the_same_reason():
    random = np.random.default_rng(1)
    probabilities, reasons, right = draw(random, 20_000, shift=0.4)
    labelled = [
        (reason, p, bool(is_right))
        for reason, p, is_right in zip(reasons, probabilities, right, strict=True)
        if reason is not None
    ]
    counts, estimates = counted(probabilities, reasons), {}
    for labels in (0, 9, 200):
        estimates[labels] = estimate_accuracy(
            EXPECTED, read_probabilities(counts, labelled[:labels]), has_drifted=False
        )
    assert not estimates[0].low <= right.mean() <= estimates[0].high
    assert estimates[9] == estimates[0]  # too few
    assert estimates[200].low <= right.mean() <= estimates[200].high
    assert (estimates[0].labels, estimates[200].labels) == (0, 200)


def test_there_is_no_estimate_where_it_would_be_void():
    probabilities, reasons, _ = draw(np.random.default_rng(2), 300)
    recent = read_probabilities(counted(probabilities, reasons), [])
    assert estimate_accuracy({}, recent, has_drifted=False).reason == "no_reference"
    assert estimate_accuracy(EXPECTED, recent, has_drifted=True).reason == "drift"
    few = read_probabilities(counted(probabilities[:199], reasons[:199]), [])
    assert estimate_accuracy(EXPECTED, few, has_drifted=False).reason == "too_few_images"
    for count, reason in ((3, None), (30, "out_of_distribution")):
        reasons = ["out_of_distribution"] * count + [None] * (300 - count)
        recent = read_probabilities(counted(probabilities, reasons), [])
        estimate = estimate_accuracy(EXPECTED, recent, has_drifted=False)
        assert (estimate.reason, estimate.images) == (reason, 300)
        assert (estimate.value is None) == (reason is not None)


def test_no_error_of_probabilities_is_certain_to_be_zero():
    assert ProbabilityError.of([0.0] * 10).standard_error == pytest.approx(0.1)
    assert ProbabilityError.of([0.0] * 1000).standard_error == pytest.approx(0.001)


def test_a_server_estimates_the_accuracy(start_server, run, tmp_path):
    images = [path.read_bytes() for path in sorted((run.directory.parent / "images").rglob("*.png"))]
    server = start_server(capture=str(tmp_path / "captured"))
    with ThreadPoolExecutor(4) as pool:
        predictions = list(pool.map(lambda image: server.ask(body=image)[1], (images * 220)[:220]))
    wait_for(lambda: server.ask("/v1/status")[1]["accuracy"].get("model", {}).get("images") == 220)
    status = server.ask("/v1/status")[1]
    estimate, metrics = status["accuracy"]["model"], server.metrics()
    values = [metrics[("tellapart_estimated_accuracy", bound, "model")] for bound in ("low", "value", "high")]
    if estimate["reason"] is None:
        mean = np.mean([prediction["probability"] for prediction in predictions])
        error = run.classifier.metadata["expected"]["probability_error"]["mean"]
        assert estimate["value"] == pytest.approx(min(1, mean + error), abs=0.001)
        assert values == pytest.approx([estimate[bound] for bound in ("low", "value", "high")], abs=0.0001)
    else:
        assert np.isnan(values).all()
    assert server.stop() == 0
