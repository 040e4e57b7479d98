"""What every classifier can do once it resizes a picture and answers a batch: the same for networks and exported files.

Letters: N pictures, H and W pixels, S the network's input size, K classes.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.batching import BATCH, PixelTable
from tellapart.data.image import Picture, from_array, from_image, read_picture
from tellapart.data.threads import map_in_order
from tellapart.errors import UnreadableImage
from tellapart.inference.prediction import Answers, Prediction, Unreadable
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.uncertainty.conformal import SetRule

PictureLike = str | os.PathLike[str] | NDArray[np.uint8] | Image.Image


class Predictor(ABC):
    """Tells pictures apart: pixels (H, W, 3) of any size -> calibrated probabilities (K) of the classes."""

    classes: tuple[str, ...]
    preprocess: PreprocessSettings
    temperature: float
    sets: SetRule | None
    facts: dict[str, Any]

    @abstractmethod
    def resize(self, picture: Picture) -> Picture:
        """Return a picture (H, W, 3) as the network takes it, (S, S, 3)."""

    @abstractmethod
    def resize_key(self) -> str:
        """Return a string that is equal where `resize` gives equal bits, for pixels that are kept."""

    @abstractmethod
    def answers(self, pixels: PixelTable) -> Answers:
        """Return all that is said of pictures already resized, (N, S, S, 3)."""

    def probabilities(self, pictures: Sequence[PictureLike]) -> NDArray[np.float32]:
        """Return the probabilities (N, K) of pictures: paths, arrays (H, W[, 3]) uint8 or PIL images.

        Raises `UnreadableImage` for the first that cannot be read.
        """
        if not len(pictures):
            return np.zeros((0, len(self.classes)), np.float32)
        return self.of_pixels(self._resized(pictures))

    def of_pixels(self, pixels: PixelTable) -> NDArray[np.float32]:
        """Return the probabilities (N, K) of pictures already resized, (N, S, S, 3)."""
        return self.answers(pixels).probabilities

    def predict(self, picture: PictureLike, top: int = 5) -> Prediction:
        """Return what one picture shows, with the `top` best classes; raises `UnreadableImage`."""
        pixels = to_picture(picture)
        answers = self.answers(self.resize(pixels)[None])
        if isinstance(picture, (str, os.PathLike)):
            return answers.prediction(0, os.fspath(picture), self.classes, top)
        return replace(answers.prediction(0, "picture", self.classes, top), picture=pixels)

    def predict_many(self, pictures: Iterable[PictureLike], top: int = 5) -> Iterator[Prediction | Unreadable]:
        """Yield a prediction for each picture in order; one that cannot be read yields `Unreadable` in its place."""

        def resized(item: tuple[int, PictureLike]) -> tuple[str, Picture | Unreadable]:
            number, picture = item
            name = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else f"picture[{number}]"
            try:
                return name, self.resize(to_picture(picture))
            except UnreadableImage as error:
                return name, Unreadable(name, error.reason)

        batch: list[tuple[str, Picture | Unreadable]] = []
        for item in map_in_order(resized, enumerate(pictures)):
            batch.append(item)
            if len(batch) == BATCH:
                yield from self._predict_batch(batch, top)
                batch = []
        yield from self._predict_batch(batch, top)

    def _resized(self, pictures: Sequence[PictureLike]) -> NDArray[np.uint8]:
        return np.stack(list(map_in_order(lambda picture: self.resize(to_picture(picture)), pictures)))

    def _predict_batch(
        self, batch: list[tuple[str, Picture | Unreadable]], top: int
    ) -> Iterator[Prediction | Unreadable]:
        pixels = [content for _, content in batch if not isinstance(content, Unreadable)]
        answers = self.answers(np.stack(pixels)) if pixels else None
        rows = count()
        for name, content in batch:
            if answers is None or isinstance(content, Unreadable):
                yield cast(Unreadable, content)
            else:
                yield answers.prediction(next(rows), name, self.classes, top)


def to_picture(picture: PictureLike) -> Picture:
    """Return the pixels (H, W, 3) of a path, an array or a PIL image; raises `UnreadableImage`."""
    if isinstance(picture, Image.Image):
        return from_image(picture)
    if isinstance(picture, np.ndarray):
        return from_array(picture)
    return read_picture(picture)
