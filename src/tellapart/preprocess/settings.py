"""What the preprocess of a network is set to, and where it places a picture; for the code that runs without torch too.

Letters: C channels, H and W pixels, S the network's input size.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tellapart.errors import BadRecipe, did_you_mean

Resize = Literal["squash", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic"]
PAD = 128  # the grey that `pad` fills with
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights Pillow uses for grey


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


def _middle(height: int, width: int, inner_height: int, inner_width: int) -> Box:
    return Box((height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width)
