"""Folders of real pictures for the tests, made from data that installed packages carry."""

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

# As small as training can be while every part of it runs.
QUICK = {"epochs": 2, "preprocess__size": 16, "training__batch_size": 32}


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def digit_folder(root: Path, classes: int = 3, each: int = 12) -> Path:
    """Write real handwritten digits as PNG files, one folder a class."""
    samples = load_digits()
    for label in range(classes):
        folder = root / f"digit {label}"
        folder.mkdir(parents=True)
        rows = [row for row in range(len(samples)) if samples.labels[row] == label][:each]
        for row in rows:
            Image.fromarray(samples.pictures.picture(row)).save(folder / f"{row:04d}.png")
    return root


def in_many_forms(folder: Path, count: int) -> list[Path]:
    """Write real pictures of many sizes, formats, colours and orientations."""
    folder.mkdir()
    photos = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
    small = sorted(package("foolbox").glob("data/*_*.png"))
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        source = photos[number % len(photos)] if number % 3 else small[number % len(small)]
        picture = Image.open(source).convert("RGB")
        if number % 3:
            picture = picture.resize(tuple(random.integers(20, 700, 2).tolist()))
        kind = ("png", "jpg", "webp", "bmp", "gif", "tiff")[number % 6]
        exif, options = Image.Exif(), {}
        exif[0x0112] = number % 8 + 1
        if kind in ("png", "jpg", "webp"):
            options["exif"] = exif
        if kind == "png" and number % 4 == 0:
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        if kind == "jpg" and number % 4 == 1:
            picture = picture.convert(("L", "CMYK")[number % 8 // 4])
        path = folder / f"{number}.{kind}"
        picture.save(path, **options)
        files.append(path)
    return files


def checksums(root: Path) -> dict[str, str]:
    """Return the SHA-256 and mode of every file below a folder; unreadable ones by name alone."""
    found = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            state = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(root))] = (
                f"{hashlib.sha256(content).hexdigest()} {state.st_mode:o} {state.st_size}"
            )
    return found


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, stdout and stderr."""
    old = sys.argv
    sys.argv = ["tellapart", *(str(a) for a in arguments)]
    code = 0
    try:
        main()
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.argv = old
    out, err = capsys.readouterr()
    return code, out, err
