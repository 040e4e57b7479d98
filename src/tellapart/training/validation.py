"""Validation: the metrics of the validation split, and the selection of the best weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.classifier.forward import logits
from tellapart.data.batching import PixelDataset, select_rows
from tellapart.metrics import confusion_matrix, macro_f1, macro_f1_error, row_log_loss
from tellapart.models.base import Network
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.recipe.recipe import Recipe
from tellapart.training.checkpointing.state import Score, State
from tellapart.training.class_balance import adjust_logits
from tellapart.training.execution.distributed import Ranks
from tellapart.uncertainty.softmax import softmax

Metrics = dict[str, float]


@dataclass(frozen=True)
class Validator:
    """Validates the weights of a network and selects the best. train_labels (n,): for the logit adjustment."""

    preprocess: Preprocess
    recipe: Recipe
    train_labels: NDArray[np.int64]
    validation: PixelDataset
    num_classes: int
    ranks: Ranks

    def validate(self, network: Network) -> tuple[Score, Metrics]:
        """Return the score of the monitored metric, and all validation metrics."""
        pixels = self.validation.pixels
        outputs = self.ranks.gather_rows(
            lambda indices: logits(network, self.preprocess, select_rows(pixels, indices)), len(pixels)
        )
        return score_predictions(
            softmax(outputs), self.validation.labels, self.num_classes, self.recipe.schedule.monitor
        )

    def validate_epoch(self, state: State) -> None:
        """Validate the averaged weights, select them if they score as well as the best, and extend the history.

        The tolerance is one standard error of the best score (Breiman et al. 1984, "Classification and regression
        trees", section 3.4.3). On few validation images the highest score is mostly chance, and the later epoch, at a
        lower learning rate, is the better choice.
        """
        loss, correct, images = state.sums
        metrics = {
            "loss": loss / images,
            "train_accuracy": correct / images,
            "images_per_second": images / max(1e-9, state.seconds - state.epoch_start),
        }
        with self._averaged_weights(state):
            score, validation_metrics = self.validate(state.network)
            if score[0] > state.best_score[0]:
                state.best_score, state.best_epoch = score, state.epoch
            if score[0] >= state.best_score[0] - state.best_score[1]:
                state.selected_epoch = state.epoch
                state.select_weights()
        entry = {"epoch": state.epoch, "step": state.step, **metrics, **validation_metrics}
        state.history.append(entry | {"seconds": round(state.seconds, 3)})

    def validate_probe(self, state: State) -> Metrics:
        """Validate and select the linear probe: only better weights replace it. Return the metrics."""
        with self._averaged_weights(state):
            state.best_score, metrics = self.validate(state.network)
            state.select_weights()
        return metrics

    @contextmanager
    def _averaged_weights(self, state: State) -> Iterator[None]:
        """Inside the context, the network has the averaged weights as the classifier would have them."""
        training_weights = {name: value.clone() for name, value in state.network.state_dict().items()}
        averaged = state.averaged_weights()
        self.ranks.broadcast_tensors(averaged)
        state.network.load_state_dict(averaged)
        if self.recipe.loss.is_balanced and self.recipe.loss.logit_adjustment:
            adjust_logits(state.network, np.bincount(self.train_labels, minlength=self.num_classes))
        try:
            yield
        finally:
            state.network.load_state_dict(training_weights)


def score_predictions(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int, monitor: str
) -> tuple[Score, Metrics]:
    """Return the score of the monitored metric with its standard error, and all metrics, of probabilities (N, K)."""
    predicted = probabilities.argmax(axis=1)
    correct, losses = predicted == labels, row_log_loss(probabilities, labels)
    metrics = {
        "accuracy": float(correct.mean()),
        "macro_f1": macro_f1(confusion_matrix(predicted, labels, num_classes)),
        "log_loss": float(losses.mean()),
    }
    value = -metrics["log_loss"] if monitor == "log_loss" else metrics[monitor]
    if monitor == "macro_f1":
        error = macro_f1_error(predicted, labels, num_classes)
    else:
        # Two correct and two wrong predictions are added (Agresti and Coull 1998): a perfect score has an error, too.
        share = (correct.sum() + 2) / (len(labels) + 4)
        deviation = float(losses.std()) if monitor == "log_loss" else math.sqrt(share * (1 - share))
        error = deviation / math.sqrt(len(labels))
    score = (value, error)
    return score, {f"validation_{name}": metric for name, metric in metrics.items()}
