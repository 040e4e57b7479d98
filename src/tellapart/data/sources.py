"""Any source of labelled images -> `ImageDataset`."""

import os
from pathlib import Path

from numpy.typing import ArrayLike

from tellapart.data.arrays import from_arrays, idx_files, is_cifar, load_cifar, load_idx, load_npz
from tellapart.data.builtin import BUILTIN_NAMES, load_builtin
from tellapart.data.dataset import ImageDataset, check_training_classes
from tellapart.data.folder import load_folder
from tellapart.data.huggingface import PREFIX, from_huggingface, is_huggingface_dataset, load_from_hub
from tellapart.data.manifest import load_manifest
from tellapart.errors import SourceError, did_you_mean, printable
from tellapart.progress import Progress

Source = (
    str | os.PathLike[str] | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike] | ImageDataset
)  # or a dataset of `datasets`


def load_dataset(source: Source, progress: Progress | None = None, *, for_training: bool = True) -> ImageDataset:
    """Load labelled images.

    source: a folder of class folders, or of train/, val/ and test/; a manifest (.csv, .parquet); arrays (.npz, or the
    pair images (N, H, W[, C]) uint8 and labels (N,), or these and splits (N,)); a folder or file of IDX (MNIST); a
    folder of CIFAR's binary version; a built-in dataset, such as `digits` or `cifar10`; `hf://datasets/OWNER/NAME`, or
    a dataset of the library `datasets`; an `ImageDataset` is returned unchanged. for_training: require two classes, and
    of a given split the training split with all of them.

    Raises `SourceError`, or a subclass of it, for anything else.
    """
    dataset = _load(source, progress or Progress())
    if for_training and dataset is not source:
        check_training_classes(dataset)
    return dataset


def check_source(name: str) -> None:
    """Raise `SourceError` unless a path, or a built-in dataset or one on the Hugging Face Hub, has this name."""
    if name.startswith(PREFIX) or name in BUILTIN_NAMES or os.path.exists(name):
        return
    hint = did_you_mean(name, BUILTIN_NAMES)
    raise SourceError(
        f"There is no folder, file or built-in dataset '{printable(name)}': expected a folder of class folders "
        "or of CIFAR or IDX files, a manifest (.csv, .parquet), a .npz file, "
        f"{PREFIX}<name> on the Hugging Face Hub, or one of {', '.join(BUILTIN_NAMES)}.{hint}"
    )


def _load_directory(path: Path) -> ImageDataset:
    title = printable(str(path))
    if is_cifar(path):
        return load_cifar(path, title)
    try:
        files = idx_files(path)
    except OSError as error:
        raise SourceError(f"Cannot list the folder {title}: {error.strerror}.") from error
    return load_idx(files, title) if files else load_folder(path)


def _load_file(path: Path) -> ImageDataset:
    title, suffix = printable(str(path)), path.suffix.lower()
    if suffix in (".csv", ".parquet"):
        return load_manifest(path)
    if suffix == ".npz":
        return load_npz(path)
    files = [(split, file) for split, file in idx_files(path.parent) if file == path]
    if files:
        return load_idx(files, title)
    raise SourceError(f"{title} is not a supported source: expected a folder, or a .csv, .parquet, .npz or IDX file.")


def _load(source: Source, progress: Progress) -> ImageDataset:
    if isinstance(source, ImageDataset):
        return source
    if isinstance(source, tuple):
        if len(source) not in (2, 3):
            raise SourceError(f"Expected images and labels, and optionally splits, found a tuple of {len(source)}.")
        return from_arrays(source[0], source[1], splits=source[2] if len(source) == 3 else None)
    if is_huggingface_dataset(source):
        return from_huggingface(source)
    path = Path(source)
    name = str(source)
    if name.startswith(PREFIX):
        return load_from_hub(name, progress)
    if os.path.isdir(path):
        return _load_directory(path)
    if os.path.exists(path):
        return _load_file(path)
    check_source(name)
    return load_builtin(name, progress)
