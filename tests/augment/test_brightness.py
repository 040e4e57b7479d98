import numpy as np
import torch

from tellapart.augment import augment
from tellapart.recipe.sections import AugmentRecipe
from tellapart.stateless_random import uniform


def test_images_are_scaled_about_their_mean_and_shifted(images):
    recipe = AugmentRecipe(brightness=0.3, contrast=0.4)
    noise = torch.from_numpy(uniform(2, 3, np.arange(20), 9)).float()[:, 7:] * 2 - 1
    gain, shift = 1 + noise[:, 0].view(-1, 1, 1, 1) * 0.4, noise[:, 1].view(-1, 1, 1, 1) * 0.3
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    expected = (images - mean) * gain + mean + shift
    torch.testing.assert_close(augment(images, recipe, 2, 3, np.arange(20)), expected, rtol=0, atol=1e-6)
