"""Share of damaged JPEG files that are refused, and of whole files with odd headers that are read.

    pip install --no-deps foolbox==3.3.4
    python benchmarks/damaged_files.py

20 photographs are written as JPEG of five kinds (baseline, progressive, with restart intervals, grey, CMYK) and damaged
900 times: a sector of random bytes, the end cut off, a stretch of zeros, lost restart intervals. Damage counts if it
moves a pixel by more than 8 levels. 500 other files are whole, but odd: junk between segments, a cut color profile, a
later version of JFIF, wrong scan parameters, an unknown color transform, junk after the end. Prints one JSON object per
kind of damage, and one for the odd files. One minute.
"""

import io
import json
import sys
from collections import Counter
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import package
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import decode, read_image
from tellapart.errors import UnreadableImageError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
jpegs: Any = import_module("damaged_jpegs")

DAMAGED, ODD, VISIBLE = 900, 500, 8


def by_pillow(data: bytes) -> NDArray[np.int64] | None:
    """Return the pixels as Pillow decodes them, damaged or not; None if it refuses the file."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)
    except OSError:
        return None


def is_read(data: bytes) -> bool:
    """Return whether tellapart reads a file."""
    try:
        decode(data)
    except UnreadableImageError:
        return False
    return True


def main() -> None:
    """Damage files, and write odd ones."""
    random, photos = np.random.default_rng(0), sorted(package("foolbox").glob("data/imagenet_*"))
    files = [(kind, jpegs.write_jpeg(read_image(path), kind)) for path in photos for kind in jpegs.KINDS]
    lost, accepted = Counter[str](), Counter[str]()
    cases = cycle((kind, data, damage) for kind, data in files for damage in jpegs.DAMAGES)
    while lost.total() < DAMAGED:
        kind, data, damage = next(cases)
        if damage is jpegs.lose_interval and kind != "restart":
            continue
        damaged, whole = damage(data, random), by_pillow(data)
        pixels = by_pillow(damaged)
        if whole is None or (pixels is not None and np.abs(pixels - whole).max() <= VISIBLE):
            continue
        lost[damage.__name__] += 1
        accepted[damage.__name__] += is_read(damaged)
    for name, count in lost.items():
        print(json.dumps({"damage": name, "files": count, "read": accepted[name]}))
    print(json.dumps({"refused": round(1 - accepted.total() / lost.total(), 4)}))
    odd = [oddity(data, random) for _, data in files[: ODD // len(jpegs.ODDITIES) + 1] for oddity in jpegs.ODDITIES]
    equal = 0
    for data in odd[:ODD]:
        expected = by_pillow(data)
        equal += is_read(data) and expected is not None and np.array_equal(decode(data), expected)
    print(json.dumps({"odd": len(odd[:ODD]), "read as Pillow does": int(equal)}))


if __name__ == "__main__":
    main()
