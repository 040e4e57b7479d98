"""The accuracy on recent images, estimated without their labels from the calibrated probabilities.

The mean probability of the predicted class estimates the accuracy, as long as the classifier stays calibrated:
confidence-based performance estimation (Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution
performance", section 3, where it is called average confidence; NannyML calls it CBPE). Probabilities say little about
images that differ from those of the validation split, so there is no estimate where these have drifted.

The error of the probabilities, which is the difference between being right (1 or 0) and the probability, is known from
the validation images. Captured images that people have labelled replace it for the images that were captured for the
same reason (stratified prediction-powered inference: Fisch et al. 2024, section 3). For the others it remains that of
validation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MIN_IMAGES = 200  # recent images for an estimate: with fewer, drift could remain unnoticed
_MIN_LABELS = 10  # of the images captured for one reason, for their own error
_MAX_EXCESS = 0.05  # share of images out of distribution beyond the expected one
_Z = 1.959963984540054  # the normal quantile of 97.5%
_Z_EXCESS = 3.09  # the normal quantile of 99.9%
PROBABILITY_STEPS = 1000  # in which probabilities are counted
OUT_OF_DISTRIBUTION = "out_of_distribution"


class NoEstimate(StrEnum):
    """Why the accuracy cannot be estimated."""

    NO_REFERENCE = "no_reference"  # the model file has no statistics of the validation images
    TOO_FEW_IMAGES = "too_few_images"
    DRIFT = "drift"
    OUT_OF_DISTRIBUTION = "out_of_distribution"  # too many images are


@dataclass(frozen=True)
class ProbabilityError:
    """The mean of being right minus the probability, over images with labels, and its standard error."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> "ProbabilityError":
        """Return the error of independent images; one more, entirely wrong, is added: no error is certain to be 0."""
        count, mean = len(errors), sum(errors) / len(errors)
        return cls(mean, math.sqrt(sum((error - mean) ** 2 for error in errors) + 1) / count)


@dataclass(frozen=True)
class EstimatedAccuracy:
    """An estimate with its 95% interval, or why there is none; images: recent ones. labels: used for the estimate."""

    images: int
    labels: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: NoEstimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document, as in `AccuracyStatus`."""
        shares = {name: _round(getattr(self, name)) for name in ("value", "low", "high")}
        return {"images": self.images, "labels": self.labels, **shares, "reason": self.reason}


@dataclass
class RecentProbabilities:
    """The probabilities of the predicted classes of recent images, captured for the same reason or not captured.

    errors: of the images that people have labelled, being right (1 or 0) minus the probability.
    """

    count: int = 0
    total: float = 0.0
    variance: float = 0.0  # of the number of correct predictions
    errors: list[float] = field(default_factory=list)

    def add(self, probability: float, count: int) -> None:
        """Add images with this probability."""
        self.count += count
        self.total += count * probability
        self.variance += count * probability * (1 - probability)


def probability_value(reason: str | None, probability: float) -> str:
    """Return the value under which the store counts a prediction."""
    return f"{reason or ''}:{round(probability * PROBABILITY_STEPS)}"


def read_probabilities(
    counts: Mapping[str, int], labelled: Sequence[tuple[str, float, bool]]
) -> dict[str, RecentProbabilities]:
    """Return the recent probabilities by the reason of capture.

    counts: by `probability_value`. labelled: reason, probability, and whether the prediction is right.
    """
    recent: dict[str, RecentProbabilities] = {}
    for value, count in counts.items():
        reason, _, steps = value.rpartition(":")
        recent.setdefault(reason, RecentProbabilities()).add(int(steps) / PROBABILITY_STEPS, count)
    for reason, probability, is_right in labelled:
        if reason in recent:
            recent[reason].errors.append(is_right - probability)
    return recent


def estimate_accuracy(
    expected: Mapping[str, Any], recent: Mapping[str, RecentProbabilities], *, has_drifted: bool
) -> EstimatedAccuracy:
    """Return the estimate for recent images.

    expected: the statistics of the validation images in an exported file. recent: by the reason of capture.
    """
    images = sum(stratum.count for stratum in recent.values())
    if not (reference := expected.get("probability_error")):
        return EstimatedAccuracy(images, reason=NoEstimate.NO_REFERENCE)
    if images < MIN_IMAGES:
        return EstimatedAccuracy(images, reason=NoEstimate.TOO_FEW_IMAGES)
    if has_drifted:
        return EstimatedAccuracy(images, reason=NoEstimate.DRIFT)
    unexpected = _unexpected_share(expected, recent, images)
    if unexpected > _MAX_EXCESS:
        return EstimatedAccuracy(images, reason=NoEstimate.OUT_OF_DISTRIBUTION)
    error = ProbabilityError(reference["mean"], reference["standard_error"])
    return _estimate(error, recent, images, unexpected)


def _estimate(
    reference: ProbabilityError, recent: Mapping[str, RecentProbabilities], images: int, unexpected: float
) -> EstimatedAccuracy:
    """Return the estimate; the images that are unexpectedly out of distribution may all be wrong."""
    value, variance, labels, unlabelled = 0.0, 0.0, 0, 0
    for stratum in recent.values():
        value += stratum.total / images
        variance += stratum.variance / images**2
        if len(stratum.errors) < _MIN_LABELS:
            unlabelled += stratum.count
            continue
        error, share = ProbabilityError.of(stratum.errors), stratum.count / images
        value += share * error.mean
        variance += (share * error.standard_error) ** 2
        labels += len(stratum.errors)
    value += unlabelled / images * reference.mean
    variance += (unlabelled / images * reference.standard_error) ** 2
    half = _Z * math.sqrt(variance)
    value = min(1.0, max(0.0, value))
    return EstimatedAccuracy(images, labels, value, max(0.0, value - half - unexpected), min(1.0, value + half))


def _unexpected_share(expected: Mapping[str, Any], recent: Mapping[str, RecentProbabilities], images: int) -> float:
    """Return the share of images out of distribution beyond that of the validation images; 0 if not significant."""
    if OUT_OF_DISTRIBUTION not in recent:
        return 0.0
    share, usual = recent[OUT_OF_DISTRIBUTION].count / images, expected.get(OUT_OF_DISTRIBUTION, 0.0)
    deviation = math.sqrt(max(usual * (1 - usual), 1 / images) * (1 / images + 1 / max(1, expected["images"])))
    return max(0.0, share - usual) if share - usual > _Z_EXCESS * deviation else 0.0


def _round(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
