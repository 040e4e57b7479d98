"""Folders of real pictures for the tests, made from data that installed packages carry."""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from tellapart.cli import main
from tellapart.data.named import load_digits

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
