"""How pixels become the network's input: one definition for training, test, command line and export.

Letters: N pictures, C channels, H and W pixels, S the network's input size.
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
    """uint8 pictures of any size -> the network's normalised float input."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: PreprocessSettings) -> None:
        super().__init__()
        self.settings = settings
        shape = (1, settings.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(settings.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(shape), persistent=False)

    def resize(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring one picture (H, W, 3) to (S, S, 3), both uint8, by antialiased resampling."""
        size = self.settings.size
        if min(picture.strides) < 0:  # mirrored; of a single column numpy calls even that contiguous
            picture = picture.copy()
        # The axis of one is made first and by torch: only then it sees that channels are last, and keeps them so.
        pixels = torch.from_numpy(np.require(picture, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # 1 3 H W
        source, target = placement(self.settings, *picture.shape[:2])
        # Cropped in the source first, so that a long panorama is not blown up to be thrown away.
        inner = self._resample(pixels[:, :, source.rows, source.columns], target.height, target.width)
        if inner.shape[-2:] == (size, size):
            return _to_array(inner)
        padded = torch.full((1, size, size, 3), PAD, dtype=torch.uint8).permute(0, 3, 1, 2)
        padded[:, :, target.rows, target.columns] = inner
        return _to_array(padded)

    def scale(self, pixels: Tensor) -> Tensor:
        """uint8 (N, S, S, 3) -> float (N, C, S, S) in 0..1, channels last in memory, grey where C is 1."""
        images = _as_floats(pixels).permute(0, 3, 1, 2).div_(255)  # N 3 S S
        if self.settings.channels == 1:
            images = grey(images)
        return images

    def normalise(self, images: Tensor) -> Tensor:
        """Float (N, C, S, S) in 0..1 -> zero mean and unit deviation by the settings."""
        return self._normalise(images, in_place=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, S, S, 3), already resized -> normalised float (N, C, S, S)."""
        return self._normalise(self.scale(pixels), in_place=True)

    def resize_key(self) -> str:
        """Return a string that is equal where `resize` gives equal bits, for pixels that are kept."""
        names = ("resize", "size", "interpolation", "crop_share")
        settings = [getattr(self.settings, name) for name in names]
        versions = [version("tellapart"), torch.__version__]
        return json.dumps([settings, versions, platform.machine(), torch.backends.cpu.get_cpu_capability()])

    def _normalise(self, images: Tensor, in_place: bool) -> Tensor:
        # Whole rows of pixels with the figures repeated: three times as fast on a CPU as three channels at a time, and
        # ten times in a graph of ONNX in int8.
        width = images.shape[3]
        rows = images.permute(0, 2, 3, 1).flatten(2)  # N S S*C, a view of images that are channels last
        mean, std = self.mean.flatten().repeat(width), self.std.flatten().repeat(width)
        if torch.compiler.is_compiling():  # the exported graph stays plain
            centred = (rows - mean) / std
        else:
            centred = (rows.sub_(mean) if in_place else rows - mean).div_(std)
        return centred.view(*rows.shape[:2], width, -1).permute(0, 3, 1, 2)

    def _resample(self, pixels: Tensor, height: int, width: int) -> Tensor:
        if pixels.shape[-2:] == (height, width):
            return pixels
        return F.interpolate(pixels, size=(height, width), mode=self.settings.interpolation, antialias=True)


def grey(images: Tensor) -> Tensor:
    """(N, C, S, S) -> its brightness (N, 1, S, S); what is grey already stays as it is."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, i : i + 1] * weight for i, weight in enumerate(LUMA))
    return red + green + blue


def _as_floats(pixels: Tensor) -> Tensor:
    if pixels.device.type != "cpu" or torch.compiler.is_compiling():
        return pixels.float()
    # numpy asks the system for huge pages and torch does not: this halves the time, most of which goes into new pages.
    return torch.from_numpy(np.empty(pixels.shape, np.float32)).copy_(pixels)


def _to_array(pixels: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = pixels[0].permute(1, 2, 0).contiguous().numpy()
    return array
