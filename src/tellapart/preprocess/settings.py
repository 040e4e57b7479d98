"""The settings of a network's preprocessing, and the placement of an image in its input; free of torch.

Letters: C channels, H and W pixels, S the network's input size.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tellapart.errors import RecipeError, did_you_mean

Resize = Literal["squash", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic"]
PAD = 128  # the gray level of the border that `pad` adds
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grayscale


@dataclass(frozen=True)
class PreprocessSettings:
    """The settings of a `Preprocess`.

    resize: `squash` to a square, `crop` the central square, or `pad` with gray to a square. size: side S of the square,
    in pixels. channels: 1 (grayscale) or 3 (RGB). mean, std: per channel, of pixels scaled to 0 to 1. interpolation:
    always antialiased; published weights may require `bicubic`. crop_share: side of the square that `crop` selects, as
    a share of the short side.
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
                raise RecipeError(f"preprocess.{field}: expected one of {', '.join(allowed)}, found '{value}'.{hint}")
        if not 1 <= self.size <= 4096:
            raise RecipeError(f"preprocess.size: expected 1 to 4096 pixels, found {self.size}.")
        if self.channels not in (1, 3):
            raise RecipeError(f"preprocess.channels: expected 1 or 3, found {self.channels}.")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise RecipeError(
                f"preprocess.mean and preprocess.std: expected one number per channel ({self.channels}), found "
                f"{len(self.mean)} and {len(self.std)}."
            )
        if not 0 < self.crop_share <= 1:
            raise RecipeError(f"preprocess.crop_share: expected above 0 and at most 1, found {self.crop_share}.")
        if not all(s > 0 for s in self.std):
            raise RecipeError(f"preprocess.std: expected above 0, found {list(self.std)}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "PreprocessSettings":
        """Return the settings of a JSON object; raises `RecipeError` for values out of range."""
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
    """A rectangle of pixels; top and left are its first row and column."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """The range of rows."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The range of columns."""
        return slice(self.left, self.left + self.width)


def placement(settings: PreprocessSettings, height: int, width: int) -> tuple[Box, Box]:
    """Return the box of an image (H, W) that is resized, and its box in the network's input (S, S)."""
    size = settings.size
    source, target = Box(0, 0, height, width), Box(0, 0, size, size)
    if settings.resize == "crop":
        side = max(1, round(settings.crop_share * min(height, width)))
        source = _center(height, width, side, side)
    elif settings.resize == "pad":
        scale = size / max(height, width)
        target = _center(size, size, max(1, round(height * scale)), max(1, round(width * scale)))
    return source, target


def _center(height: int, width: int, inner_height: int, inner_width: int) -> Box:
    return Box((height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width)
