"""The Kotlin code in the documentation resizes images as in training."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tellapart.data.image import read_image
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess

ROOT = Path(__file__).parents[3]
SETTINGS = [("squash", 224, "bilinear", 1.0), ("crop", 96, "bicubic", 0.875), ("pad", 130, "bilinear", 1.0)]


@pytest.mark.slow
def test_kotlin_resizes_bit_for_bit(photos, small_images, tmp_path):
    compiler = shutil.which("kotlinc")
    assert compiler, "kotlinc is not installed; scripts/test --all installs it"
    sources = [ROOT / "docs" / "phone" / "Resize.kt", Path(__file__).parent / "resize_check.kt"]
    subprocess.run([compiler, *sources, "-include-runtime", "-d", tmp_path / "check.jar"], check=True)
    images = [read_image(path) for path in (*photos[:6], *small_images[:2])]
    images += [images[0][:1], images[1][:, :1], images[2][:3, :400]]
    lines, expected = [], []
    for settings in SETTINGS:
        for image in images:
            source, target = (tmp_path / f"{len(lines)}.{kind}" for kind in ("in", "out"))
            source.write_bytes(image.tobytes())
            lines.append(" ".join(map(str, (*settings, *image.shape[:2], source, target))))
            resize, size, interpolation, crop_share = settings
            preprocess = PreprocessSettings(
                resize=resize,
                size=size,
                channels=3,
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
                interpolation=interpolation,
                crop_share=crop_share,
            )
            expected.append((target, Preprocess(preprocess).resize(image)))
    command = ["java", "-cp", tmp_path / "check.jar", "tellapart.Resize_checkKt"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)
    for target, pixels in expected:
        np.testing.assert_array_equal(np.frombuffer(target.read_bytes(), np.uint8).reshape(pixels.shape), pixels)
