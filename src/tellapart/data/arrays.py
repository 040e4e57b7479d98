"""Pictures in arrays: NumPy, IDX files (MNIST), the binary version of CIFAR."""

import gzip
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tellapart.data.dataset import Arrays, Samples, build_samples
from tellapart.errors import BadSource, printable

_IDX_MAX_BYTES = 4 * 2**30
_IDX_IMAGES = re.compile(r"^(?P<part>.*?)-?images[-.]idx3[-.]ubyte(\.gz)?$")
_CIFAR_ROW = 3 * 32 * 32


def from_arrays(
    images: ArrayLike, labels: ArrayLike, title: str = "arrays", splits: ArrayLike | None = None
) -> Samples:
    """Make `Samples` from images (N, H, W[, C]) uint8 and labels (N,), of any type that has names.

    Raises `BadSource` when the shapes or types are not these.
    """
    try:
        pixels, names = np.asarray(images), np.asarray(labels)
    except ValueError as error:
        raise BadSource(f"{title}: expected images of one shape and a label for each: {error}.") from error
    if pixels.dtype != np.uint8:
        raise BadSource(
            f"{title}: expected images of type uint8 from 0 to 255, found {pixels.dtype}; "
            "multiply 0..1 by 255 and round."
        )
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3, 4)):
        raise BadSource(f"{title}: expected images (N, H, W) or (N, H, W, C), found shape {pixels.shape}.")
    if names.shape != pixels.shape[:1]:
        raise BadSource(f"{title}: expected one label for each of {len(pixels)} images, found shape {names.shape}.")
    if not len(names):
        raise BadSource(f"{title} holds no pictures.")
    if names.dtype.kind == "f":
        raise BadSource(f"{title}: expected labels that are whole numbers or names, found {names.dtype}.")
    parts = None if splits is None else [str(s) for s in np.asarray(splits).ravel()]
    if parts is not None and len(parts) != len(names):
        raise BadSource(f"{title}: expected one split for each of {len(names)} images, found {len(parts)}.")
    return build_samples(title, Arrays(pixels, title), [str(n) for n in names.tolist()], parts)


def load_npz(path: Path) -> Samples:
    """Read a .npz file with `images`, `labels` and perhaps `split`; object arrays (pickles) are refused."""
    title = printable(str(path))
    try:
        with open(path, "rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            arrays = {name: file[name] for name in file.files if name in ("images", "labels", "split")}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise BadSource(f"{title} is not a .npz file of plain arrays: {error}.") from error
    if not {"images", "labels"} <= arrays.keys():
        raise BadSource(f"{title} must hold the arrays 'images' and 'labels', found {sorted(arrays) or 'neither'}.")
    return from_arrays(arrays["images"], arrays["labels"], title, arrays.get("split"))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not (LeCun, "The MNIST database", file format)."""
    title = printable(str(path))
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                raw = file.read(_IDX_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadSource(f"Cannot read {title}: {error}.") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise BadSource(f"{title} is not an IDX file of unsigned bytes: its first bytes are {raw[:4].hex()}.")
    if not 1 <= raw[3] <= 4:
        raise BadSource(f"{title} is not an IDX file of pictures or labels: it claims {raw[3]} dimensions.")
    header = 4 + 4 * raw[3]
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4)]
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise BadSource(
            f"{title} is cut or damaged: expected {expected:,} bytes for shape {shape}, found {len(raw):,}."
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def idx_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (part, images file) for the IDX picture files in a folder, as in train-images-idx3-ubyte.gz."""
    found = ((_IDX_IMAGES.match(path.name), path) for path in sorted(folder.iterdir()))
    # Of a file that is there gzipped and not, one counts.
    return list({match["part"]: (match["part"], path) for match, path in found if match}.values())


def load_idx(files: Sequence[tuple[str, Path]], title: str, classes: Sequence[str] = ()) -> Samples:
    """Read IDX picture files with the label files beside them; t10k counts as the test part."""
    images, names, splits = [], [], []
    for part, path in files:
        labels_name = path.name.replace("images", "labels").replace("idx3", "idx1")
        labels_path = _with_or_without_gz(path.with_name(labels_name))
        pictures, labels = read_idx(path), read_idx(labels_path)
        if pictures.ndim != 3 or labels.shape != pictures.shape[:1]:
            raise BadSource(
                f"{printable(str(path))} has shape {pictures.shape} and its labels {labels.shape}: "
                "expected one label each."
            )
        images.append(pictures)
        names += [classes[k] if k < len(classes) else str(k) for k in labels.tolist()]
        splits += [{"t10k": "test", "": "train"}.get(part, part)] * len(labels)
    divided = len(files) > 1
    return from_arrays(_stack(images, title), names, title, splits if divided else None)


def is_cifar(folder: Path) -> bool:
    """Return whether the folder holds the binary version of CIFAR-10 or CIFAR-100."""
    return (folder / "test_batch.bin").is_file() or (
        (folder / "train.bin").is_file() and (folder / "test.bin").is_file()
    )


def load_cifar(folder: Path, title: str) -> Samples:
    """Read CIFAR-10 or CIFAR-100 (fine labels), binary version (Krizhevsky 2009, dataset page)."""
    hundred = (folder / "train.bin").is_file()
    label_bytes, meta = (2, "fine_label_names.txt") if hundred else (1, "batches.meta.txt")
    if not (folder / meta).is_file():
        raise BadSource(f"{title} has no {meta}: expected the class names, one a line, beside the .bin files.")
    classes = [line.strip() for line in (folder / meta).read_text(encoding="utf-8").splitlines() if line.strip()]
    train = [folder / "train.bin"] if hundred else sorted(folder.glob("data_batch_*.bin"))
    images, names, splits = [], [], []
    for path in [*train, folder / ("test.bin" if hundred else "test_batch.bin")]:
        raw = np.fromfile(path, np.uint8)
        if not len(raw) or len(raw) % (label_bytes + _CIFAR_ROW):
            raise BadSource(
                f"{printable(str(path))} is cut: {len(raw):,} bytes are not rows of {label_bytes + _CIFAR_ROW}."
            )
        rows = raw.reshape(-1, label_bytes + _CIFAR_ROW)
        labels = rows[:, label_bytes - 1]
        if labels.max() >= len(classes):
            raise BadSource(f"{printable(str(path))} has label {labels.max()}, and {meta} only {len(classes)} names.")
        images.append(rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        names += [classes[k] for k in labels.tolist()]
        splits += ["test" if path.stem.startswith("test") else "train"] * len(rows)
    return from_arrays(_stack(images, title), names, title, splits)


def _stack(images: list[NDArray[np.uint8]], title: str) -> NDArray[np.uint8]:
    if len({pictures.shape[1:] for pictures in images}) > 1:
        raise BadSource(f"{title} holds parts of different picture sizes: expected the same in all.")
    return np.concatenate(images)


def _with_or_without_gz(path: Path) -> Path:
    plain = path.with_name(path.name.removesuffix(".gz"))
    zipped = plain.with_name(plain.name + ".gz")
    for candidate in (path, plain, zipped):
        if candidate.is_file():
            return candidate
    raise BadSource(f"{printable(str(path))} is missing: IDX pictures need their label file beside them.")
