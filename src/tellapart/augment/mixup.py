"""Mixup and CutMix: pairs of pictures are blended, and so are their labels."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from tellapart.randomness import uniform
from tellapart.recipe import AugmentRecipe

_EPOCHS = 2**33  # epochs from here on belong to mixing, from 2**32 on to the order, below to `augment`


def mix(
    images: Tensor,
    labels: Tensor,
    settings: AugmentRecipe,
    seed: int,
    epoch: int,
    rows: NDArray[np.int64],
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Blend images (N, C, S, S), labels (N,) with their partners; return images and targets (N, K), which sum to 1.

    The partner of the picture at place i is the one at N - 1 - i, so that a batch may be divided if mirror places stay
    together; the middle one of an odd batch has none and stays as it is. Both of a pair keep the same share of
    themselves, a pure function of (seed, epoch, the smaller of their rows). With mixup and CutMix on, each pair draws
    which one. `images` itself is never written to; with both off it is what is returned.
    """
    if not (settings.mixup or settings.cutmix):
        return images, F.one_hot(labels, num_classes).to(images.dtype)
    shares, weights = _weights(settings, uniform(seed, _EPOCHS + epoch, np.minimum(rows, rows[::-1]), 4), images.shape)
    own = torch.from_numpy(weights).to(images.dtype).to(images.device)[:, None]  # N 1 S S, or N 1 1 1
    share = torch.from_numpy(shares).to(images.dtype).to(images.device)[:, None]  # N 1
    targets = F.one_hot(labels, num_classes).to(images.dtype)
    return images.flip(0).lerp(images, own), targets.flip(0).lerp(targets, share)


def _weights(
    settings: AugmentRecipe, numbers: NDArray[np.float64], shape: torch.Size
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each picture's share (N,) and its weight at each pixel (N, S, S), or (N, 1, 1) without CutMix.

    numbers (N, 4), in 0..1, alike in both of a pair: which of the two, the share, the box's centre across and down.
    Mixup: Zhang et al. 2018, "mixup: beyond empirical risk minimization", section 2.
    """
    count, size = len(numbers), shape[-1]
    cut = numbers[:, 0] < (0.5 if settings.mixup else 1.0) if settings.cutmix else np.zeros(count, bool)
    # The quantile of the smallest floats is wrong (scipy 1.17: 0.5 for all), and at 0.001 99 % of pairs stay whole.
    alpha = np.maximum(np.where(cut, settings.cutmix, settings.mixup), 1e-3)
    shares = betaincinv(alpha, alpha, numbers[:, 1])  # the quantile of Beta(alpha, alpha)
    weights = shares[:, None, None]
    if settings.cutmix:
        weights = np.where(cut[:, None, None], ~_boxes(shares, numbers[:, 2:], size), weights)
        shares = np.where(cut, weights.mean(axis=(1, 2)), shares)  # of the box as it is, after the border has cut it
    if count % 2:
        shares[count // 2] = weights[count // 2] = 1
    return shares, weights


def _boxes(shares: NDArray[np.float64], centres: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Return the masks (N, S, S) of the partner's boxes, of 1 - share of the picture until its border cuts them.

    Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features", eq. 2.
    """
    half = np.sqrt(1 - shares)[:, None] * size / 2
    pixels = np.arange(size) + 0.5
    columns = np.abs(pixels - centres[:, :1] * size) < half  # N S
    lines = np.abs(pixels - centres[:, 1:] * size) < half
    masks: NDArray[np.bool_] = lines[:, :, None] & columns[:, None, :]
    return masks
