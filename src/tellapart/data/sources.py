"""A source, however it is given, -> `Samples`."""

import os
from pathlib import Path

from numpy.typing import ArrayLike

from tellapart.data.arrays import from_arrays, idx_files, is_cifar, load_cifar, load_idx, load_npz
from tellapart.data.builtin import NAMED_SETS, load_named
from tellapart.data.dataset import Samples
from tellapart.data.folder import load_folder
from tellapart.data.huggingface import PREFIX, from_dataset, is_dataset, load_from_hub
from tellapart.data.manifest import load_manifest
from tellapart.errors import BadSource, did_you_mean, printable
from tellapart.progress import Progress

Source = str | os.PathLike[str] | tuple[ArrayLike, ArrayLike] | Samples  # or a data set of `datasets`


def load_source(source: Source, progress: Progress | None = None) -> Samples:
    """Read labelled pictures.

    source: a folder of class folders, or of train/, val/ and test/; a manifest (.csv, .parquet); arrays (.npz, or the
    pair images (N, H, W[, C]) uint8 and labels (N,)); a folder or file of IDX (MNIST); a folder of CIFAR's binary
    version; the name of a set, such as `digits` or `cifar10`; `hf://datasets/OWNER/NAME`, or a data set of the library
    `datasets`; or `Samples` themselves.

    Raises `BadSource`, or a class below it, when it holds none of these.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, tuple):
        return from_arrays(*source)
    if is_dataset(source):
        return from_dataset(source)
    path = Path(source)
    name = str(source)
    if name.startswith(PREFIX):
        return load_from_hub(name, progress or Progress())
    if os.path.isdir(path):
        return _load_directory(path)
    if os.path.exists(path):
        return _load_file(path)
    if name == "digits" or name in NAMED_SETS:
        return load_named(name, progress or Progress())
    hint = did_you_mean(name, ["digits", *NAMED_SETS])
    raise BadSource(
        f"There is no folder, file or known set '{printable(name)}': expected a folder of class folders, a manifest "
        f"(.csv, .parquet), a .npz file, or one of {', '.join(['digits', *NAMED_SETS])}.{hint}"
    )


def _load_directory(path: Path) -> Samples:
    if is_cifar(path):
        return load_cifar(path, printable(str(path)))
    try:
        files = idx_files(path)
    except OSError as error:
        raise BadSource(f"Cannot list the folder {printable(str(path))}: {error.strerror}.") from error
    if files:
        return load_idx(files, printable(str(path)))
    return load_folder(path)


def _load_file(path: Path) -> Samples:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".parquet"):
        return load_manifest(path)
    if suffix == ".npz":
        return load_npz(path)
    files = [(part, file) for part, file in idx_files(path.parent) if file == path]
    if files:
        return load_idx(files, printable(str(path)))
    raise BadSource(
        f"{printable(str(path))} is not a known kind of source: expected a folder, .csv, .parquet, .npz or IDX file."
    )
