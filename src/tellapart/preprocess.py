"""How pixels become the network's input: one definition for training, test, command line and export.

Letters: N pictures, C channels, H and W pixels, S the network's input size.
"""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.errors import BadRecipe, did_you_mean

Resize = Literal["squash", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic"]
_PAD = 128
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights Pillow uses for grey


@dataclass(frozen=True)
class PreprocessSettings:
    """The JSON form of a `Preprocess`.

    resize: `squash` to a square, `crop` its middle (the short side is resized), or `pad` it with grey.
    size: side S of the square, in pixels. channels: 1 (grey) or 3 (RGB).
    mean, std: per channel, of pixels scaled to 0..1. interpolation: always antialiased; weights trained elsewhere may
    need `bicubic`. crop_share: side of the square that `crop` keeps, as a share of the short side.
    """

    resize: Resize
    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    crop_share: float = 1.0

    def __post_init__(self) -> None:
        for field, allowed in (("resize", get_args(Resize)), ("interpolation", get_args(Interpolation))):
            value = getattr(self, field)
            if value not in allowed:
                hint = did_you_mean(str(value), allowed)
                raise BadRecipe(f"preprocess.{field} must be one of {', '.join(allowed)}, not '{value}'.{hint}")
        if not 1 <= self.size <= 4096:
            raise BadRecipe(f"preprocess.size must be from 1 to 4096 pixels, not {self.size}.")
        if self.channels not in (1, 3):
            raise BadRecipe(f"preprocess.channels must be 1 or 3, not {self.channels}.")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise BadRecipe(f"preprocess.mean and preprocess.std need {self.channels} numbers each, one a channel.")
        if not 0 < self.crop_share <= 1:
            raise BadRecipe(f"preprocess.crop_share must be above 0 and at most 1, not {self.crop_share}.")
        if not all(s > 0 for s in self.std):
            raise BadRecipe(f"preprocess.std must be above 0, not {list(self.std)}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "PreprocessSettings":
        """Rebuild the settings; raises `BadRecipe` for values out of range."""
        return PreprocessSettings(
            resize=values["resize"],
            size=int(values["size"]),
            channels=int(values["channels"]),
            mean=tuple(float(m) for m in values["mean"]),
            std=tuple(float(s) for s in values["std"]),
            interpolation=values["interpolation"],
            crop_share=float(values.get("crop_share", 1.0)),
        )


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, from its top left corner."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """The rows of pixels it covers."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The columns of pixels it covers."""
        return slice(self.left, self.left + self.width)


def placement(settings: PreprocessSettings, height: int, width: int) -> tuple[Box, Box]:
    """Return which box of a picture (H, W) the network sees, and the box of its square (S, S) where that is shown."""
    size = settings.size
    source, target = Box(0, 0, height, width), Box(0, 0, size, size)
    if settings.resize == "crop":
        side = max(1, round(settings.crop_share * min(height, width)))
        source = _middle(height, width, side, side)
    elif settings.resize == "pad":
        scale = size / max(height, width)
        target = _middle(size, size, max(1, round(height * scale)), max(1, round(width * scale)))
    return source, target


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
        padded = torch.full((1, size, size, 3), _PAD, dtype=torch.uint8).permute(0, 3, 1, 2)
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
        if torch.compiler.is_compiling():  # the exported graph stays plain
            return (images - self.mean) / self.std
        # Whole rows of pixels with the figures repeated: three times as fast on a CPU as three channels at a time.
        width = images.shape[3]
        rows = images.permute(0, 2, 3, 1).flatten(2)  # N S S*C, a view of images that are channels last
        mean, std = self.mean.flatten().repeat(width), self.std.flatten().repeat(width)
        centred = rows.sub_(mean) if in_place else rows - mean
        return centred.div_(std).view(*rows.shape[:2], width, -1).permute(0, 3, 1, 2)

    def _resample(self, pixels: Tensor, height: int, width: int) -> Tensor:
        if pixels.shape[-2:] == (height, width):
            return pixels
        return F.interpolate(pixels, size=(height, width), mode=self.settings.interpolation, antialias=True)


def grey(images: Tensor) -> Tensor:
    """(N, C, S, S) -> its brightness (N, 1, S, S); what is grey already stays as it is."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, i : i + 1] * weight for i, weight in enumerate(_LUMA))
    return red + green + blue


def _as_floats(pixels: Tensor) -> Tensor:
    if pixels.device.type != "cpu" or torch.compiler.is_compiling():
        return pixels.float()
    # numpy asks the system for huge pages and torch does not: this halves the time, most of which goes into new pages.
    return torch.from_numpy(np.empty(pixels.shape, np.float32)).copy_(pixels)


def _middle(height: int, width: int, inner_height: int, inner_width: int) -> Box:
    return Box((height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width)


def _to_array(pixels: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = pixels[0].permute(1, 2, 0).contiguous().numpy()
    return array
