"""A trained classifier learns from validation pictures what to say of its own answers."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.classifier import Classifier
from tellapart.classifier.forward import features_and_logits
from tellapart.data.batching import Part, rows_of
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.recipe import Recipe
from tellapart.uncertainty.conformal import fit_sets
from tellapart.uncertainty.ood import fit_familiarity
from tellapart.uncertainty.softmax import softmax
from tellapart.uncertainty.temperature import fit_temperature

_PICTURES = 5000  # of training, at most, that say what is familiar


@dataclass(frozen=True)
class Known:
    """Training pictures that new ones are likened to: their rows (n,) in the data, and features (n, F)."""

    rows: NDArray[np.int64]
    features: NDArray[np.float32]


def with_confidence(classifier: Classifier, train: Part, validation: Part, recipe: Recipe) -> tuple[Classifier, Known]:
    """Return the classifier with its temperature, prediction sets and what is familiar, and the pictures that are."""
    network, settings = classifier.network, recipe.evaluation
    preprocess = Preprocess(classifier.preprocess).to(next(network.parameters()).device)
    unseen, logits = features_and_logits(network, preprocess, validation.pixels)
    temperature = fit_temperature(logits, validation.labels)
    probabilities = softmax(logits, temperature)
    sets = fit_sets(probabilities, validation.labels, settings.coverage, settings.class_conditional)
    places = np.sort(np.random.default_rng(recipe.seed).permutation(len(train.rows))[:_PICTURES])
    features, _ = features_and_logits(network, preprocess, rows_of(train.pixels, places))
    familiarity = fit_familiarity(features, train.labels[places], unseen, settings.unfamiliar_share)
    facts = classifier.facts | {"expected": _expected(probabilities, familiarity.distances(unseen))}
    sure = replace(classifier, temperature=temperature, sets=sets, familiarity=familiarity, facts=facts)
    return sure, Known(train.rows[places], features)


def _expected(probabilities: NDArray[np.float32], distances: NDArray[np.float64]) -> dict[str, Any]:
    """Return what is to be seen of pictures such as those of validation, for a server to tell when they change.

    How often each class is predicted, and the distances from the training pictures that lie beyond each tenth of them.
    """
    classes = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    deciles = np.quantile(distances, np.arange(1, 10) / 10)
    return {"pictures": len(distances), "classes": classes.tolist(), "deciles": deciles.tolist()}
