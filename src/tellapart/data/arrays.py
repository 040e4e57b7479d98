"""Images in arrays: NumPy, IDX files (MNIST), the binary version of CIFAR."""

import gzip
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tellapart.data.dataset import ArrayImages, ImageDataset, dataset_from_labels
from tellapart.data.label_texts import label_text, label_texts
from tellapart.errors import SourceError, printable

_IDX_MAX_BYTES = 4 * 2**30
_IDX_IMAGES = re.compile(r"^(?P<split>.*?)-?images[-.]idx3[-.]ubyte(\.gz)?$")
_IDX_SPLITS = {"t10k": "test", "": "train"}
_CIFAR_PIXELS = 3 * 32 * 32


def from_arrays(
    images: ArrayLike, labels: ArrayLike, title: str = "arrays", splits: ArrayLike | None = None
) -> ImageDataset:
    """Build an `ImageDataset` from images (N, H, W[, C]) uint8 and labels, integers or strings, as for `label_texts`.

    splits: (N,) names of splits. Raises `SourceError` for other shapes or types, and for missing labels.
    """
    try:
        pixels, names = np.asarray(images), label_texts(labels, title)
    except ValueError as error:
        raise SourceError(f"{title}: expected images of one shape, and one label per image: {error}.") from error
    _check_arrays(pixels, len(names), title)
    split_names = None if splits is None else [label_text(name) for name in np.asarray(splits).ravel().tolist()]
    if split_names is not None and len(split_names) != len(names):
        raise SourceError(f"{title}: expected one split for each of {len(names)} images, found {len(split_names)}.")
    return dataset_from_labels(title, ArrayImages(pixels, title), names, split_names)


def load_npz(path: Path) -> ImageDataset:
    """Read a .npz file with `images`, `labels` and, optionally, `split`; object arrays (pickles) are refused."""
    title = printable(str(path))
    try:
        with open(path, "rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it contains one array without a name")
            names = file.files
            arrays = {name: file[name] for name in names if name in ("images", "labels", "split")}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{title} is not a .npz file of plain arrays: {error}.") from error
    if not {"images", "labels"} <= arrays.keys():
        found = ", ".join(f"'{printable(name)}'" for name in names) or "none"
        raise SourceError(f"{title}: expected the arrays 'images' and 'labels', found {found}; rename them.")
    return from_arrays(arrays["images"], arrays["labels"], title, arrays.get("split"))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, optionally gzipped (LeCun, "The MNIST database", file format)."""
    title = printable(str(path))
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                raw = file.read(_IDX_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"Cannot read {title}: {error}.") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise SourceError(f"{title} is not an IDX file of unsigned bytes: its first bytes are {raw[:4].hex()}.")
    if not 1 <= raw[3] <= 4:
        raise SourceError(f"{title} is not an IDX file of images or labels: its header claims {raw[3]} dimensions.")
    header = 4 + 4 * raw[3]
    shape = [int.from_bytes(raw[start : start + 4], "big") for start in range(4, header, 4)]
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise SourceError(
            f"{title} is truncated or damaged: expected {expected:,} bytes for shape {shape}, found {len(raw):,}."
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def idx_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (split, images file) of the IDX image files in a folder, as in train-images-idx3-ubyte.gz."""
    matches = ((_IDX_IMAGES.match(path.name), path) for path in sorted(folder.iterdir()))
    # If a file exists both gzipped and not, only one of them counts.
    return list({match["split"]: (match["split"], path) for match, path in matches if match}.values())


def load_idx(files: Sequence[tuple[str, Path]], title: str, classes: Sequence[str] = ()) -> ImageDataset:
    """Read (split, IDX images file), with the label files next to them; t10k is the test split."""
    pixels, names, splits = [], [], []
    for split, path in files:
        labels_path = _find_labels(path)
        images, labels = read_idx(path), read_idx(labels_path)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise SourceError(
                f"{printable(str(path))} has shape {images.shape} and its labels {labels.shape}: "
                "expected images (N, H, W) and one label per image."
            )
        pixels.append(images)
        names += [classes[label] if label < len(classes) else str(label) for label in labels.tolist()]
        splits += [_IDX_SPLITS.get(split, split)] * len(labels)
    return from_arrays(_concatenate(pixels, title), names, title, splits if len(files) > 1 else None)


def is_cifar(folder: Path) -> bool:
    """Return whether the folder contains the binary version of CIFAR-10 or CIFAR-100."""
    return (folder / "test_batch.bin").is_file() or (
        (folder / "train.bin").is_file() and (folder / "test.bin").is_file()
    )


def load_cifar(folder: Path, title: str) -> ImageDataset:
    """Read CIFAR-10 or CIFAR-100 (fine labels), binary version (Krizhevsky 2009, dataset page)."""
    is_cifar100 = (folder / "train.bin").is_file()
    label_bytes, names_file = (2, "fine_label_names.txt") if is_cifar100 else (1, "batches.meta.txt")
    if not (folder / names_file).is_file():
        raise SourceError(f"{title} has no {names_file}: expected the class names, one per line, with the .bin files.")
    lines = (folder / names_file).read_text(encoding="utf-8").splitlines()
    classes = [line.strip() for line in lines if line.strip()]
    training = [folder / "train.bin"] if is_cifar100 else sorted(folder.glob("data_batch_*.bin"))
    pixels, names, splits = [], [], []
    for path in [*training, folder / ("test.bin" if is_cifar100 else "test_batch.bin")]:
        rows = _read_cifar_rows(path, label_bytes)
        labels = rows[:, label_bytes - 1]
        if labels.max() >= len(classes):
            raise SourceError(
                f"{printable(str(path))} has label {labels.max()}, but {names_file} has only {len(classes)} names."
            )
        pixels.append(rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        names += [classes[label] for label in labels.tolist()]
        splits += ["test" if path.stem.startswith("test") else "train"] * len(rows)
    return from_arrays(_concatenate(pixels, title), names, title, splits)


def _check_arrays(pixels: NDArray[Any], n_labels: int, title: str) -> None:
    if pixels.dtype != np.uint8:
        is_unit = pixels.dtype.kind == "f" and pixels.size and np.nanmax(pixels) <= 1
        advice = "multiply 0..1 by 255 and round" if is_unit else "round the values, and convert them to uint8"
        raise SourceError(f"{title}: expected images of type uint8 from 0 to 255, found {pixels.dtype}; {advice}.")
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3, 4)):
        raise SourceError(f"{title}: expected images (N, H, W) or (N, H, W, C), found shape {pixels.shape}.")
    if n_labels != len(pixels):
        raise SourceError(f"{title}: expected one label for each of {len(pixels)} images, found {n_labels}.")
    if not n_labels:
        raise SourceError(f"{title} contains no images: expected at least two classes of them.")


def _read_cifar_rows(path: Path, label_bytes: int) -> NDArray[np.uint8]:
    """Return the rows of a file: the label bytes, then all red, all green and all blue values of an image."""
    raw = np.fromfile(path, np.uint8)
    length = label_bytes + _CIFAR_PIXELS
    if not len(raw) or len(raw) % length:
        raise SourceError(f"{printable(str(path))} is truncated: {len(raw):,} bytes are not rows of {length}.")
    return raw.reshape(-1, length)


def _concatenate(pixels: list[NDArray[np.uint8]], title: str) -> NDArray[np.uint8]:
    if len({images.shape[1:] for images in pixels}) > 1:
        raise SourceError(f"{title} has files with different image sizes: expected the same size in all.")
    return np.concatenate(pixels)


def _find_labels(images_path: Path) -> Path:
    """Return the label file of an IDX images file, gzipped or not."""
    path = images_path.with_name(images_path.name.replace("images", "labels").replace("idx3", "idx1"))
    without_markup = path.with_name(path.name.removesuffix(".gz"))
    gzipped = without_markup.with_name(without_markup.name + ".gz")
    for candidate in (path, without_markup, gzipped):
        if candidate.is_file():
            return candidate
    raise SourceError(f"{printable(str(path))} does not exist: IDX images need their label file in the same folder.")
