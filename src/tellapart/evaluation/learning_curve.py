"""Would more pictures help? Accuracy against the number of training pictures, on frozen features, and beyond it.

Letters: n training pictures, N of them in all; V validation pictures; F features; K classes; S seeds; J sizes.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tellapart.errors import WrongInput
from tellapart.metrics import Estimate

_SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)
_SEEDS = 5
_FEWEST_SIZES = 4  # a curve of three parameters needs one more
_FEWEST_VALIDATION = 20
_STEPS = 100  # of the solver: what comes after changes no answer
_RESAMPLES = 1000
_EXPONENTS = np.linspace(0.1, 2.0, 39)
_HARDLY = 0.005  # a gain that is surely below half a point is not worth collecting for


@dataclass(frozen=True)
class Forecast:
    """What `pictures` training pictures would bring: the accuracy, and its gain over that of now; 0 to 1."""

    pictures: int
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy by the number of training pictures, and what twice and four times as many would bring.

    sizes, accuracies: (J,) training pictures, and accuracy on the validation pictures, the mean over seeds. floor,
    scale, exponent: of the error, floor + scale * n ** -exponent. twice, four_times: forecasts by that law.
    """

    sizes: tuple[int, ...]
    accuracies: tuple[float, ...]
    floor: float
    scale: float
    exponent: float
    twice: Forecast
    four_times: Forecast

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        gain = self.twice.gain
        value, low, high = (100 * figure for figure in (gain.value, gain.low, gain.high))
        about = f"about {value:.1f} points ({low:.1f} to {high:.1f})"
        if gain.high < _HARDLY:
            return f"More pictures would hardly help: twice as many would bring {about}."
        return f"Twice the pictures would bring {about}."

    def to_json(self) -> dict[str, Any]:
        """Return the curve as a JSON object."""
        forecasts = {
            name: {"pictures": f.pictures, "accuracy": f.accuracy.to_json(), "gain": f.gain.to_json()}
            for name, f in (("twice", self.twice), ("four_times", self.four_times))
        }
        law = {"floor": self.floor, "scale": self.scale, "exponent": self.exponent}
        return {
            "sizes": list(self.sizes),
            "accuracies": list(self.accuracies),
            "law": law,
            **forecasts,
            "verdict": self.verdict,
        }


def learning_curve(
    train_features: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    validation_features: NDArray[np.floating],
    validation_labels: NDArray[np.integer],
    seed: int = 0,
) -> LearningCurve | None:
    """Fit a linear classifier on growing parts of the training pictures, and extend the curve of its error.

    train_features: (N, F). train_labels: (N,), of at least 2 classes. validation_features: (V, F). validation_labels:
    (V,). The parts are nested and hold each class in its share. The error is taken to be a + b n^-c (Hestness et al.
    2017, "Deep learning scaling is predictable, empirically", section 2; Viering and Loog 2021, "The shape of learning
    curves", section 4). The intervals (95 %) are those of resampled validation pictures and orders of the training
    pictures; each resample also leaves out none, one or two of the smallest parts, as it is not known where the law
    begins to hold.

    Returns None where there is too little to tell: fewer than 20 validation pictures, or so few training pictures that
    their parts have fewer than 4 different sizes. Raises `WrongInput` for arrays that do not fit together.
    """
    _check(train_features, train_labels, validation_features, validation_labels)
    orders = [_stratified_shares(train_labels, np.random.default_rng([seed, number])) for number in range(_SEEDS)]
    shares = _different_shares(orders[0])
    if len(shares) < _FEWEST_SIZES or len(validation_labels) < _FEWEST_VALIDATION:
        return None
    sizes = np.array([(orders[0] <= share).sum() for share in shares])  # J, alike for all orders
    inputs, validation_inputs = _standardised(train_features, validation_features)
    wrong = np.empty((_SEEDS, len(sizes), len(validation_labels)), np.float32)  # S J V
    for size, share in enumerate(shares):
        for number, order in enumerate(orders):
            rows = order <= share
            if number and rows.all():
                wrong[number, size] = wrong[0, size]  # all pictures: the order does not matter
                continue
            model = _fit(inputs[rows], train_labels[rows])
            wrong[number, size] = model.predict(validation_inputs) != validation_labels
    return _extend(sizes, wrong, np.random.default_rng([seed, _SEEDS]))


def _check(
    train_features: NDArray[Any], train_labels: NDArray[Any], features: NDArray[Any], labels: NDArray[Any]
) -> None:
    if train_features.ndim != 2 or features.ndim != 2 or train_features.shape[1] != features.shape[1]:
        raise WrongInput(
            f"Expected features (N, F) and (V, F) of the same width, found {train_features.shape} and {features.shape}."
        )
    if train_labels.shape != train_features.shape[:1] or labels.shape != features.shape[:1]:
        raise WrongInput(
            f"Expected one label for each row of {len(train_features)} and {len(features)}, found "
            f"{train_labels.shape} and {labels.shape}."
        )
    if len(np.unique(train_labels)) < 2:
        raise WrongInput("Expected training labels of at least two classes, found fewer.")


def _stratified_shares(labels: NDArray[np.integer], random: np.random.Generator) -> NDArray[np.float64]:
    """Return for each row (N,) the smallest of `_SHARES` whose part holds it; the first of each class is in all."""
    found = np.empty(len(labels))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        ends = [max(1, round(share * len(rows))) for share in _SHARES]
        found[rows] = np.array(_SHARES)[np.searchsorted(ends, np.arange(len(rows)), side="right")]
    return found


def _different_shares(order: NDArray[np.float64]) -> list[float]:
    """Return the shares whose parts are not of the same size as the one before."""
    return sorted(set(order.tolist()))


def _standardised(
    train: NDArray[np.floating], other: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bring features to zero mean and unit deviation on the training pictures, and rows to a length of about 1."""
    mean, width = train.mean(axis=0), np.sqrt(train.shape[1])
    deviation = train.std(axis=0) * width + 1e-6
    return ((train - mean) / deviation).astype(np.float32), ((other - mean) / deviation).astype(np.float32)


def _fit(inputs: NDArray[np.float32], labels: NDArray[np.integer]) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the steps are limited on purpose
        return LogisticRegression(C=10.0, max_iter=_STEPS).fit(inputs, labels)


def _extend(sizes: NDArray[np.int64], wrong: NDArray[np.float32], random: np.random.Generator) -> LearningCurve:
    """Fit the law to wrong answers (S, J, V), and to resamples of them, and read off what more pictures would bring."""
    seeds, count, pictures = wrong.shape
    relative = sizes / sizes[-1]  # J
    errors = wrong.mean(axis=(0, 2))  # J
    weights = pictures / (errors * (1 - errors) + 1 / pictures)  # J, inverse variance of a share
    picked = random.multinomial(pictures, np.full(pictures, 1 / pictures), _RESAMPLES) / pictures  # R V
    mixed = random.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES) / seeds  # R S
    drawn = np.einsum("rs,rsj->rj", mixed, np.einsum("rv,sjv->rsj", picked, wrong, optimize=True))
    begins = random.integers(0, count - 2, _RESAMPLES)  # at least three parts stay
    kept = weights * (np.arange(count) >= begins[:, None])  # R J
    measured, resampled = _fit_law(relative, errors[None], weights[None]), _fit_law(relative, drawn, kept)
    floor, scale, exponent = measured[0].tolist()
    return LearningCurve(
        tuple(sizes.tolist()),
        tuple((1 - errors).tolist()),
        floor,
        scale * float(sizes[-1]) ** exponent,
        exponent,
        *(_forecast(int(sizes[-1]), times, measured, resampled) for times in (2, 4)),
    )


def _forecast(now: int, times: int, measured: NDArray[np.float64], resampled: NDArray[np.float64]) -> Forecast:
    """Return what `times` as many pictures would bring by the law measured (1, 3) and its resamples (R, 3)."""
    error, errors = _error(measured, times)[0], _error(resampled, times)
    gain, gains = _error(measured, 1)[0] - error, _error(resampled, 1) - errors
    return Forecast(times * now, _estimate(1 - error, 1 - errors), _estimate(gain, gains))


def _fit_law(
    relative: NDArray[np.float64], errors: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit floor + scale * relative ** -exponent to errors (R, J) by least squares, with weights (R, J); return (R, 3).

    Given the exponent the two others have a closed form, held at 0 or above, so all exponents of a grid are tried.
    """
    total = weights.sum(axis=1)  # R
    mean = (weights * errors).sum(axis=1) / total
    best, best_cost = np.zeros((len(errors), 3)), np.full(len(errors), np.inf)
    for exponent in _EXPONENTS:
        power = relative**-exponent  # J
        centre = weights @ power / total
        spread = (weights * (power - centre[:, None]) ** 2).sum(axis=1)
        slope = (weights * (power - centre[:, None]) * errors).sum(axis=1) / spread
        through_zero = (weights * power * errors).sum(axis=1) / (weights @ power**2)
        no_floor = slope * centre > mean
        scale = np.where(no_floor, through_zero, np.maximum(slope, 0))
        floor = np.where(no_floor, 0, mean - scale * centre)
        cost = (weights * (floor[:, None] + scale[:, None] * power - errors) ** 2).sum(axis=1)
        better = cost < best_cost
        best[better] = np.stack([floor, scale, np.full(len(floor), exponent)], axis=1)[better]
        best_cost[better] = cost[better]
    return best


def _error(law: NDArray[np.float64], times: int) -> NDArray[np.float64]:
    """Return the error (R,) of each law (R, 3) at so many times the pictures of now."""
    floor, scale, exponent = law.T
    errors: NDArray[np.float64] = floor + scale * float(times) ** -exponent
    return errors


def _estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))
