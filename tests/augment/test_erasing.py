import numpy as np
import pytest
import torch

from tellapart.augment import augment
from tellapart.recipe.sections import AugmentRecipe


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_erasing_fills_boxes_with_the_published_areas_and_probability(probability):
    torch.manual_seed(0)
    images = torch.rand(2000, 1, 32, 32)
    changed = augment(images, AugmentRecipe(random_erasing=probability), 0, 1, np.arange(2000))
    differs = (changed != images)[:, 0]  # N S S
    erased = differs.any(dim=(1, 2))
    assert abs(float(erased.float().mean()) - probability) < 0.04
    areas, ratios = [], []
    for image, new, mask in zip(images[erased], changed[erased], differs[erased], strict=True):
        rows, columns = mask.any(dim=1).nonzero().ravel(), mask.any(dim=0).nonzero().ravel()
        box = new[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert bool(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())
        torch.testing.assert_close(box, image.mean().expand(box.shape))
        areas.append(box.numel() / 1024)
        ratios.append(box.shape[0] / box.shape[1])
    assert 0.01 < min(areas) < 0.03
    assert 0.3 < max(areas) < 0.36  # rounded to pixels
    assert 0.16 < np.mean(areas) < 0.19
    assert 1 / 4.2 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 4.2
    assert abs(np.mean(np.log(ratios))) < 0.06
