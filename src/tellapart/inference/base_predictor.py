"""`Predictor`: the methods that all classifiers share, whether torch or an exported file runs the network.

Letters: N images, H and W pixels, S the network's input size, K classes.
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

from tellapart.data.batching import BATCH_SIZE, PixelArray
from tellapart.data.image import ImageArray, from_array, from_pillow, read_image
from tellapart.data.threads import map_in_order
from tellapart.errors import ImageInputError, UnreadableImageError
from tellapart.inference.prediction import Prediction, PredictionBatch, UnreadableFile
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.uncertainty.conformal import ConformalPredictor

ImageLike = str | os.PathLike[str] | NDArray[np.uint8] | Image.Image
_ResizedImage = tuple[str, ImageArray | UnreadableFile]  # a name, and the pixels (S, S, 3) or why there are none


class Predictor(ABC):
    """An image classifier: pixels (H, W, 3) of any size -> calibrated probabilities (K) of the classes."""

    classes: tuple[str, ...]
    preprocess: PreprocessSettings
    temperature: float
    conformal: ConformalPredictor | None
    metadata: dict[str, Any]

    @abstractmethod
    def resize(self, image: ImageArray) -> ImageArray:
        """Return an image (H, W, 3) resized to the network's input (S, S, 3)."""

    @abstractmethod
    def resize_key(self) -> str:
        """Return a cache key: equal keys mean that `resize` gives equal bits."""

    @abstractmethod
    def infer(self, pixels: PixelArray) -> PredictionBatch:
        """Return the predictions for resized images (N, S, S, 3)."""

    def probabilities(self, images: Sequence[ImageLike]) -> NDArray[np.float32]:
        """Return the probabilities (N, K) of images: paths, uint8 arrays (H, W[, 3]) or PIL images.

        Raises `UnreadableImageError` for the first image that cannot be read.
        """
        if not len(images):
            return np.zeros((0, len(self.classes)), np.float32)
        return self.predict_proba(np.stack(list(map_in_order(lambda image: self.resize(to_image(image)), images))))

    def predict_proba(self, pixels: PixelArray) -> NDArray[np.float32]:
        """Return the probabilities (N, K) of resized images (N, S, S, 3)."""
        return self.infer(pixels).probabilities

    def predict(self, image: ImageLike, top: int = 5) -> Prediction:
        """Return the prediction for one image, with the `top` most probable classes.

        Raises `UnreadableImageError`, or `ImageInputError` for several images.
        """
        if isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4):
            raise ImageInputError(
                f"Expected one image, found {len(image)}: use predict_many, predict_labels or probabilities."
            )
        pixels = to_image(image)
        batch = self.infer(self.resize(pixels)[None])
        if isinstance(image, (str, os.PathLike)):
            return batch.prediction(0, os.fspath(image), self.classes, top)
        return replace(batch.prediction(0, "image", self.classes, top), image=pixels)

    def predict_labels(self, images: Sequence[ImageLike]) -> NDArray[Any]:
        """Return the labels (N,) of images, as scikit-learn expects them: integers if all class names are integers.

        Raises `UnreadableImageError` for the first image that cannot be read.
        """
        are_integers = all(name.isascii() and name.isdigit() and name == str(int(name)) for name in self.classes)
        labels = np.array([int(name) for name in self.classes] if are_integers else self.classes)
        return np.asarray(labels[self.probabilities(images).argmax(axis=1)])

    def predict_many(self, images: Iterable[ImageLike], top: int = 5) -> Iterator[Prediction | UnreadableFile]:
        """Yield a prediction for each image in order, or an `UnreadableFile` if the image cannot be read."""
        batch: list[_ResizedImage] = []
        for item in map_in_order(self._resize_item, enumerate(images)):
            batch.append(item)
            if len(batch) == BATCH_SIZE:
                yield from self._predict_batch(batch, top)
                batch = []
        yield from self._predict_batch(batch, top)

    def _resize_item(self, item: tuple[int, ImageLike]) -> _ResizedImage:
        number, image = item
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image[{number}]"
        try:
            return name, self.resize(to_image(image))
        except UnreadableImageError as error:
            return name, UnreadableFile(name, error.reason)

    def _predict_batch(self, items: list[_ResizedImage], top: int) -> Iterator[Prediction | UnreadableFile]:
        pixels = [content for _, content in items if not isinstance(content, UnreadableFile)]
        batch = self.infer(np.stack(pixels)) if pixels else None
        rows = count()
        for name, content in items:
            if batch is None or isinstance(content, UnreadableFile):
                yield cast(UnreadableFile, content)
            else:
                yield batch.prediction(next(rows), name, self.classes, top)


def to_image(image: ImageLike) -> ImageArray:
    """Return the pixels (H, W, 3) of a path, an array or a PIL image; raises `UnreadableImageError`."""
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if isinstance(image, np.ndarray):
        return from_array(image)
    return read_image(image)
