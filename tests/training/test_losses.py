"""Losses per row, compared with PyTorch, scikit-learn and their formulas."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch.nn import functional as F

from tellapart.recipe.recipe import Recipe
from tellapart.training.losses import LOSSES, Loss, soft_target_losses

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0])


def batch(rows=12, classes=5):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (rows,), generator=generator)


def mixed(labels, classes=5, share=0.3):
    one_hot = F.one_hot(labels, classes).double()
    return (1 - share) * one_hot + share * one_hot.roll(1, dims=0)


def rows(logits, targets, weights=None, **recipe):
    return Loss(Recipe().with_settings(**({"label_smoothing": 0.0} | recipe)), weights).row_losses(logits, targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "mixed"])
def test_cross_entropy_equals_that_of_torch(smoothing, kind):
    logits, labels = batch()
    targets = labels if kind == "labels" else mixed(labels)
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    assert torch.equal(rows(logits, targets, label_smoothing=smoothing), expected)


@pytest.mark.parametrize("kind", ["labels", "mixed"])
def test_class_weights_equal_those_of_torch(kind):
    logits, labels = batch()
    targets = labels if kind == "labels" else mixed(labels)
    expected = F.cross_entropy(logits, targets, weight=WEIGHTS.double(), reduction="none")
    torch.testing.assert_close(rows(logits, targets, WEIGHTS), expected)


def test_with_label_smoothing_each_row_has_the_weight_of_its_class():
    logits, labels = batch()
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    expected = WEIGHTS.double()[labels] * smoothed
    torch.testing.assert_close(rows(logits, labels, WEIGHTS, label_smoothing=0.1), expected)
    partners = labels.roll(1)
    other = WEIGHTS.double()[partners] * F.cross_entropy(logits, partners, label_smoothing=0.1, reduction="none")
    result = rows(logits, mixed(labels), WEIGHTS, label_smoothing=0.1)
    torch.testing.assert_close(result, 0.7 * expected + 0.3 * other)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_and_one_hot_distributions_have_the_same_loss(loss, weights, smoothing):
    logits, labels = batch()
    settings = {"loss": loss, "label_smoothing": smoothing}
    one_hot = F.one_hot(labels, 5).double()
    torch.testing.assert_close(rows(logits, labels, weights, **settings), rows(logits, one_hot, weights, **settings))


def test_cross_entropy_equals_the_log_loss_of_scikit_learn_on_digits():
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(images[:900] / 16, labels[:900])
    probabilities = model.predict_proba(images[900:] / 16)
    logits, targets = torch.from_numpy(np.log(probabilities)), torch.from_numpy(labels[900:]).long()
    result = rows(logits, targets)
    assert float(result.mean()) == pytest.approx(log_loss(labels[900:], probabilities), rel=1e-9)
    counts = np.linspace(0.5, 1.5, 10)
    weighted = rows(logits, targets, torch.from_numpy(counts))
    by_hand = log_loss(labels[900:], probabilities, sample_weight=counts[labels[900:]], normalize=True)
    assert float(weighted.sum()) / counts[labels[900:]].sum() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_equals_its_formula(gamma):
    logits, labels = batch()
    result = rows(logits, labels, WEIGHTS, loss="focal", focal_gamma=gamma)
    for row, label in enumerate(labels.tolist()):
        p = math.exp(logits[row, label]) / sum(math.exp(z) for z in logits[row].tolist())
        assert float(result[row]) == pytest.approx(-float(WEIGHTS[label]) * (1 - p) ** gamma * math.log(p), rel=1e-6)


def test_focal_loss_without_gamma_is_cross_entropy():
    logits, labels = batch()
    settings = {"label_smoothing": 0.1}
    focal = rows(logits, mixed(labels), loss="focal", focal_gamma=0.0, **settings)
    torch.testing.assert_close(focal, rows(logits, mixed(labels), **settings))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("scale", [0.0, 1e3, -1e3])
def test_focal_loss_and_its_gradient_are_finite(gamma, scale):
    logits = torch.tensor([[scale, 0.0, -scale]], requires_grad=True)
    loss = rows(logits, torch.tensor([0]), loss="focal", focal_gamma=gamma)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("distilled", [False, True])
def test_gradients_are_correct(loss, weights, distilled):
    logits, labels = batch(4)
    soft = F.softmax(batch(4)[0].roll(1, dims=0), dim=1) if distilled else None
    losses = Loss(Recipe().with_settings(loss=loss), weights)
    for targets in (labels, mixed(labels)):
        leaf = logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, t=targets: losses.row_losses(z, t, soft), (leaf,))


def test_the_distillation_loss_is_the_divergence_times_the_temperature_squared():
    student, _ = batch()
    teacher = student.roll(1, dims=0)
    p, q = F.softmax(teacher / 3, dim=1), F.softmax(student / 3, dim=1)
    by_hand = 9 * (p * (p.log() - q.log())).sum(dim=1)
    torch.testing.assert_close(soft_target_losses(student, p, 3.0), by_hand)
    assert soft_target_losses(student, q, 3.0).abs().max() < 1e-12
    certain = F.one_hot(torch.arange(12) % 5, 5).double()  # a probability of 0 has no loss
    assert torch.isfinite(soft_target_losses(student, certain, 3.0)).all()


def test_the_share_of_the_teacher_in_the_loss_is_alpha():
    logits, labels = batch()
    soft = F.softmax(logits.flip(0) / 2, dim=1)
    loss = Loss(Recipe().with_settings(distillation_alpha=0.25, distillation_temperature=2.0))
    result = loss.row_losses(logits, labels, soft)
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(result, 0.75 * hard + 0.25 * soft_target_losses(logits, soft, 2.0))
