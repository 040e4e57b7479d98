"""What the test tells beyond its figures: doubts, mistakes and their likely causes, weak spots. The report shows it.

It looks at the test rows only after the figures are made, and changes nothing of the classifier.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.calibrate import Known
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import features_and_logits
from tellapart.curation.confident_learning import find_label_errors
from tellapart.data.batching import PixelTable, rows_of
from tellapart.data.dataset import Samples
from tellapart.data.image import Picture
from tellapart.data.threads import map_in_order
from tellapart.errors import CannotExplain, UnreadableImage
from tellapart.evaluation.explain import heat_maps, nearest, on_original, overlay
from tellapart.evaluation.robustness import CORRUPTIONS, Robustness, robustness
from tellapart.evaluation.slices import Column, Slice, property_columns, slices
from tellapart.inference.prediction import Answers
from tellapart.inference.predictor import Predictor
from tellapart.metrics import Estimate, reliability, wilson
from tellapart.metrics.calibration import Reliability
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Progress

_MISTAKES, _NEIGHBOURS = 24, 3
_PAIRS, _EXAMPLES = 6, 4  # of classes most often confused, and pictures of each
_SUSPECTS = 12
_LEAST, _MOST = 30, 1000  # pictures that are spoilt to see what it costs
_PROPERTIES_OF = 5000  # test pictures at most


@dataclass(frozen=True)
class Tested:
    """The test rows (N,) of the data, their pixels, labels (N,), and what the classifier says of them."""

    rows: NDArray[np.int64]
    pixels: PixelTable
    labels: NDArray[np.int64]
    answers: Answers

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each row (N,)."""
        found: NDArray[np.int64] = self.answers.probabilities.argmax(axis=1)
        return found


@dataclass(frozen=True)
class Shown:
    """A picture for the report, and what it is said to show; no picture if it cannot be read any more."""

    name: str
    label: str
    picture: Picture | None


@dataclass(frozen=True)
class Mistake:
    """A test picture that the classifier got wrong, where it looked (heat), and the training pictures most like it."""

    shown: Shown
    predicted: str
    probability: float
    heat: Picture | None
    neighbours: tuple[Shown, ...]


@dataclass(frozen=True)
class Confused:
    """Two classes, how often pictures of one are taken for the other, and some of these pictures."""

    label: str
    predicted: str
    times: int
    examples: tuple[Shown, ...]


@dataclass(frozen=True)
class Suspect:
    """A test picture whose label is probably wrong, with the label that it should have, and how probable that is."""

    shown: Shown
    suggested: str
    probability: float


@dataclass(frozen=True)
class Doubts:
    """The prediction sets and the unfamiliar pictures among N test pictures.

    covered: share of sets with the right class. alone: share of sets of one class. mean_size, sizes: of the sets, on
    average, and how many have how many classes. unfamiliar: share of pictures called so.
    """

    coverage: float
    covered: Estimate
    alone: Estimate
    mean_size: float
    sizes: dict[int, int]
    unfamiliar: Estimate


@dataclass(frozen=True)
class Examination:
    """All that is found out about a classifier on its test rows."""

    before: Reliability
    after: Reliability
    doubts: Doubts | None
    mistakes: tuple[Mistake, ...]
    wrong: int
    confused: tuple[Confused, ...]
    suspects: tuple[Suspect, ...]
    slices: tuple[Slice, ...]
    robustness: tuple[Robustness, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `report.json` has of it: everything but pictures."""
        doubts = self.doubts
        return {
            "sets": None if doubts is None else _doubts_json(doubts),
            "mistakes": [
                {
                    "path": mistake.shown.name,
                    "label": mistake.shown.label,
                    "predicted": mistake.predicted,
                    "probability": round(mistake.probability, 6),
                    "nearest": [{"path": near.name, "label": near.label} for near in mistake.neighbours],
                }
                for mistake in self.mistakes
            ],
            "wrong": self.wrong,
            "confused": [{"label": c.label, "predicted": c.predicted, "times": c.times} for c in self.confused],
            "suspected_labels": [
                {
                    "path": suspect.shown.name,
                    "label": suspect.shown.label,
                    "suggested": suspect.suggested,
                    "probability": round(suspect.probability, 6),
                }
                for suspect in self.suspects
            ],
            "slices": [found.to_json() for found in self.slices],
            "robustness": [found.to_json() for found in self.robustness],
        }


def examine(
    classifier: Predictor, samples: Samples, tested: Tested, known: Known | None, seconds: float, progress: Progress
) -> Examination:
    """Return what the test rows tell.

    known: training pictures, if they are at hand. seconds: that the test of spoilt pictures may take, which sets their
    number.
    """
    right = tested.predicted == tested.labels
    wrong = np.flatnonzero(~right)
    return Examination(
        reliability(_untempered(tested.answers.probabilities, classifier.temperature), tested.labels),
        reliability(tested.answers.probabilities, tested.labels),
        _doubts(classifier, tested),
        tuple(_mistakes(classifier, samples, tested, known, wrong)),
        len(wrong),
        tuple(_confused(classifier.classes, samples, tested, wrong)),
        tuple(_suspects(classifier.classes, samples, tested)),
        tuple(_slices(samples, tested, right)),
        tuple(_spoilt(classifier, tested, seconds, progress)),
    )


def _untempered(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return the probabilities (N, K) before calibration: softmax(z) from softmax(z / T)."""
    logs = temperature * np.log(probabilities.astype(np.float64).clip(1e-300))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    untempered: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return untempered


def _doubts(classifier: Predictor, tested: Tested) -> Doubts | None:
    sets, familiar, count = tested.answers.sets, tested.answers.familiar, len(tested.labels)
    if sets is None or familiar is None or classifier.sets is None:
        return None
    sizes = sets.sum(axis=1)
    return Doubts(
        classifier.sets.coverage,
        wilson(int(sets[np.arange(count), tested.labels].sum()), count),
        wilson(int((sizes == 1).sum()), count),
        float(sizes.mean()),
        dict(zip(*(part.tolist() for part in np.unique(sizes, return_counts=True)), strict=True)),
        wilson(int((~familiar).sum()), count),
    )


def _doubts_json(doubts: Doubts) -> dict[str, Any]:
    return {name: value.to_json() if isinstance(value, Estimate) else value for name, value in vars(doubts).items()}


def _mistakes(
    classifier: Predictor, samples: Samples, tested: Tested, known: Known | None, wrong: NDArray[np.int64]
) -> Iterator[Mistake]:
    """Yield the mistakes made with most confidence."""
    confidence = tested.answers.probabilities[wrong, tested.predicted[wrong]]
    places = wrong[np.argsort(-confidence, kind="stable")][:_MISTAKES]
    if not len(places):
        return
    pixels = rows_of(tested.pixels, places)
    neighbours = _neighbours(classifier, pixels, known)
    maps = _heat(classifier, pixels, tested.predicted[places])
    for number, place in enumerate(places.tolist()):
        shown, predicted = _shown(samples, int(tested.rows[place])), int(tested.predicted[place])
        heat = None
        if maps is not None and shown.picture is not None:
            height, width = shown.picture.shape[:2]
            heat = overlay(shown.picture, on_original(maps[number], height, width, classifier.preprocess))
        near = tuple(_shown(samples, int(row)) for row in neighbours[number])
        probability = float(tested.answers.probabilities[place, predicted])
        yield Mistake(shown, classifier.classes[predicted], probability, heat, near)


def _neighbours(classifier: Predictor, pixels: PixelTable, known: Known | None) -> NDArray[np.int64]:
    """Return the rows (n, 3) of the known pictures most like each of n, or (n, 0) if none are known."""
    if known is None or not isinstance(classifier, Classifier):
        return np.zeros((len(pixels), 0), np.int64)
    preprocess = Preprocess(classifier.preprocess).to(next(classifier.network.parameters()).device)
    features, _ = features_and_logits(classifier.network, preprocess, pixels)
    places, _ = nearest(features, known.features, min(_NEIGHBOURS, len(known.rows)))
    return known.rows[places]


def _heat(classifier: Predictor, pixels: PixelTable, classes: NDArray[np.int64]) -> NDArray[np.float32] | None:
    if not isinstance(classifier, Classifier):
        return None  # an exported file has no network to look into
    try:
        return heat_maps(classifier, pixels, classes)
    except CannotExplain:
        return None  # a network without places, such as a transformer


def _confused(
    classes: tuple[str, ...], samples: Samples, tested: Tested, wrong: NDArray[np.int64]
) -> Iterator[Confused]:
    """Yield the pairs of classes that are most often confused, in one direction."""
    pairs = tested.labels[wrong] * len(classes) + tested.predicted[wrong]
    found, times = np.unique(pairs, return_counts=True)
    for number in np.argsort(-times, kind="stable")[:_PAIRS].tolist():
        label, predicted = divmod(int(found[number]), len(classes))
        places = wrong[pairs == found[number]][:_EXAMPLES]
        examples = tuple(_shown(samples, int(row)) for row in tested.rows[places])
        yield Confused(classes[label], classes[predicted], int(times[number]), examples)


def _suspects(classes: tuple[str, ...], samples: Samples, tested: Tested) -> Iterator[Suspect]:
    """Yield the test pictures whose labels are probably wrong, the most suspicious first.

    Those of training are not among them: the classifier has learnt their labels, wrong ones too.
    """
    found = find_label_errors(tested.answers.probabilities, tested.labels)
    suspicious = found.ranking[found.wrong[found.ranking]]
    for place in suspicious[:_SUSPECTS].tolist():
        best = int(found.suggested[place])
        probability = float(tested.answers.probabilities[place, best])
        yield Suspect(_shown(samples, int(tested.rows[place])), classes[best], probability)


def _slices(samples: Samples, tested: Tested, right: NDArray[np.bool_]) -> list[Slice]:
    """Return the accuracy by properties of the pictures, of a part of them where there are many, and by columns."""
    step = -(-len(right) // _PROPERTIES_OF)
    rows = tested.rows[::step].tolist()
    columns: dict[str, Column] = {}
    with suppress(UnreadableImage):  # the pictures may have changed since training began
        columns |= property_columns(map_in_order(samples.pictures.picture, rows))
    columns |= {name: [values[row] for row in rows] for name, values in samples.columns.items()}
    return slices(right[::step], columns)


def _spoilt(classifier: Predictor, tested: Tested, seconds: float, progress: Progress) -> list[Robustness]:
    """Return what corruptions cost, on as many pictures as there is time for."""
    began = time.perf_counter()
    sample = rows_of(tested.pixels, np.arange(min(_LEAST, len(tested.labels))))
    classifier.of_pixels(sample)
    each = (time.perf_counter() - began) / len(sample)
    strengths = sum(len(corruption.amounts) for corruption in CORRUPTIONS.values())
    limit = int(np.clip(seconds / (each * strengths), _LEAST, _MOST))
    return robustness(classifier, tested.pixels, tested.labels, limit=limit, progress=progress)


def _shown(samples: Samples, row: int) -> Shown:
    try:
        picture = samples.pictures.picture(row)
    except UnreadableImage:
        picture = None  # it could be read a moment ago
    return Shown(samples.pictures.name(row), samples.label_name(row), picture)
