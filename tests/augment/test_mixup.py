import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional as F

from tellapart.augment import mix
from tellapart.recipe.sections import AugmentRecipe

RECIPES = {
    "mixup": AugmentRecipe(mixup=0.4),
    "cutmix": AugmentRecipe(cutmix=1.0),
    "both": AugmentRecipe(mixup=0.4, cutmix=1.0),
}


def random_images(count, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(list(RECIPES)), st.lists(st.integers(0, 10**6), min_size=1, max_size=13, unique=True), st.data())
def test_targets_equal_the_shares_of_the_mixed_images(kind, rows, data):
    rows, count = np.array(rows), len(rows)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    images = random_images(count)
    before = images.clone()
    mixed, targets = mix(images, labels, RECIPES[kind], 3, 2, rows, 5)
    # Image i has a value of 1 in channel i only, so the channels of the mixed images are the weights of each image.
    one_hot = torch.eye(count)[:, :, None, None].expand(-1, -1, 16, 16)
    weights, _ = mix(one_hot, labels, RECIPES[kind], 3, 2, rows, 5)
    shares = weights.mean(dim=(2, 3))  # N N: of image j in image i
    assert torch.equal(images, before)
    assert targets.shape == (count, 5)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(count))
    torch.testing.assert_close(targets, shares @ F.one_hot(labels, 5).float())
    torch.testing.assert_close(shares.diagonal(), shares.diagonal().flip(0))
    expected = torch.einsum("ijyx,jcyx->icyx", weights, images)
    torch.testing.assert_close(mixed, expected)
    if count % 2:
        middle = count // 2
        assert torch.equal(mixed[middle], images[middle])
        assert targets[middle, labels[middle]] == 1


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(list(RECIPES)), st.integers(0, 2**31 - 1), st.integers(1, 12))
def test_mixing_does_not_depend_on_order_or_division_into_pairs(kind, seed, half):
    count = 2 * half
    images, labels, rows = random_images(count), torch.arange(count) % 3, np.arange(count) * 11
    mixed, targets = mix(images, labels, RECIPES[kind], seed, 1, rows, 3)
    reversed_images, reversed_targets = mix(
        images.flip(0), labels.flip(0), RECIPES[kind], seed, 1, rows[::-1].copy(), 3
    )
    torch.testing.assert_close(reversed_images.flip(0), mixed)
    torch.testing.assert_close(reversed_targets.flip(0), targets)
    for rank in range(2):
        index = np.array([i for i in range(count) if min(i, count - 1 - i) % 2 == rank])
        if len(index):
            rank_images, rank_targets = mix(images[index], labels[index], RECIPES[kind], seed, 1, rows[index], 3)
            assert torch.equal(rank_images, mixed[index])
            assert torch.equal(rank_targets, targets[index])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_of_mixup_have_a_beta_distribution(alpha):
    rows, labels = np.arange(4000), torch.arange(4000) // 2000  # partners have different labels
    _, targets = mix(torch.rand(4000, 1, 1, 1), labels, AugmentRecipe(mixup=alpha), 0, 1, rows, 2)
    assert stats.kstest(targets[:2000, 0].double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_pastes_one_box_whose_area_is_the_share():
    images, labels = torch.tensor([0.0, 1.0]).repeat_interleave(300)[:, None, None, None], torch.arange(600) // 300
    mixed, targets = mix(images.expand(-1, 1, 20, 20), labels, RECIPES["cutmix"], 0, 1, np.arange(600), 2)
    pasted = mixed[:300, 0]
    assert set(pasted.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(pasted.mean(dim=(1, 2)), targets[:300, 1])
    rectangle = pasted.amax(dim=1, keepdim=True) * pasted.amax(dim=2, keepdim=True)
    assert torch.equal(rectangle, pasted)
    assert 0.15 < float(pasted.mean()) < 0.4  # below 0.5, because boxes may extend beyond the image


def test_each_pair_draws_mixup_or_cutmix():
    images, labels = torch.tensor([0.0, 1.0]).repeat_interleave(1000)[:, None, None, None], torch.arange(2000) // 1000
    mixed, _ = mix(images.expand(-1, 1, 16, 16), labels, RECIPES["both"], 0, 1, np.arange(2000), 2)
    uniform = (mixed[:1000].amax(dim=(1, 2, 3)) == mixed[:1000].amin(dim=(1, 2, 3))).float().mean()
    assert 0.45 < float(uniform) < 0.6  # mixup, and a few boxes without a pixel


def test_the_smallest_positive_alpha_leaves_nearly_all_pairs_unmixed():
    recipe = AugmentRecipe(mixup=5e-324)
    mixed, targets = mix(random_images(200), torch.arange(200), recipe, 0, 1, np.arange(200), 200)
    assert bool(torch.isfinite(mixed).all())
    assert float((targets.amax(dim=1) > 0.999).float().mean()) > 0.95
