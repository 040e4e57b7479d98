"""Preprocessing in torch: the only definition for training, evaluation, the command line and export.

Letters: N images, C channels, H and W pixels, S the network's input size.
"""

import json
import platform
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.preprocess.settings import LUMA, PAD, PreprocessSettings, placement


class Preprocess(nn.Module):
    """uint8 images of any size -> the network's normalized float input."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: PreprocessSettings) -> None:
        super().__init__()
        self.settings = settings
        shape = (1, settings.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(settings.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(shape), persistent=False)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image (H, W, 3) to (S, S, 3), both uint8, with antialiasing."""
        size = self.settings.size
        if min(image.strides) < 0:  # flipped; NumPy calls a flipped array of one column contiguous
            image = image.copy()
        # torch must add the batch axis first: only then does it detect the channels-last layout and preserve it.
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # 1 3 H W
        source, target = placement(self.settings, *image.shape[:2])
        # Crop before the resize, so that a long panorama is not enlarged and then discarded.
        inner = self._resample(pixels[:, :, source.rows, source.columns], target.height, target.width)
        if inner.shape[-2:] == (size, size):
            return _to_array(inner)
        padded = torch.full((1, size, size, 3), PAD, dtype=torch.uint8).permute(0, 3, 1, 2)
        padded[:, :, target.rows, target.columns] = inner
        return _to_array(padded)

    def scale(self, pixels: Tensor) -> Tensor:
        """uint8 (N, S, S, 3) -> float (N, C, S, S) in 0 to 1, channels last in memory, grayscale if C is 1."""
        images = _as_floats(pixels).permute(0, 3, 1, 2).div_(255)  # N 3 S S
        if self.settings.channels == 1:
            images = to_grayscale(images)
        return images

    def normalize(self, images: Tensor) -> Tensor:
        """Return images (N, C, S, S) in 0 to 1 minus the mean, divided by the standard deviation."""
        return self._normalize(images, in_place=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, S, S, 3), resized -> normalized float (N, C, S, S)."""
        return self._normalize(self.scale(pixels), in_place=True)

    def resize_key(self) -> str:
        """Return a cache key: equal keys guarantee that `resize` returns equal bits."""
        names = ("resize", "size", "interpolation", "crop_share")
        settings = [getattr(self.settings, name) for name in names]
        versions = [version("tellapart"), torch.__version__]
        return json.dumps([settings, versions, platform.machine(), torch.backends.cpu.get_cpu_capability()])

    def _normalize(self, images: Tensor, in_place: bool) -> Tensor:
        # Whole rows of pixels, with mean and deviation repeated: 3 times as fast on a CPU as 3 channels at a time, and
        # 10 times as fast in an int8 ONNX graph.
        width = images.shape[3]
        rows = images.permute(0, 2, 3, 1).flatten(2)  # N S S*C, a view if the images are channels last
        mean, std = self.mean.flatten().repeat(width), self.std.flatten().repeat(width)
        if torch.compiler.is_compiling():  # keeps the exported graph simple
            normalized = (rows - mean) / std
        else:
            normalized = (rows.sub_(mean) if in_place else rows - mean).div_(std)
        return normalized.view(*rows.shape[:2], width, -1).permute(0, 3, 1, 2)

    def _resample(self, pixels: Tensor, height: int, width: int) -> Tensor:
        if pixels.shape[-2:] == (height, width):
            return pixels
        return F.interpolate(pixels, size=(height, width), mode=self.settings.interpolation, antialias=True)


def to_grayscale(images: Tensor) -> Tensor:
    """Return the luma (N, 1, S, S) of images (N, C, S, S); grayscale images are returned as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, i : i + 1] * weight for i, weight in enumerate(LUMA))
    return red + green + blue


def _as_floats(pixels: Tensor) -> Tensor:
    if pixels.device.type != "cpu" or torch.compiler.is_compiling():
        return pixels.float()
    # NumPy allocates huge pages and torch does not, which halves the time of this memory-bound copy.
    return torch.from_numpy(np.empty(pixels.shape, np.float32)).copy_(pixels)


def _to_array(pixels: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = pixels[0].permute(1, 2, 0).contiguous().numpy()
    return array
