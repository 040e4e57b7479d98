"""Folders of real images for tests, from the data of installed packages."""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tellapart.cli import main
from tellapart.data.builtin import load_digits

# The smallest training that runs every stage.
QUICK = {"epochs": 2, "size": 16, "batch_size": 32}
QUICK |= {"coverage": 0.8, "ood_false_positive_rate": 0.2}  # the lowest that a handful of validation images supports


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def digit_folder(root: Path, classes: int = 3, each: int = 12, prefix: str = "digit") -> Path:
    """Write handwritten digits as PNG files, `each` per class, in one folder per class."""
    dataset = load_digits()
    for label in range(classes):
        folder = root / f"{prefix} {label}"
        folder.mkdir(parents=True)
        rows = [row for row in range(len(dataset)) if dataset.labels[row] == label][:each]
        for row in rows:
            Image.fromarray(dataset.images.read(row)).save(folder / f"{row:04d}.png")
    return root


def write_varied_images(folder: Path, count: int) -> list[Path]:
    """Write photographs in many sizes, formats, colour modes and orientations."""
    folder.mkdir()
    photos = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
    small = sorted(package("foolbox").glob("data/*_*.png"))
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        source = photos[number % len(photos)] if number % 3 else small[number % len(small)]
        image = Image.open(source).convert("RGB")
        if number % 3:
            image = image.resize(tuple(random.integers(20, 700, 2).tolist()))
        kind = ("png", "jpg", "webp", "bmp", "gif", "tiff")[number % 6]
        exif, options = Image.Exif(), {}
        exif[0x0112] = number % 8 + 1
        if kind in ("png", "jpg", "webp"):
            options["exif"] = exif
        if kind == "png" and number % 4 == 0:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        if kind == "jpg" and number % 4 == 1:
            image = image.convert(("L", "CMYK")[number % 8 // 4])
        path = folder / f"{number}.{kind}"
        image.save(path, **options)
        files.append(path)
    return files


def checksums(root: Path) -> dict[str, str]:
    """Return the SHA-256, mode and size of every file below a folder."""
    states = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            states[str(path.relative_to(root))] = (
                f"{hashlib.sha256(content).hexdigest()} {status.st_mode:o} {status.st_size}"
            )
    return states


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return the exit code, stdout and stderr."""
    previous = sys.argv
    sys.argv = ["tellapart", *map(str, arguments)]
    code = 0
    try:
        main()
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.argv = previous
    out, err = capsys.readouterr()
    return code, out, err
