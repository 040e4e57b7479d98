"""Balanced epochs, class weights, and the way back to the data's own frequencies, on real digits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from tellapart.augment import augment
from tellapart.errors import BadRecipe
from tellapart.models import create
from tellapart.randomness import shuffled
from tellapart.recipe import AugmentRecipe, TrainingRecipe
from tellapart.training.class_balance import (
    balanced_order,
    balanced_weights,
    check_prior,
    class_weights,
    correct_prior,
    distinct_rows,
    epoch_order,
)
from tellapart.training.linear_probe import _endless_batches
from tellapart.training.losses import Loss

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(LABELS, st.integers(0, 9), st.integers(0, 40))
def test_in_a_balanced_epoch_classes_and_their_pictures_come_equally_often(labels, seed, epoch):
    order = balanced_order(seed, epoch, labels)
    assert len(order) == len(labels)
    present, counts = np.unique(labels[order], return_counts=True)
    assert counts.max() - (counts.min() if len(present) == len(np.unique(labels)) else 0) <= 1
    times = np.bincount(order, minlength=len(labels))
    for label in present:
        # An epoch may begin and end within a round of the class's pictures: two more at most.
        assert np.ptp(times[labels == label]) <= 2
    assert np.array_equal(order, balanced_order(seed, epoch, labels))


def test_over_epochs_all_pictures_of_a_large_class_come_before_one_comes_again():
    labels = np.array([0] * 90 + [1] * 10)
    seen = np.concatenate([balanced_order(3, epoch, labels) for epoch in range(9)])
    times = np.bincount(seen, minlength=100)
    assert (times[:90] == 5).all()
    assert (times[90:] == 45).all()
    assert not np.array_equal(balanced_order(3, 1, labels), balanced_order(3, 2, labels))
    assert not np.array_equal(balanced_order(3, 1, labels), balanced_order(4, 1, labels))


def test_balanced_classes_are_not_in_blocks():
    labels = np.repeat([0, 1], 500)
    changes = np.diff(labels[balanced_order(0, 1, labels)]) != 0
    assert 430 < changes.sum() < 570


def test_the_order_is_the_usual_one_unless_asked_for():
    labels = np.array([0, 0, 0, 1])
    for balance in ("none", "weight"):
        order = epoch_order(TrainingRecipe(class_balance=balance), 5, 2, labels)
        assert np.array_equal(order, shuffled(5, 2, np.arange(4)))
    order = epoch_order(TrainingRecipe(class_balance="sample"), 5, 2, labels)
    assert np.array_equal(np.bincount(labels[order]), [2, 2])


def test_the_head_alone_is_fitted_on_balanced_batches_too():
    labels = np.array([0] * 600 + [1] * 40)
    batches = list(_endless_batches(TrainingRecipe(class_balance="sample"), labels, 0, 5))
    assert [len(batch) for batch in batches] == [256, 256, 128, 256, 256]
    assert np.bincount(labels[torch.cat(batches[:3])]).tolist() == [320, 320]


def test_a_picture_that_comes_again_is_changed_in_another_way():
    labels = np.array([0] * 9 + [1])
    order = balanced_order(0, 1, labels)
    numbers = distinct_rows(np.arange(10) * 7, order)
    assert len(set(numbers.tolist())) == 10
    firsts = [np.flatnonzero(order == place)[0] for place in np.unique(order)]
    assert np.array_equal(numbers[firsts], order[firsts] * 7)
    same = torch.rand(1, 1, 8, 8).expand(10, 1, 8, 8)
    changed = augment(same, AugmentRecipe(rotation=20), 0, 1, numbers)
    assert len(torch.unique(changed.flatten(1), dim=0)) == 10
    assert np.array_equal(distinct_rows(np.arange(5), np.array([3, 0, 4])), [3, 0, 4])


def test_class_weights_are_scikit_learns_and_have_mean_one():
    labels = np.array([0] * 30 + [1] * 3 + [3] * 17)
    weights = balanced_weights(labels, 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert weights[[2, 4]].tolist() == [0, 0]
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert class_weights(TrainingRecipe(), labels, 5) is None
    assert torch.equal(class_weights(TrainingRecipe(class_balance="weight"), labels, 5), weights)


def _unbalanced_digits():
    """Pixels (N, 1, 8, 8) and labels of digits, the first five classes cut to a twelfth; one half, the other."""
    images, labels = load_digits(return_X_y=True)
    places = np.arange(len(labels))
    rare = np.isin(labels, range(5))
    keep = np.concatenate([places[~rare], *(places[labels == label][:16] for label in range(5))])
    pixels = torch.from_numpy(images[keep] / 8 - 1).float().view(-1, 1, 8, 8)
    labels = labels[keep].astype(np.int64)
    even = shuffled(1, 0, np.arange(len(keep)))
    return [(pixels[half], labels[half]) for half in (even[::2], even[1::2])]


@pytest.mark.parametrize("balance", ["sample", "weight"])
def test_corrected_probabilities_fit_the_frequencies_of_the_training_data(balance):
    (pixels, labels), (held_out, truth) = _unbalanced_digits()
    recipe = TrainingRecipe(class_balance=balance, label_smoothing=0.0)
    torch.manual_seed(0)
    network = create("layered", 10, 1, layers=[{"type": "avg_pool", "size": 2}, {"type": "flatten"}], size=8)
    loss = Loss(recipe, class_weights(recipe, labels, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for epoch in range(1, 25):
        for places in np.array_split(epoch_order(recipe, 0, epoch, labels), 10):
            optimizer.zero_grad()
            loss.row_losses(network(pixels[places]), torch.from_numpy(labels[places])).mean().backward()
            optimizer.step()

    def judge():
        with torch.no_grad():
            probabilities = network(held_out).double().softmax(dim=1).numpy()
        recalls = [(probabilities.argmax(axis=1) == truth)[truth == label].mean() for label in range(10)]
        return log_loss(truth, probabilities, labels=range(10)), np.mean(recalls), probabilities.mean(axis=0)

    balanced_loss, balanced_recall, balanced_share = judge()
    correct_prior(network, np.bincount(labels, minlength=10))
    corrected_loss, corrected_recall, corrected_share = judge()
    shares = np.bincount(truth, minlength=10) / len(truth)
    assert corrected_loss < balanced_loss - 0.02
    assert np.abs(corrected_share - shares).sum() < np.abs(balanced_share - shares).sum() / 2
    assert balanced_recall > corrected_recall


def test_the_correction_is_bayes_rule_on_the_head_alone():
    network = create("googlenet", 4, 3, small_stem=True).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        even = network(images).softmax(dim=1)
        correct_prior(network, np.array([70, 20, 10, 0]))
        found = network(images).softmax(dim=1)
    expected = even * torch.tensor([70, 20, 10, 0.5])
    torch.testing.assert_close(found, expected / expected.sum(dim=1, keepdim=True))
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [f"{network.head_name}.bias"]


def test_a_head_without_a_bias_is_refused_before_training():
    network = create("small_resnet", 3, 1)
    network.set_submodule(network.head_name, torch.nn.Linear(network.head.in_features, 3, bias=False))
    with pytest.raises(BadRecipe, match="prior_correction=false"):
        check_prior(TrainingRecipe(class_balance="sample"), network)
    check_prior(TrainingRecipe(), network)
    check_prior(TrainingRecipe(class_balance="sample", prior_correction=False), network)
