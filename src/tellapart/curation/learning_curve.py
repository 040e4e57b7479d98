"""Accuracy by number of training images, on frozen features, and its extrapolation.

Letters: n training images, N of them in total; V validation images; F features; K classes; S orders of the training
images; J sizes; R bootstrap draws.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from tellapart.errors import InputShapeError
from tellapart.metrics import Estimate
from tellapart.metrics.intervals import Z
from tellapart.metrics.resampling import percentile_interval

_SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)
_ORDERS = 5
_MIN_SIZES = 4  # the curve has three parameters
_MIN_VALIDATION = 20
_MIN_PER_CLASS = 10  # training images on average: with fewer, the smallest subsets have one of each, far from the law
_MAX_ITERATIONS = 100  # of the solver: further ones do not change the predictions
_DRAWS = 1000
_EXPONENTS = np.linspace(0.1, 2.0, 39)
_NEGLIGIBLE_GAIN = 0.005
_UNSEEN_EXPONENTS = (0.2, 1.0)  # of the power law of an error that no validation image has shown


@dataclass(frozen=True)
class Forecast:
    """The accuracy expected with `images` training images, and its gain over the accuracy measured now."""

    images: int
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy by number of training images, with forecasts for two and four times as many.

    sizes, accuracies: (J,) training images, and validation accuracy, the mean over orders. floor, scale, exponent: of
    the power law that fits the error best, floor + scale * n ** -exponent.
    """

    sizes: tuple[int, ...]
    accuracies: tuple[float, ...]
    floor: float
    scale: float
    exponent: float
    twice: Forecast
    four_times: Forecast

    @property
    def more_data_helps(self) -> bool:
        """Whether twice as many images may raise the accuracy by half a percentage point or more."""
        return self.twice.gain.high >= _NEGLIGIBLE_GAIN

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        gain = self.twice.gain
        value, low, high = (100 * share for share in (gain.value, gain.low, gain.high))
        if not self.more_data_helps:
            limit = f"{max(0.0, high):.1f} percentage points"
            return f"More images would hardly help: twice as many would add at most {limit}."
        change = f"{value:.1f} percentage points of accuracy ({low:.1f} to {high:.1f})"
        return f"Twice as many images would add about {change}."

    def to_json(self) -> dict[str, Any]:
        """Return the curve as a JSON object."""
        forecasts = {
            name: {"images": f.images, "accuracy": f.accuracy.to_json(), "gain": f.gain.to_json()}
            for name, f in (("twice", self.twice), ("four_times", self.four_times))
        }
        return {
            "sizes": list(self.sizes),
            "accuracies": list(self.accuracies),
            "power_law": {"floor": self.floor, "scale": self.scale, "exponent": self.exponent},
            **forecasts,
            "verdict": self.verdict,
        }


def fit_learning_curve(
    train_features: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    validation_features: NDArray[np.floating],
    validation_labels: NDArray[np.integer],
    seed: int = 0,
    groups: NDArray[np.integer] | None = None,
) -> LearningCurve | None:
    """Fit a linear classifier on growing subsets of the training images, and extrapolate its error.

    train_features: (N, F). train_labels: (N,), of at least 2 classes. validation_features: (V, F). validation_labels:
    (V,). The subsets are nested and stratified. The error is modelled as a + b n^-c (Hestness et al. 2017, "Deep
    learning scaling is predictable, empirically", section 2; Viering and Loog 2021, "The shape of learning curves",
    section 4). A forecast is the median, with the middle 95%, of bootstrap draws of the validation images and of the
    orders of the training images, with noise for the choice of training images. Each draw also omits none, one or two
    of the smallest subsets, and half of the draws fix the floor at 0: the sizes are too few to show where the power law
    begins, and whether the error has a floor. Half an error is added to the validation images (Jeffreys' prior), which
    more training images would also reduce: few images without an error do not show that more would not help.
    groups (V,): the independent unit of each validation image; then whole units are drawn.

    Returns None with fewer than 20 validation images or a single unit of them, with fewer than 10 training images per
    class on average, or with so few training images that the subsets have fewer than 4 different sizes. Raises
    `InputShapeError` for arrays of the wrong shape.
    """
    _check(train_features, train_labels, validation_features, validation_labels)
    if has_too_few(train_labels, len(validation_labels), groups):
        return None
    orders = [_stratified_shares(train_labels, np.random.default_rng([seed, number])) for number in range(_ORDERS)]
    shares = np.unique(orders[0])  # without shares whose subset equals the next smaller one
    if len(shares) < _MIN_SIZES:
        return None
    sizes = np.array([(orders[0] <= share).sum() for share in shares])  # J, the same for all orders
    inputs, validation_inputs = _standardize(train_features, validation_features)
    wrong = np.empty((_ORDERS, len(sizes), len(validation_labels)), np.float32)  # S J V
    # The matrices are small: with two BLAS threads this took 30 times as long on a busy machine.
    with threadpool_limits(1, "blas"):
        model = _fit(inputs, train_labels)
        wrong[:, -1] = model.predict(validation_inputs) != validation_labels  # all images: the order is irrelevant
        for number, order in enumerate(orders):
            for size, share in enumerate(shares[:-1]):
                model = _fit(inputs[order <= share], train_labels[order <= share])
                wrong[number, size] = model.predict(validation_inputs) != validation_labels
    return _extrapolate(sizes, wrong, groups, np.random.default_rng([seed, _ORDERS]))


def has_too_few(train_labels: NDArray[np.integer], validation_images: int, groups: NDArray[np.integer] | None) -> bool:
    """Return whether a curve cannot be fitted, whatever the features are: known before they are computed."""
    is_single = groups is not None and len(np.unique(groups)) == 1
    is_small = len(train_labels) < _MIN_PER_CLASS * len(np.unique(train_labels))
    return is_single or is_small or validation_images < _MIN_VALIDATION


def _check(
    train_features: NDArray[Any], train_labels: NDArray[Any], features: NDArray[Any], labels: NDArray[Any]
) -> None:
    if train_features.ndim != 2 or features.ndim != 2 or train_features.shape[1] != features.shape[1]:
        raise InputShapeError(
            f"Expected features (N, F) and (V, F) of the same width, got {train_features.shape} and {features.shape}."
        )
    if train_labels.shape != train_features.shape[:1] or labels.shape != features.shape[:1]:
        raise InputShapeError(
            f"Expected {len(train_features)} training and {len(features)} validation labels, got shapes "
            f"{train_labels.shape} and {labels.shape}."
        )
    if len(np.unique(train_labels)) < 2:
        raise InputShapeError("Expected training labels of at least 2 classes, got fewer.")


def _stratified_shares(labels: NDArray[np.integer], random: np.random.Generator) -> NDArray[np.float64]:
    """Return for each row (N,) the smallest of `_SHARES` whose subset has it; every subset has each class."""
    shares = np.empty(len(labels))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        ends = [max(1, round(share * len(rows))) for share in _SHARES]
        shares[rows] = np.array(_SHARES)[np.searchsorted(ends, np.arange(len(rows)), side="right")]
    return shares


def _standardize(
    train: NDArray[np.floating], other: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale features to zero mean and unit deviation on the training images, and rows to a norm of about 1."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    # The lower bound keeps a feature that is almost constant in training from dominating in validation.
    deviation = np.maximum(deviation, 0.01 * deviation.mean() + 1e-12) * np.sqrt(train.shape[1])
    return ((train - mean) / deviation).astype(np.float32), ((other - mean) / deviation).astype(np.float32)


def _fit(inputs: NDArray[np.float32], labels: NDArray[np.integer]) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are limited on purpose
        return LogisticRegression(C=10.0, max_iter=_MAX_ITERATIONS).fit(inputs, labels)


def _extrapolate(
    sizes: NDArray[np.int64],
    wrong: NDArray[np.float32],
    groups: NDArray[np.integer] | None,
    random: np.random.Generator,
) -> LearningCurve:
    """Fit the power law to wrong predictions (S, J, V) and to bootstrap draws of them, and forecast."""
    n_sizes, images = wrong.shape[1:]
    relative = sizes / sizes[-1]  # J
    errors = wrong.mean(axis=(0, 2))  # J
    weights = images / (errors * (1 - errors) + 1 / images)  # J, inverse variance of a proportion
    n_units = images if groups is None else len(np.unique(groups))
    # Resamples of few units vary too little (Efron and Tibshirani 1993, "An introduction to the bootstrap", section
    # 12.2), and their deviations from the mean have Student's distribution.
    wider = float(student.ppf(0.975, n_units - 1)) / Z * math.sqrt(n_units / (n_units - 1))
    draws = errors + wider * (_bootstrap_errors(wrong, groups, random) - errors)  # R J
    unseen = random.gamma(0.5, size=(_DRAWS, 1)) / (n_units + 1)  # R 1
    draws = (draws + unseen * relative ** -random.uniform(*_UNSEEN_EXPONENTS, (_DRAWS, 1))).clip(0, 1)
    noise = random.normal(1, _sampling_deviation(relative, wrong.mean(axis=2)), draws.shape)
    starts = random.integers(0, n_sizes - 2, _DRAWS)  # at least three subsets remain
    draw_weights = weights * (np.arange(n_sizes) >= starts[:, None])  # R J
    max_floor = np.where(random.random(_DRAWS) < 0.5, 0, np.inf)
    laws = _fit_power_law(relative, (draws * noise).clip(0, 1), draw_weights, max_floor)
    best_law = _fit_power_law(relative, errors[None], weights[None], np.array([np.inf]))[0]
    floor, scale, exponent = best_law.tolist()
    return LearningCurve(
        sizes=tuple(sizes.tolist()),
        accuracies=tuple((1 - errors).tolist()),
        floor=floor,
        scale=scale * float(sizes[-1]) ** exponent,
        exponent=exponent,
        twice=_forecast(int(sizes[-1]), 2, draws[:, -1], laws),
        four_times=_forecast(int(sizes[-1]), 4, draws[:, -1], laws),
    )


def _bootstrap_errors(
    wrong: NDArray[np.float32], groups: NDArray[np.integer] | None, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return errors (R, J) of wrong predictions (S, J, V), with orders and units of validation images resampled."""
    orders, _, images = wrong.shape
    unit = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_units = int(unit.max()) + 1
    image_weights = random.multinomial(n_units, np.full(n_units, 1 / n_units), _DRAWS)[:, unit].astype(np.float64)
    image_weights /= image_weights.sum(axis=1, keepdims=True)  # R V
    order_weights = random.multinomial(orders, np.full(orders, 1 / orders), _DRAWS) / orders  # R S
    by_order = np.einsum("rv,sjv->rsj", image_weights, wrong, optimize=True)
    errors: NDArray[np.float64] = np.einsum("rs,rsj->rj", order_weights, by_order)
    return errors


def _sampling_deviation(relative: NDArray[np.float64], errors: NDArray[np.float32]) -> float:
    """Return the relative standard deviation of the error over samples of training images of the same size.

    All orders sample the same images, so the variance between their errors (S, J) is corrected for sampling without
    replacement (Cochran 1977, "Sampling techniques", section 2.5): a subset of share s has (1 - s) / s of it.
    """
    shares, mean = relative[:-1], errors.mean(axis=0)[:-1]
    variances = errors.var(axis=0, ddof=1)[:-1] / np.maximum(mean, 1e-6) ** 2
    return float(np.sqrt((variances * shares / (1 - shares)).mean()))


def _forecast(images: int, factor: int, errors: NDArray[np.float64], laws: NDArray[np.float64]) -> Forecast:
    """Return the forecast for `factor` times as many images, from draws of the error (R,) and of the law (R, 3)."""
    floor, scale, exponent = laws.T
    forecast_errors = floor + scale * float(factor) ** -exponent
    return Forecast(factor * images, _median_interval(1 - forecast_errors), _median_interval(errors - forecast_errors))


def _fit_power_law(
    relative: NDArray[np.float64],
    errors: NDArray[np.float64],
    weights: NDArray[np.float64],
    max_floor: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Fit floor + scale * relative ** -exponent to errors (R, J) by least squares, with weights (R, J); return (R, 3).

    Given the exponent, the other two have a closed form, with the floor between 0 and `max_floor` (R,) and the scale at
    least 0; so a grid of exponents is searched.
    """
    total = weights.sum(axis=1)  # R
    mean = (weights * errors).sum(axis=1) / total
    best, best_cost = np.zeros((len(errors), 3)), np.full(len(errors), np.inf)
    for exponent in _EXPONENTS:
        power = relative**-exponent  # J
        center = weights @ power / total
        spread = (weights * (power - center[:, None]) ** 2).sum(axis=1)
        slope = (weights * (power - center[:, None]) * errors).sum(axis=1) / spread
        floor = (mean - np.maximum(slope, 0) * center).clip(0, max_floor)
        scale = ((weights * power * (errors - floor[:, None])).sum(axis=1) / (weights @ power**2)).clip(0)
        cost = (weights * (floor[:, None] + scale[:, None] * power - errors) ** 2).sum(axis=1)
        improved = cost < best_cost
        best[improved] = np.stack([floor, scale, np.full(len(floor), exponent)], axis=1)[improved]
        best_cost[improved] = cost[improved]
    return best


def _median_interval(draws: NDArray[np.float64]) -> Estimate:
    return percentile_interval(draws, float(np.quantile(draws, 0.5)))
