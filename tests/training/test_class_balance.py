"""Balanced epochs, class weights and logit adjustment, on real digits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from tellapart.augment import augment
from tellapart.errors import RecipeError
from tellapart.models import create
from tellapart.recipe.recipe import Recipe
from tellapart.recipe.sections import AugmentRecipe, LossRecipe
from tellapart.stateless_random import shuffle_rows
from tellapart.training.class_balance import (
    adjust_logits,
    augmentation_keys,
    balanced_order,
    balanced_weights,
    check_logit_adjustment,
    class_weights,
    epoch_order,
)
from tellapart.training.linear_probe import _batches
from tellapart.training.losses import Loss

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(LABELS, st.integers(0, 9), st.integers(0, 40))
def test_a_balanced_epoch_has_equal_frequencies_of_classes_and_their_images(labels, seed, epoch):
    order = balanced_order(seed, epoch, labels)
    assert len(order) == len(labels)
    present, counts = np.unique(labels[order], return_counts=True)
    assert counts.max() - (counts.min() if len(present) == len(np.unique(labels)) else 0) <= 1
    times = np.bincount(order, minlength=len(labels))
    for label in present:
        # An epoch may start and end within a cycle of the class: at most two more.
        assert np.ptp(times[labels == label]) <= 2
    assert np.array_equal(order, balanced_order(seed, epoch, labels))


def test_over_epochs_all_images_of_a_large_class_are_drawn_before_any_is_repeated():
    labels = np.array([0] * 90 + [1] * 10)
    order = np.concatenate([balanced_order(3, epoch, labels) for epoch in range(9)])
    times = np.bincount(order, minlength=100)
    assert (times[:90] == 5).all()
    assert (times[90:] == 45).all()
    assert not np.array_equal(balanced_order(3, 1, labels), balanced_order(3, 2, labels))
    assert not np.array_equal(balanced_order(3, 1, labels), balanced_order(4, 1, labels))


def test_balanced_classes_are_not_in_blocks():
    labels = np.repeat([0, 1], 500)
    changes = np.diff(labels[balanced_order(0, 1, labels)]) != 0
    assert 430 < changes.sum() < 570


def test_an_epoch_is_balanced_only_with_balanced_sampling():
    labels = np.array([0, 0, 0, 1])
    for class_weight in ("none", "balanced"):
        order = epoch_order(LossRecipe(class_weight=class_weight), 5, 2, labels)
        assert np.array_equal(order, shuffle_rows(5, 2, np.arange(4)))
    order = epoch_order(LossRecipe(balanced_sampling=True), 5, 2, labels)
    assert np.array_equal(np.bincount(labels[order]), [2, 2])


def test_the_linear_probe_uses_balanced_batches():
    labels = np.array([0] * 600 + [1] * 40)
    batches = list(_batches(LossRecipe(balanced_sampling=True), labels, 0, 5))
    assert [len(batch) for batch in batches] == [256, 256, 128, 256, 256]
    assert np.bincount(labels[torch.cat(batches[:3])]).tolist() == [320, 320]


def test_repeated_images_are_augmented_differently():
    labels = np.array([0] * 9 + [1])
    order = balanced_order(0, 1, labels)
    keys = augmentation_keys(np.arange(10) * 7, order)
    assert len(set(keys.tolist())) == 10
    first = [np.flatnonzero(order == index)[0] for index in np.unique(order)]
    assert np.array_equal(keys[first], order[first] * 7)
    same = torch.rand(1, 1, 8, 8).expand(10, 1, 8, 8)
    augmented = augment(same, AugmentRecipe(rotation=20), 0, 1, keys)
    assert len(torch.unique(augmented.flatten(1), dim=0)) == 10
    assert np.array_equal(augmentation_keys(np.arange(5), np.array([3, 0, 4])), [3, 0, 4])


def test_class_weights_are_scikit_learns_and_have_mean_one():
    labels = np.array([0] * 30 + [1] * 3 + [3] * 17)
    weights = balanced_weights(labels, 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert weights[[2, 4]].tolist() == [0, 0]
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert class_weights(LossRecipe(), labels, 5) is None
    assert torch.equal(class_weights(LossRecipe(class_weight="balanced"), labels, 5), weights)


def _unbalanced_digits():
    """Return two halves of digits, each pixels (N, 1, 8, 8) and labels, with a twelfth of the first five classes."""
    images, labels = load_digits(return_X_y=True)
    indices = np.arange(len(labels))
    rare = np.isin(labels, range(5))
    keep = np.concatenate([indices[~rare], *(indices[labels == label][:16] for label in range(5))])
    pixels = torch.from_numpy(images[keep] / 8 - 1).float().view(-1, 1, 8, 8)
    labels = labels[keep].astype(np.int64)
    order = shuffle_rows(1, 0, np.arange(len(keep)))
    return [(pixels[half], labels[half]) for half in (order[::2], order[1::2])]


@pytest.mark.parametrize("balance", [{"balanced_sampling": True}, {"class_weight": "balanced"}], ids=str)
def test_logit_adjustment_fits_the_class_frequencies_of_the_training_data(balance):
    (pixels, labels), (held_out, truth) = _unbalanced_digits()
    recipe = Recipe().with_settings(label_smoothing=0.0, **balance)
    torch.manual_seed(0)
    network = create("sequential", 10, 1, layers=[{"type": "avg_pool", "size": 2}, {"type": "flatten"}], size=8)
    loss = Loss(recipe, class_weights(recipe.loss, labels, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for epoch in range(1, 25):
        for indices in np.array_split(epoch_order(recipe.loss, 0, epoch, labels), 10):
            optimizer.zero_grad()
            loss.row_losses(network(pixels[indices]), torch.from_numpy(labels[indices])).mean().backward()
            optimizer.step()

    def evaluate():
        with torch.no_grad():
            probabilities = network(held_out).double().softmax(dim=1).numpy()
        recalls = [(probabilities.argmax(axis=1) == truth)[truth == label].mean() for label in range(10)]
        return log_loss(truth, probabilities, labels=range(10)), np.mean(recalls), probabilities.mean(axis=0)

    balanced_loss, balanced_recall, balanced_mean = evaluate()
    adjust_logits(network, np.bincount(labels, minlength=10))
    adjusted_loss, adjusted_recall, adjusted_mean = evaluate()
    frequencies = np.bincount(truth, minlength=10) / len(truth)
    assert adjusted_loss < balanced_loss - 0.02
    assert np.abs(adjusted_mean - frequencies).sum() < np.abs(balanced_mean - frequencies).sum() / 2
    assert balanced_recall > adjusted_recall


def test_logit_adjustment_is_bayes_rule_and_changes_only_the_last_bias():
    network = create("googlenet", 4, 3, small_stem=True).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        balanced = network(images).softmax(dim=1)
        adjust_logits(network, np.array([70, 20, 10, 0]))
        adjusted = network(images).softmax(dim=1)
    expected = balanced * torch.tensor([70, 20, 10, 0.5])
    torch.testing.assert_close(adjusted, expected / expected.sum(dim=1, keepdim=True))
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [f"{network.head_name}.bias"]


def test_a_head_without_a_bias_is_refused_before_training():
    network = create("small_resnet", 3, 1)
    network.set_submodule(network.head_name, torch.nn.Linear(network.head.in_features, 3, bias=False))
    with pytest.raises(RecipeError) as error:
        check_logit_adjustment(LossRecipe(balanced_sampling=True), network)
    assert "loss.logit_adjustment=false" in str(error.value)
    check_logit_adjustment(LossRecipe(), network)
    check_logit_adjustment(LossRecipe(balanced_sampling=True, logit_adjustment=False), network)
