"""What the audit keeps of one decoded image: its size, a hash of its pixels, a thumbnail, and how it uses the range."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.image import ImageArray
from tellapart.data.thumbnails import make_thumbnail

DIGEST_BYTES = 16
_DIM = 32  # an image whose maximum is below this uses an eighth of the brightness range


@dataclass(frozen=True)
class ImageSummary:
    """Height and width in pixels; thumbnail (64, 64); is_grey: all channels are equal; is_dim: all pixels are dark."""

    height: int
    width: int
    digest: bytes
    thumbnail: NDArray[np.uint8]
    is_grey: bool
    is_dim: bool


def summarize_image(image: ImageArray) -> ImageSummary:
    """Return the summary of an image (H, W, 3)."""
    return ImageSummary(
        height=image.shape[0],
        width=image.shape[1],
        digest=pixel_digest(image),
        thumbnail=make_thumbnail(image),
        is_grey=_is_grey(image),
        is_dim=bool(image.max() < _DIM),
    )


def pixel_digest(image: ImageArray) -> bytes:
    """Return a hash (16 bytes) of the size and pixels of an image."""
    return hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES, salt=f"{image.shape[0]}x".encode()).digest()


def _is_grey(image: ImageArray) -> bool:
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return bool((red == green).all() and (green == blue).all())
