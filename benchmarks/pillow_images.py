"""How the test images of the Pillow project, or those of any folder, are read, and 2,000 files mutated from them.

    pip download --no-deps --no-binary :all: pillow && tar xzf pillow-*.tar.gz
    python benchmarks/pillow_images.py pillow-*/Tests/images

Each file that begins like an image is decoded by tellapart and by Pillow; where Pillow composites, scales or turns as
tellapart does, the pixels must be equal. Then files are mutated: bytes overwritten, removed, repeated, or the end cut.
Only `UnreadableImageError` may be raised, and no library may write to stderr. Prints one JSON object of counts, one for
each reason of a refusal with an example, and one for each file that differs from Pillow.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tellapart.data.image import decode
from tellapart.data.image_formats import has_image_magic
from tellapart.errors import UnreadableImageError

MUTATED, ALMOST = 2000, 1  # files; levels by which pixels may differ


def by_pillow(path: Path) -> NDArray[np.int64] | None:
    """Return the pixels as Pillow decodes them, over white and upright; None if it refuses the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
        except Exception:  # of many kinds
            return None
    if image.mode.startswith("I") and not image.has_transparency_data:
        return np.repeat(np.rint(np.asarray(image).astype(np.int64) / 257)[..., None], 3, axis=2).astype(np.int64)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB")).astype(np.int64)


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Return a file with a few bytes overwritten, removed or repeated, or without its end."""
    kind, place = int(random.integers(4)), int(random.integers(len(data)))
    end = place + int(random.integers(1, 64))
    if kind == 0:
        return data[:place] + random.bytes(end - place) + data[end:]
    if kind == 1:
        return data[:place] + data[end:]
    return data[:end] + data[place:] if kind == 2 else data[:place]


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Give out the lines that are written to the file descriptor of stderr meanwhile, also by C libraries."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def main() -> None:
    """Read the files, and mutated ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [(path, data) for path in files if has_image_magic((data := path.read_bytes())[:16])]
    warnings.filterwarnings("ignore", module=r"PIL\.")  # as the command line does
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    counts, reasons, examples = Counter[str](), Counter[str](), dict[str, str]()
    random = np.random.default_rng(0)
    for number in range(len(images) + MUTATED):
        path, data = images[number] if number < len(images) else images[int(random.integers(len(images)))]
        is_whole = number < len(images)
        data = data if is_whole else mutate(data, random)
        began = time.perf_counter()
        with captured_stderr() as lines:
            try:
                pixels, outcome = decode(data), "read"
            except UnreadableImageError as error:
                pixels, outcome = None, "refused"
                reasons[error.reason] += is_whole
                examples.setdefault(error.reason, path.name)
            except BaseException as error:
                pixels, outcome = None, f"FAULT {type(error).__name__}"
                print(json.dumps({"file": path.name, "whole": is_whole, "fault": repr(error)}))
        if lines:
            counts["with lines on stderr"] += 1
            print(json.dumps({"file": path.name, "whole": is_whole, "stderr": lines[:2]}))
        if (seconds := time.perf_counter() - began) > 2:
            print(json.dumps({"file": path.name, "whole": is_whole, "seconds": round(seconds, 1)}))
        counts[f"{'whole' if is_whole else 'mutated'}, {outcome}"] += 1
        if is_whole and pixels is not None:
            expected = by_pillow(path)
            if expected is None or expected.shape != pixels.shape or np.abs(expected - pixels).max() > ALMOST:
                counts["read, but not as Pillow does"] += 1
                print(json.dumps({"file": path.name, "differs": "refused by Pillow" if expected is None else "pixels"}))
    for reason, count in reasons.most_common():
        if count:
            print(json.dumps({"reason": reason, "files": count, "example": examples[reason]}))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
