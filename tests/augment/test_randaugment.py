import numpy as np
import pytest
import torch
from scipy import stats

from tellapart.augment import augment
from tellapart.augment.randaugment import MAX_AMOUNTS, draw_operations
from tellapart.recipe.sections import AugmentRecipe
from tellapart.stateless_random import uniform


@pytest.mark.parametrize(("policy", "count"), [("randaugment", 3), ("trivialaugment", 1)])
def test_policies_draw_uniformly_and_within_their_ranges(policy, count):
    recipe = AugmentRecipe(policy=policy, num_ops=3, magnitude=0.3)
    drawn = draw_operations(recipe, uniform(0, 1, np.arange(20_000), 9))
    assert drawn.operations.shape == drawn.amounts.shape == (20_000, count)
    assert stats.chisquare(np.bincount(drawn.operations.ravel(), minlength=14)).pvalue > 1e-3
    max_amounts = np.array(list(MAX_AMOUNTS.values()))[drawn.operations, int(policy == "trivialaugment")]
    shares = np.abs(drawn.amounts[max_amounts > 0] / max_amounts[max_amounts > 0])
    if policy == "randaugment":
        np.testing.assert_allclose(shares, 0.3)
    else:
        assert stats.kstest(shares, "uniform").pvalue > 1e-3
    assert 0.47 < (drawn.amounts[max_amounts > 0] > 0).mean() < 0.53
    assert draw_operations(AugmentRecipe(), uniform(0, 1, np.arange(3), 9)) is None


def test_randaugment_with_magnitude_0_applies_only_operations_without_magnitude(images):
    """These are autocontrast and equalize, which come last in `MAX_AMOUNTS`."""
    recipe = AugmentRecipe(policy="randaugment", num_ops=1, magnitude=0.0)
    numbers = uniform(0, 1, np.arange(20), 17)
    unchanged = draw_operations(recipe, numbers[:, 14:]).operations[:, 0] < list(MAX_AMOUNTS).index("autocontrast")
    assert unchanged.any()
    changed = augment(images, recipe, 0, 1, np.arange(20))
    torch.testing.assert_close(changed[unchanged], images[unchanged], rtol=0, atol=1e-5)
