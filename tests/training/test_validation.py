"""Validation: metrics against scikit-learn, and the epoch that each monitored metric selects."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from folders import QUICK, digit_folder
from recording import RecordingProgress
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.training import validation
from tellapart.training.validation import score_predictions


def binary_predictions(true_class_probabilities, labels):
    """Return probabilities (N, 3) with those of the true class; class 2 has none."""
    probabilities = np.zeros((len(labels), 3), np.float32)
    rows = np.arange(len(labels))
    probabilities[rows, labels] = true_class_probabilities
    probabilities[rows, 1 - labels] = 1 - np.asarray(true_class_probabilities)
    return probabilities, labels


BALANCED = np.arange(100) % 2
RARE = (np.arange(100) >= 95).astype(np.int64)
# By epoch: the best accuracy, by predicting the frequent class; the best F1; the best log loss.
EPOCHS = [
    binary_predictions(np.where(RARE, 0.49, 0.51), RARE),
    binary_predictions(np.where(np.arange(100) < 80, 0.51, 0.1), BALANCED),
    binary_predictions(np.where(np.arange(100) < 70, 0.99, 0.49), BALANCED),
]


@pytest.mark.parametrize("number", range(3))
def test_metrics_equal_those_of_scikit_learn(number):
    probabilities, labels = EPOCHS[number]
    predicted = probabilities.argmax(axis=1)
    metrics = score_predictions(probabilities, labels, 3, "accuracy")[1]
    assert metrics["validation_accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["validation_macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert metrics["validation_log_loss"] == pytest.approx(log_loss(labels, probabilities[:, :2]), rel=1e-5)


@pytest.mark.parametrize("monitor", ["accuracy", "macro_f1", "log_loss"])
def test_the_score_is_the_monitored_metric_and_higher_is_better(monitor):
    for probabilities, labels in EPOCHS:
        (score, standard_error), metrics = score_predictions(probabilities, labels, 3, monitor)
        value = metrics[f"validation_{monitor}"]
        assert score == (-value if monitor == "log_loss" else value)
        assert standard_error > 0


@pytest.mark.parametrize(("monitor", "epoch"), [("accuracy", 1), ("macro_f1", 2), ("log_loss", 3)])
def test_training_selects_the_weights_of_the_best_epoch_by_the_monitored_metric(tmp_path, monkeypatch, monitor, epoch):
    epochs = iter(EPOCHS)

    def score_epoch(probabilities, labels, num_classes, monitor):
        return score_predictions(*next(epochs), num_classes, monitor)

    monkeypatch.setattr(validation, "score_predictions", score_epoch)
    progress, source = RecordingProgress(), digit_folder(tmp_path / "digits", 3, 12)
    train(source, out=tmp_path / "run", progress=progress, monitor=monitor, **(QUICK | {"epochs": 3}))
    assert progress.values(Event.TRAINING_END) == [{"epoch": epoch}]


def test_a_later_epoch_within_one_standard_error_of_the_best_is_selected(tmp_path, monkeypatch):
    accuracies = iter([0.90, 0.89, 0.70])

    def score_epoch(probabilities, labels, num_classes, monitor):
        accuracy = next(accuracies)
        metrics = dict.fromkeys(("validation_accuracy", "validation_macro_f1", "validation_log_loss"), accuracy)
        return (accuracy, 0.02), metrics

    monkeypatch.setattr(validation, "score_predictions", score_epoch)
    progress, source = RecordingProgress(), digit_folder(tmp_path / "digits", 3, 12)
    train(source, out=tmp_path / "run", progress=progress, **(QUICK | {"epochs": 3}))
    assert progress.values(Event.TRAINING_END) == [{"epoch": 2}]


def test_the_error_of_macro_f1_is_that_of_simulated_splits():
    random = np.random.default_rng(0)

    def draw(count):
        labels = random.choice(3, count, p=[0.6, 0.3, 0.1])
        probabilities = random.dirichlet([1, 1, 1], count) + np.eye(3)[labels] * 0.8
        return (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32), labels

    scores = [score_predictions(*draw(200), 3, "macro_f1")[0] for _ in range(400)]
    assert np.mean([error for _, error in scores]) == pytest.approx(np.std([value for value, _ in scores]), rel=0.2)
