"""Mixup and CutMix: blend pairs of images and their labels."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from tellapart.recipe.sections import AugmentRecipe
from tellapart.stateless_random import uniform

_EPOCHS = 2**33  # offset of the epochs of mixing; the sample order has 2**32, and `augment` has 0


def mix(
    images: Tensor,
    labels: Tensor,
    settings: AugmentRecipe,
    seed: int,
    epoch: int,
    rows: NDArray[np.int64],
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Blend images (N, C, S, S) and labels (N,) with their partners; return images and soft targets (N, K).

    The partner of the image at index i is at N - 1 - i, so a batch may be divided as long as partners stay together.
    The middle image of an odd batch does not change. Both images of a pair have the same mixing ratio, a pure function
    of (seed, epoch, the smaller of their rows). With mixup and CutMix on, each pair draws one of them. `images` is not
    modified; it is returned if both are off.
    """
    if not (settings.mixup or settings.cutmix):
        return images, F.one_hot(labels, num_classes).to(images.dtype)
    numbers = uniform(seed, _EPOCHS + epoch, np.minimum(rows, rows[::-1]), 4)
    shares, weights = _draw_weights(settings, numbers, images.shape)
    pixel_weights = torch.from_numpy(weights).to(images.dtype).to(images.device)[:, None]  # N 1 S S, or N 1 1 1
    share = torch.from_numpy(shares).to(images.dtype).to(images.device)[:, None]  # N 1
    targets = F.one_hot(labels, num_classes).to(images.dtype)
    return images.flip(0).lerp(images, pixel_weights), targets.flip(0).lerp(targets, share)


def _draw_weights(
    settings: AugmentRecipe, numbers: NDArray[np.float64], shape: torch.Size
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each image's share of its blend (N,), and its weight per pixel (N, S, S), or (N, 1, 1) without CutMix.

    numbers (N, 4): random, in 0 to 1, equal within a pair: mixup or CutMix, share, and x and y of the box's center.
    Mixup: Zhang et al. 2018, "mixup: beyond empirical risk minimization", section 2.
    """
    count, size = len(numbers), shape[-1]
    is_cutmix = numbers[:, 0] < (0.5 if settings.mixup else 1.0) if settings.cutmix else np.zeros(count, bool)
    # For tiny alpha SciPy 1.17 returns 0.5 for every quantile. At 0.001, 99% of the pairs are not blended.
    alpha = np.maximum(np.where(is_cutmix, settings.cutmix, settings.mixup), 1e-3)
    shares = betaincinv(alpha, alpha, numbers[:, 1])  # the quantile of Beta(alpha, alpha)
    weights = shares[:, None, None]
    if settings.cutmix:
        weights = np.where(is_cutmix[:, None, None], ~_box_masks(shares, numbers[:, 2:], size), weights)
        shares = np.where(is_cutmix, weights.mean(axis=(1, 2)), shares)  # of the box within the image
    if count % 2:
        shares[count // 2] = weights[count // 2] = 1
    return shares, weights


def _box_masks(shares: NDArray[np.float64], centers: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Return masks (N, S, S) of the partner's boxes; a box covers 1 - share of the image, less what lies outside it.

    Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features", eq. 2.
    """
    half = np.sqrt(1 - shares)[:, None] * size / 2
    pixels = np.arange(size) + 0.5
    columns = np.abs(pixels - centers[:, :1] * size) < half  # N S
    rows = np.abs(pixels - centers[:, 1:] * size) < half
    masks: NDArray[np.bool_] = rows[:, :, None] & columns[:, None, :]
    return masks
