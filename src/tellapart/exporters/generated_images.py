"""Images for a parity check where there are no real ones: noise and shapes of many sizes."""

import numpy as np

from tellapart.data.image import ImageArray

_SIDES = (1, 17, 64, 200, 224, 333, 640, 1024)
_COUNT = 32


class GeneratedImages:
    """Images that are computed from their row; they are read as the images of a dataset are."""

    def __len__(self) -> int:
        return _COUNT

    def read(self, row: int) -> ImageArray:
        """Return an image (H, W, 3): noise in blocks of one to many pixels, with a gradient below it."""
        rng = np.random.default_rng(row)
        height, width = (int(side) for side in rng.choice(_SIDES, 2))
        block = int(rng.choice((1, 4, 16, 64)))
        coarse = rng.integers(0, 256, (-(-height // block), -(-width // block), 3))
        noise = coarse.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
        gradient = np.linspace(0, 255, width)[None, :, None] * rng.uniform(0, 1, 3)
        share = rng.uniform(0, 1)
        return (share * noise + (1 - share) * gradient).astype(np.uint8)

    def name(self, row: int) -> str:
        """Return the name of an image to display."""
        return f"generated image {row}"
