"""Corruption robustness: accuracy on images with noise, blur, JPEG artifacts, other lighting or rotation.

After Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations",
section 4. The severities lie between those of CIFAR-10-C and ImageNet-C, so results compare between classifiers here,
and not with published ones. In the paper, rotation is a perturbation.

Letters: N images, S the network's input size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tellapart.augment.geometry import resample
from tellapart.data.batching import BATCH_SIZE, PixelArray, batch_slices, select_rows
from tellapart.data.threads import map_in_order
from tellapart.errors import InvalidCorruptionError, did_you_mean
from tellapart.inference.base_predictor import Predictor
from tellapart.metrics import Estimate, Units, proportion
from tellapart.metrics.paired import paired_difference
from tellapart.progress import Progress
from tellapart.stateless_random import shuffle_rows, uniform

LIMIT = 1000  # images: the interval of an accuracy of 90% is then 2 points to each side
_SEVERITIES = range(1, 6)
Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Corruption:
    """A corruption of images.

    amounts: for the severities 1 to 5. apply: maps images (n, S, S, 3), an amount, the seed and the numbers of the
    images (n,) to corrupted images of the same shape.
    """

    amounts: tuple[float, float, float, float, float]
    apply: Callable[[Pixels, float, int, Numbers], Pixels]


@dataclass(frozen=True)
class CorruptionResult:
    """The accuracy under one corruption at one severity (1 to 5).

    drop: accuracy on the same images without corruption, minus this accuracy; its interval is for paired proportions.
    """

    corruption: str
    severity: int
    images: int
    accuracy: Estimate
    drop: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return vars(self) | {"accuracy": self.accuracy.to_json(), "drop": self.drop.to_json()}


def corruption_robustness(
    classifier: Predictor,
    pixels: PixelArray,
    labels: NDArray[np.integer],
    seed: int = 0,
    limit: int = LIMIT,
    progress: Progress | None = None,
    groups: NDArray[np.integer] | None = None,
) -> list[CorruptionResult]:
    """Return the accuracy and its drop for each corruption and each severity.

    pixels: resized images (N, S, S, 3). labels: (N,). limit: maximum number of images, sampled by the seed; each is
    predicted once as it is, and 30 times corrupted. groups: (N,) the independent unit of each image; default: all are
    independent. Raises `InvalidCorruptionError` without images, or if the numbers
    of images and labels differ.
    """
    if len(labels) != len(pixels) or not len(labels):
        raise InvalidCorruptionError(
            f"Expected a label for each image, got {len(pixels)} images and {len(labels)} labels."
        )
    numbers = np.sort(shuffle_rows(seed, 0, np.arange(len(labels)))[:limit])
    sample, sample_labels = np.asarray(select_rows(pixels, numbers)[:]), labels[numbers]
    sample_groups = None if groups is None else groups[numbers]
    clean_correct = classifier.predict_proba(sample).argmax(axis=1) == sample_labels
    results = []
    with (progress or Progress()).bar("Testing corruption robustness", len(_SEVERITIES) * len(CORRUPTIONS)) as advance:
        for name, severity in product(CORRUPTIONS, _SEVERITIES):
            corrupted = corrupt(sample, name, severity, seed, numbers)
            correct = classifier.predict_proba(corrupted).argmax(axis=1) == sample_labels
            accuracy = proportion(correct, Units.of(sample_groups, correct, sample_labels))
            drop = paired_difference(correct, clean_correct, sample_groups).difference
            results.append(CorruptionResult(name, severity, len(sample_labels), accuracy, drop))
            advance(1, name)
    return results


def corrupt(pixels: Pixels, corruption: str, severity: int, seed: int = 0, numbers: Numbers | None = None) -> Pixels:
    """Return images (N, S, S, 3) under one of `CORRUPTIONS` with a severity of 1 to 5.

    numbers: (N,), by default 0 to N - 1. What is random for an image depends on the seed and its number only, so a
    higher severity applies the same corruption more strongly. Raises `InvalidCorruptionError` for an unknown corruption
    or severity.
    """
    if corruption not in CORRUPTIONS:
        hint = did_you_mean(corruption, CORRUPTIONS)
        raise InvalidCorruptionError(f"Expected a corruption of {', '.join(CORRUPTIONS)}, got '{corruption}'.{hint}")
    if severity not in _SEVERITIES:
        raise InvalidCorruptionError(f"Expected a severity of 1, 2, 3, 4 or 5, got {severity}.")
    definition = CORRUPTIONS[corruption]
    numbers = np.arange(len(pixels)) if numbers is None else numbers
    corrupted = np.empty_like(pixels)
    for rows in batch_slices(len(pixels), BATCH_SIZE):  # limits the memory for floats
        corrupted[rows] = definition.apply(pixels[rows], definition.amounts[severity - 1], seed, numbers[rows])
    return corrupted


def _noise(pixels: Pixels, deviation: float, seed: int, numbers: Numbers) -> Pixels:
    """Add normal noise; its standard deviation is a fraction of the value range."""
    noisy = np.empty(pixels.shape, np.float32)
    for noise, number in zip(noisy, numbers.tolist(), strict=True):
        np.random.default_rng([seed, number]).standard_normal(dtype=np.float32, out=noise)
    noisy *= 255 * deviation
    noisy += pixels
    return _to_bytes(noisy)


def _blur(pixels: Pixels, amount: float, _: int, __: Numbers) -> Pixels:
    """Apply a Gaussian blur; its standard deviation in pixels grows with the square root of the side.

    So it lies between the published values for 32 and for 224 pixels, which a fixed fraction of the side would not.
    """
    kernel = _gaussian_kernel(amount * math.sqrt(pixels.shape[1] / 32))
    half = min(len(kernel) // 2, pixels.shape[1] - 1)  # reflection padding must be smaller than the image
    kernel = kernel[len(kernel) // 2 - half : len(kernel) // 2 + half + 1]
    weights = (kernel / kernel.sum()).expand(3, 1, -1)
    images = F.pad(_to_images(pixels), (half, half, half, half), mode="reflect")
    across = F.conv2d(images, weights[:, :, None, :], groups=3)
    return _from_images(F.conv2d(across, weights[:, :, :, None], groups=3))


def _jpeg(pixels: Pixels, quality: float, _: int, __: Numbers) -> Pixels:
    """Compress as JPEG, with chroma subsampling as cameras and web sites use it, and decode."""

    def recompress(image: Pixels) -> Pixels:
        content = simplejpeg.encode_jpeg(np.ascontiguousarray(image), int(quality), "RGB", "420")
        decoded: Pixels = simplejpeg.decode_jpeg(content, "RGB")
        return decoded

    return np.stack(list(map_in_order(recompress, pixels)))


def _brightness(pixels: Pixels, amount: float, _: int, __: Numbers) -> Pixels:
    """Increase the value of HSV, the largest of R, G and B, by a fraction of the range."""
    floats = pixels.astype(np.float32)
    value = floats.max(axis=3, keepdims=True)
    increased = np.minimum(value + 255 * amount, 255)
    brighter = np.divide(increased, value, out=np.zeros_like(value), where=value > 0) * floats
    return _to_bytes(np.where(value > 0, brighter, increased))  # black has no hue and becomes gray


def _contrast(pixels: Pixels, share: float, _: int, __: Numbers) -> Pixels:
    """Scale the difference of each value from the mean of its channel in the image."""
    mean = pixels.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return _to_bytes(mean + share * (pixels - mean))


def _rotation(pixels: Pixels, degrees: float, seed: int, numbers: Numbers) -> Pixels:
    """Rotate to the left or to the right at random, with border padding."""
    side = np.where(uniform(seed, 1, numbers, 1)[:, 0] < 0.5, -1.0, 1.0)
    angle = torch.from_numpy(side * math.radians(degrees)).float()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)  # n 2 3
    return _from_images(resample(_to_images(pixels), theta))


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption((0.04, 0.08, 0.12, 0.18, 0.26), _noise),
    "blur": Corruption((0.5, 0.7, 0.9, 1.2, 1.6), _blur),
    "jpeg": Corruption((70, 50, 30, 18, 8), _jpeg),
    "brightness": Corruption((0.1, 0.2, 0.3, 0.4, 0.5), _brightness),
    "contrast": Corruption((0.75, 0.5, 0.35, 0.2, 0.1), _contrast),
    "rotation": Corruption((5, 10, 15, 22.5, 30), _rotation),
}
PREDICTIONS_PER_IMAGE = 1 + len(CORRUPTIONS) * len(_SEVERITIES)  # in `corruption_robustness`


def _gaussian_kernel(deviation: float) -> Tensor:
    half = max(1, math.ceil(3 * deviation))
    offsets = torch.arange(-half, half + 1, dtype=torch.float32)
    return torch.exp(-0.5 * (offsets / deviation) ** 2)


def _to_bytes(values: NDArray[np.float32]) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _to_images(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)  # N 3 S S


def _from_images(images: Tensor) -> Pixels:
    return _to_bytes(images.permute(0, 2, 3, 1).numpy())
