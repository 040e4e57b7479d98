"""What corruption costs: accuracy on pictures with noise, blur, JPEG, other light, or turned a little.

After Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations",
section 4 and its CIFAR-10-C and ImageNet-C, in own strengths between the two, so that figures compare between
classifiers here and not with published ones. Rotation stands in their perturbations only.

Letters: N pictures, S the network's input size.
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
from tellapart.data.batching import BATCH, PixelTable, blocks, rows_of
from tellapart.data.threads import map_in_order
from tellapart.errors import CannotCorrupt, did_you_mean
from tellapart.inference.predictor import Predictor
from tellapart.metrics import Estimate, wilson
from tellapart.metrics.paired import tango
from tellapart.progress import Progress
from tellapart.randomness import shuffled, uniform

LIMIT = 1000  # pictures: an accuracy of 90 % is then known to 2 points
_STRENGTHS = 5
Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Corruption:
    """A way to spoil pictures.

    amounts: of the strengths 1 to 5. apply: pictures (n, S, S, 3), an amount, the seed and the pictures' numbers (n,)
    -> spoiled pictures of the same shape.
    """

    amounts: tuple[float, float, float, float, float]
    apply: Callable[[Pixels, float, int, Numbers], Pixels]


@dataclass(frozen=True)
class Robustness:
    """What one kind of corruption at one strength (1 to 5) does to the accuracy.

    drop: accuracy on the same pictures as they are, less that on the corrupted ones; its interval is of the pairs.
    """

    kind: str
    strength: int
    pictures: int
    accuracy: Estimate
    drop: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return vars(self) | {"accuracy": self.accuracy.to_json(), "drop": self.drop.to_json()}


def robustness(
    classifier: Predictor,
    pixels: PixelTable,
    labels: NDArray[np.integer],
    seed: int = 0,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> list[Robustness]:
    """Return the accuracy and its drop for each kind of corruption and each strength.

    pixels: resized pictures (N, S, S, 3). labels: (N,). limit: of more pictures, so many are drawn by the seed; each is
    predicted once as it is and 30 times corrupted. Raises `CannotCorrupt` for labels of another length or no pictures.
    """
    if len(labels) != len(pixels) or not len(labels):
        raise CannotCorrupt(f"Expected pictures and a label for each, not {len(pixels)} and {len(labels)} labels.")
    numbers = np.sort(shuffled(seed, 0, np.arange(len(labels)))[:limit])
    chosen, truth = np.asarray(rows_of(pixels, numbers)[:]), labels[numbers]
    as_is = classifier.of_pixels(chosen).argmax(axis=1) == truth
    results = []
    with (progress or Progress()).bar("Testing spoilt pictures", _STRENGTHS * len(CORRUPTIONS)) as advance:
        for kind, strength in product(CORRUPTIONS, range(1, _STRENGTHS + 1)):
            spoiled = corrupt(chosen, kind, strength, seed, numbers)
            correct = classifier.of_pixels(spoiled).argmax(axis=1) == truth
            accuracy = wilson(int(correct.sum()), len(truth))
            drop = tango(int((as_is & ~correct).sum()), int((correct & ~as_is).sum()), len(truth))
            results.append(Robustness(kind, strength, len(truth), accuracy, drop))
            advance(1, kind)
    return results


def corrupt(pixels: Pixels, kind: str, strength: int, seed: int = 0, numbers: Numbers | None = None) -> Pixels:
    """Return pictures (N, S, S, 3) spoiled by one of `CORRUPTIONS` with strength 1 to 5.

    numbers: (N,), 0 to N - 1 if not given; what is random for a picture depends on the seed and its number alone, so
    that a higher strength spoils it in the same manner, only more. Raises `CannotCorrupt` for an unknown kind or
    strength.
    """
    if kind not in CORRUPTIONS:
        hint = did_you_mean(kind, CORRUPTIONS)
        raise CannotCorrupt(f"The corruption must be one of {', '.join(CORRUPTIONS)}, not '{kind}'.{hint}")
    if strength not in range(1, 6):
        raise CannotCorrupt(f"The strength of a corruption must be 1, 2, 3, 4 or 5, not {strength}.")
    corruption = CORRUPTIONS[kind]
    numbers = np.arange(len(pixels)) if numbers is None else numbers
    spoiled = np.empty_like(pixels)
    for places in blocks(len(pixels), BATCH):  # a batch as floats stays in memory, and small ones in the cache
        spoiled[places] = corruption.apply(pixels[places], corruption.amounts[strength - 1], seed, numbers[places])
    return spoiled


def _noise(pixels: Pixels, deviation: float, seed: int, numbers: Numbers) -> Pixels:
    """Add normal noise to each value, its deviation a share of the range."""
    spoiled = np.empty(pixels.shape, np.float32)
    for noise, number in zip(spoiled, numbers.tolist(), strict=True):
        np.random.default_rng([seed, number]).standard_normal(dtype=np.float32, out=noise)
    spoiled *= 255 * deviation
    spoiled += pixels
    return _to_bytes(spoiled)


def _blur(pixels: Pixels, amount: float, _: int, __: Numbers) -> Pixels:
    """Blur by a normal kernel whose deviation in pixels grows with the square root of the side.

    So it lies between those published for 32 pixels and for 224, where one and the same share of the side would not.
    """
    kernel = _normal_kernel(amount * math.sqrt(pixels.shape[1] / 32))
    half = min(len(kernel) // 2, pixels.shape[1] - 1)  # a border cannot be mirrored from beyond the other
    kernel = kernel[len(kernel) // 2 - half : len(kernel) // 2 + half + 1]
    weights = (kernel / kernel.sum()).expand(3, 1, -1)
    images = F.pad(_to_images(pixels), (half, half, half, half), mode="reflect")
    across = F.conv2d(images, weights[:, :, None, :], groups=3)
    return _from_images(F.conv2d(across, weights[:, :, :, None], groups=3))


def _jpeg(pixels: Pixels, quality: float, _: int, __: Numbers) -> Pixels:
    """Save as JPEG, with colour at half the resolution as cameras and web sites do, and decode again."""

    def again(picture: Pixels) -> Pixels:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), int(quality), "RGB", "420")
        decoded: Pixels = simplejpeg.decode_jpeg(data, "RGB")
        return decoded

    return np.stack(list(map_in_order(again, pixels)))


def _brightness(pixels: Pixels, amount: float, _: int, __: Numbers) -> Pixels:
    """Raise the value of hue, saturation and value (the largest of R, G and B) by a share of the range."""
    floats = pixels.astype(np.float32)
    value = floats.max(axis=3, keepdims=True)
    raised = np.minimum(value + 255 * amount, 255)
    brighter = np.divide(raised, value, out=np.zeros_like(value), where=value > 0) * floats
    return _to_bytes(np.where(value > 0, brighter, raised))  # black has no hue and becomes grey


def _contrast(pixels: Pixels, share: float, _: int, __: Numbers) -> Pixels:
    """Bring each value nearer to its channel's mean in the picture, to a share of its distance."""
    mean = pixels.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return _to_bytes(mean + share * (pixels - mean))


def _rotation(pixels: Pixels, degrees: float, seed: int, numbers: Numbers) -> Pixels:
    """Turn to the left or to the right; what comes in from outside has the border's colour."""
    side = np.where(uniform(seed, 1, numbers, 1)[:, 0] < 0.5, -1.0, 1.0)
    angle = torch.from_numpy(side * math.radians(degrees)).float()
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin, none], 1), torch.stack([sin, cos, none], 1)], 1)  # n 2 3
    return _from_images(resample(_to_images(pixels), theta))


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption((0.04, 0.08, 0.12, 0.18, 0.26), _noise),
    "blur": Corruption((0.5, 0.7, 0.9, 1.2, 1.6), _blur),
    "jpeg": Corruption((70, 50, 30, 18, 8), _jpeg),
    "brightness": Corruption((0.1, 0.2, 0.3, 0.4, 0.5), _brightness),
    "contrast": Corruption((0.75, 0.5, 0.35, 0.2, 0.1), _contrast),
    "rotation": Corruption((5, 10, 15, 22.5, 30), _rotation),
}


def _normal_kernel(deviation: float) -> Tensor:
    half = max(1, math.ceil(3 * deviation))
    places = torch.arange(-half, half + 1, dtype=torch.float32)
    return torch.exp(-0.5 * (places / deviation) ** 2)


def _to_bytes(values: NDArray[np.float32]) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _to_images(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)  # N 3 S S


def _from_images(images: Tensor) -> Pixels:
    return _to_bytes(images.permute(0, 2, 3, 1).numpy())
