"""The code for phones in the documents does what the classifier was trained with."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tellapart.data.image import read_picture
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess

ROOT = Path(__file__).parents[3]
SETTINGS = [("squash", 224, "bilinear", 1.0), ("crop", 96, "bicubic", 0.875), ("pad", 130, "bilinear", 1.0)]


@pytest.mark.slow
def test_kotlin_resizes_bit_for_bit(photos, small_pictures, tmp_path):
    compiler = shutil.which("kotlinc")
    assert compiler, "kotlinc is not installed; scripts/test --all installs it"
    sources = [ROOT / "docs" / "phone" / "Resize.kt", Path(__file__).parent / "resize_check.kt"]
    subprocess.run([compiler, *sources, "-include-runtime", "-d", tmp_path / "check.jar"], check=True)
    pictures = [read_picture(path) for path in (*photos[:6], *small_pictures[:2])]
    pictures += [pictures[0][:1], pictures[1][:, :1], pictures[2][:3, :400]]
    lines, expected = [], []
    for settings in SETTINGS:
        for picture in pictures:
            given, found = (tmp_path / f"{len(lines)}.{kind}" for kind in ("in", "out"))
            given.write_bytes(picture.tobytes())
            lines.append(" ".join(map(str, (*settings, *picture.shape[:2], given, found))))
            resize, size, interpolation, share = settings
            preprocess = PreprocessSettings(resize, size, 3, (0.5,) * 3, (0.5,) * 3, interpolation, share)
            expected.append((found, Preprocess(preprocess).resize(picture)))
    command = ["java", "-cp", tmp_path / "check.jar", "tellapart.Resize_checkKt"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)
    for found, right in expected:
        np.testing.assert_array_equal(np.frombuffer(found.read_bytes(), np.uint8).reshape(right.shape), right)
