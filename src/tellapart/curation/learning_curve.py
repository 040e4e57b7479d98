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
from threadpoolctl import threadpool_limits

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
    """What `pictures` training pictures would bring: the accuracy, and its gain over that measured now, as shares."""

    pictures: int
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy by the number of training pictures, and what twice and four times as many would bring.

    sizes, accuracies: (J,) training pictures, and accuracy on the validation pictures, the mean over seeds. floor,
    scale, exponent: of the error that fits best, floor + scale * n ** -exponent. twice, four_times: forecasts.
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
        if gain.high < _HARDLY:
            return f"More pictures would hardly help: twice as many would bring {max(0.0, high):.1f} points at most."
        return f"Twice the pictures would bring about {value:.1f} points ({low:.1f} to {high:.1f})."

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
    curves", section 4). Forecasts are the median and the middle 95 % of resamples of the validation pictures, of the
    orders of the training pictures, and of the luck with them. Each resample also leaves out none, one or two of the
    smallest parts, and every other one takes the floor to be 0: where the law begins to hold, and whether the error has
    a floor, cannot be seen from so few sizes.

    Returns None where there is too little to tell: fewer than 20 validation pictures, or so few training pictures that
    their parts have fewer than 4 different sizes. Raises `WrongInput` for arrays that do not fit together.
    """
    _check(train_features, train_labels, validation_features, validation_labels)
    orders = [_stratified_shares(train_labels, np.random.default_rng([seed, number])) for number in range(_SEEDS)]
    shares = np.unique(orders[0])  # those whose parts are not of one size
    if len(shares) < _FEWEST_SIZES or len(validation_labels) < _FEWEST_VALIDATION:
        return None
    sizes = np.array([(orders[0] <= share).sum() for share in shares])  # J, alike for all orders
    inputs, validation_inputs = _standardised(train_features, validation_features)
    wrong = np.empty((_SEEDS, len(sizes), len(validation_labels)), np.float32)  # S J V
    # The products are small: on a busy machine two threads that wait for each other took 30 times as long as one.
    with threadpool_limits(1, "blas"):
        model = _fit(inputs, train_labels)
        wrong[:, -1] = model.predict(validation_inputs) != validation_labels  # all pictures, whatever their order
        for number, order in enumerate(orders):
            for size, share in enumerate(shares[:-1]):
                model = _fit(inputs[order <= share], train_labels[order <= share])
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


def _standardised(
    train: NDArray[np.floating], other: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bring features to zero mean and unit deviation on the training pictures, and rows to a length of about 1."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    # A feature that hardly ever speaks in training must not shout in validation.
    deviation = np.maximum(deviation, 0.01 * deviation.mean() + 1e-12) * np.sqrt(train.shape[1])
    return ((train - mean) / deviation).astype(np.float32), ((other - mean) / deviation).astype(np.float32)


def _fit(inputs: NDArray[np.float32], labels: NDArray[np.integer]) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the steps are limited on purpose
        return LogisticRegression(C=10.0, max_iter=_STEPS).fit(inputs, labels)


def _extend(sizes: NDArray[np.int64], wrong: NDArray[np.float32], random: np.random.Generator) -> LearningCurve:
    """Fit the law to wrong answers (S, J, V), and to resamples of them, and read off what more pictures would bring."""
    count, pictures = wrong.shape[1:]
    relative = sizes / sizes[-1]  # J
    errors = wrong.mean(axis=(0, 2))  # J
    weights = pictures / (errors * (1 - errors) + 1 / pictures)  # J, inverse variance of a share
    drawn = _resampled_errors(wrong, random)  # R J
    lucky = random.normal(1, _luck(relative, wrong.mean(axis=2)), drawn.shape)
    begins = random.integers(0, count - 2, _RESAMPLES)  # at least three parts stay
    kept = weights * (np.arange(count) >= begins[:, None])  # R J
    highest_floor = np.where(random.random(_RESAMPLES) < 0.5, 0, np.inf)
    laws = _fit_law(relative, (drawn * lucky).clip(0, 1), kept, highest_floor)
    floor, scale, exponent = _fit_law(relative, errors[None], weights[None], np.array([np.inf]))[0].tolist()
    return LearningCurve(
        tuple(sizes.tolist()),
        tuple((1 - errors).tolist()),
        floor,
        scale * float(sizes[-1]) ** exponent,
        exponent,
        *(_forecast(int(sizes[-1]), times, drawn[:, -1], laws) for times in (2, 4)),
    )


def _resampled_errors(wrong: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float64]:
    """Return errors (R, J) of wrong answers (S, J, V) with seeds and validation pictures drawn with replacement."""
    seeds, _, pictures = wrong.shape
    picked = random.multinomial(pictures, np.full(pictures, 1 / pictures), _RESAMPLES) / pictures  # R V
    mixed = random.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES) / seeds  # R S
    errors: NDArray[np.float64] = np.einsum("rs,rsj->rj", mixed, np.einsum("rv,sjv->rsj", picked, wrong, optimize=True))
    return errors


def _luck(relative: NDArray[np.float64], errors: NDArray[np.float32]) -> float:
    """Return how far the error strays, relative to itself, with which pictures happened to be there for training.

    All orders draw on the same pictures, so what their parts (S, J) tell is scaled up as in sampling without
    replacement (Cochran 1977, "Sampling techniques", section 2.5): a part of share s varies by (1 - s) / s of it.
    """
    shares, mean = relative[:-1], errors.mean(axis=0)[:-1]
    strays = errors.var(axis=0, ddof=1)[:-1] / np.maximum(mean, 1e-6) ** 2
    return float(np.sqrt((strays * shares / (1 - shares)).mean()))


def _forecast(now: int, times: int, errors: NDArray[np.float64], laws: NDArray[np.float64]) -> Forecast:
    """Return what `times` as many pictures would bring, by resamples of the error now (R,) and of the law (R, 3)."""
    floor, scale, exponent = laws.T
    then = floor + scale * float(times) ** -exponent
    return Forecast(times * now, _estimate(1 - then), _estimate(errors - then))


def _fit_law(
    relative: NDArray[np.float64],
    errors: NDArray[np.float64],
    weights: NDArray[np.float64],
    highest_floor: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Fit floor + scale * relative ** -exponent to errors (R, J) by least squares, with weights (R, J); return (R, 3).

    Given the exponent the two others have a closed form, with the floor held from 0 to `highest_floor` (R,) and the
    scale at 0 or above; so all exponents of a grid are tried.
    """
    total = weights.sum(axis=1)  # R
    mean = (weights * errors).sum(axis=1) / total
    best, best_cost = np.zeros((len(errors), 3)), np.full(len(errors), np.inf)
    for exponent in _EXPONENTS:
        power = relative**-exponent  # J
        centre = weights @ power / total
        spread = (weights * (power - centre[:, None]) ** 2).sum(axis=1)
        slope = (weights * (power - centre[:, None]) * errors).sum(axis=1) / spread
        floor = (mean - np.maximum(slope, 0) * centre).clip(0, highest_floor)
        scale = ((weights * power * (errors - floor[:, None])).sum(axis=1) / (weights @ power**2)).clip(0)
        cost = (weights * (floor[:, None] + scale[:, None] * power - errors) ** 2).sum(axis=1)
        better = cost < best_cost
        best[better] = np.stack([floor, scale, np.full(len(floor), exponent)], axis=1)[better]
        best_cost[better] = cost[better]
    return best


def _estimate(draws: NDArray[np.float64]) -> Estimate:
    low, value, high = np.quantile(draws, [0.025, 0.5, 0.975])
    return Estimate(float(value), float(low), float(high))
