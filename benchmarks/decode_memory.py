"""Memory and time that decoding and resizing a large image takes, in each format and mode.

    python benchmarks/decode_memory.py               # about 2 minutes
    python benchmarks/decode_memory.py --side 4000 --json

Each image has 7,000 x 7,000 pixels (49 megapixels) and is decoded and resized to 224 x 224 in a process of its own, as
the server does. memory: the peak of the process above its size before (aim: at most 400 MB). The pixels are noise in
blocks of 50, so that files stay small.
"""

import argparse
import io
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tellapart.data.image import decode
from tellapart.errors import UnreadableImageError
from tellapart.preprocess.numpy_resize import resize
from tellapart.preprocess.settings import PreprocessSettings

_BLOCK = 50
_SETTINGS = PreprocessSettings(size=224, resize="squash", channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)

Encode = Callable[[int], bytes]


def pixels(side: int, channels: int) -> np.ndarray:
    """Return noise (H, W, C), equal in blocks."""
    coarse = np.random.default_rng(0).integers(0, 256, (side // _BLOCK, side // _BLOCK, channels), np.uint8)
    return coarse.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)


def saved(mode: str, file_format: str, **options: Any) -> Encode:
    """Return a function from the side to the bytes of an image."""

    def encode(side: int) -> bytes:
        if mode in ("I;16", "I", "F"):
            grey = pixels(side, 1)[:, :, 0]
            array = {
                "I;16": grey.astype(np.uint16) * 257,
                "I": grey.astype(np.int32),
                "F": grey.astype(np.float32) / 255,
            }
            image = Image.fromarray(array[mode])
        else:
            image = Image.fromarray(pixels(side, 4)).convert(mode)
        out = io.BytesIO()
        image.save(out, file_format, **options)
        return out.getvalue()

    return encode


KINDS: dict[str, Encode] = {
    "JPEG": saved("RGB", "jpeg"),
    "JPEG, grey": saved("L", "jpeg"),
    "JPEG, CMYK": saved("CMYK", "jpeg"),
    "JPEG, progressive": saved("RGB", "jpeg", progressive=True),
    "JPEG, progressive, full chroma": saved("RGB", "jpeg", progressive=True, subsampling=0),
    "PNG": saved("RGB", "png"),
    "PNG, transparent": saved("RGBA", "png"),
    "PNG, palette with transparency": saved("P", "png", transparency=0),
    "PNG, grey with 16 bits": saved("I;16", "png"),
    "WebP": saved("RGB", "webp"),
    "WebP, transparent, lossless": saved("RGBA", "webp", lossless=True, method=0),
    "AVIF": saved("RGB", "avif", speed=10),
    "GIF": saved("P", "gif"),
    "BMP": saved("RGB", "bmp"),
    "TIFF": saved("RGB", "tiff", compression="tiff_adobe_deflate"),
    "TIFF, CMYK": saved("CMYK", "tiff", compression="tiff_adobe_deflate"),
    "TIFF, 32 bits": saved("I", "tiff", compression="tiff_adobe_deflate"),
    "TIFF, float": saved("F", "tiff", compression="tiff_adobe_deflate"),
    "PNM": saved("RGB", "ppm"),
}


def peak_mb() -> float:
    """Return the peak of the memory of this process (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(content: bytes, queue: Any) -> None:
    """Decode and resize an image in this process; puts the peak in MB above the size before, and the seconds."""
    resize(np.zeros((100, 100, 3), np.uint8), _SETTINGS)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at the present size
    before = peak_mb()
    start, error = time.perf_counter(), ""
    try:
        resize(decode(content), _SETTINGS)
    except UnreadableImageError as refused:
        error = refused.reason
    queue.put({"memory_mb": peak_mb() - before, "seconds": time.perf_counter() - start, "error": error})


def main() -> None:
    """Print a line for each kind of image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=7000)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for kind, encode in KINDS.items():
        if arguments.only not in kind:
            continue
        content, queue = encode(arguments.side), context.Queue()
        process = context.Process(target=measure, args=(content, queue))
        process.start()
        result = {"kind": kind, "file_mb": len(content) / 2**20} | queue.get()
        process.join()
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            print(
                f"{kind:32} {result['file_mb']:6.1f} MB file  {result['memory_mb']:6.0f} MB  "
                f"{result['seconds']:5.1f} s  {result['error']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
