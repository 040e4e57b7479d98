"""Built-in datasets: `digits`, which is part of scikit-learn, and common ones that are downloaded on first use."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tellapart.data.arrays import from_arrays, idx_files, load_cifar, load_idx
from tellapart.data.dataset import ImageDataset
from tellapart.data.folder import load_folder
from tellapart.io.atomic import cache_folder
from tellapart.io.download import RemoteFile, extract, fetch
from tellapart.optional import package_file
from tellapart.progress import Progress

_DIGITS = "digits"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_FASHION_CLASSES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")  # noqa: SIM905
_IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@dataclass(frozen=True)
class BuiltinDataset:
    """The files to download, and a function that reads the folder that they are in: (folder, title) -> dataset."""

    files: tuple[RemoteFile, ...]
    load: Callable[[Path, str], ImageDataset]


def load_digits() -> ImageDataset:
    """Return the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI)."""
    path = package_file("sklearn", "datasets", "data", "digits.csv.gz", extra="train")
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    # Levels 0 to 16: the dataset counts the ink in cells of 4 x 4.
    images = np.rint(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return from_arrays(images, table[:, 64], "digits")


def load_builtin(name: str, progress: Progress) -> ImageDataset:
    """Return a built-in dataset, downloading it first if needed; raises `DownloadError`."""
    if name == _DIGITS:
        return load_digits()
    dataset = BUILTIN_DATASETS[name]
    folder = cache_folder() / "sets" / name
    for remote in dataset.files:
        fetch(remote, folder, progress)
    return dataset.load(folder, name)


def _load_mnist(folder: Path, title: str) -> ImageDataset:
    return load_idx(idx_files(folder), title)


def _load_fashion_mnist(folder: Path, title: str) -> ImageDataset:
    return load_idx(idx_files(folder), title, _FASHION_CLASSES)


def _load_cifar_archive(folder: Path, title: str) -> ImageDataset:
    extracted = extract(next(folder.glob("*.tar.gz")), folder / "extracted")
    return load_cifar(next(path.parent for path in extracted.rglob("*.bin")), title)


def _load_cats_vs_dogs(folder: Path, title: str) -> ImageDataset:
    extracted = extract(next(folder.glob("*.zip")), folder / "extracted")
    return replace(load_folder(extracted / "PetImages"), title=title)


def _load_imagenette(folder: Path, title: str) -> ImageDataset:
    extracted = extract(next(folder.glob("*.tgz")), folder / "extracted")
    dataset = load_folder(next(path.parent for path in extracted.rglob("train")))
    return replace(dataset, title=title).rename_classes(_IMAGENETTE_CLASSES)


BUILTIN_DATASETS: dict[str, BuiltinDataset] = {
    "mnist": BuiltinDataset(
        files=(
            RemoteFile(
                _MNIST + "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9912422,
            ),
            RemoteFile(
                _MNIST + "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28881,
            ),
            RemoteFile(
                _MNIST + "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1648877,
            ),
            RemoteFile(
                _MNIST + "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4542,
            ),
        ),
        load=_load_mnist,
    ),
    "fashion-mnist": BuiltinDataset(
        files=(
            RemoteFile(
                _FASHION + "train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                26421880,
            ),
            RemoteFile(
                _FASHION + "train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                29515,
            ),
            RemoteFile(
                _FASHION + "t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                4422102,
            ),
            RemoteFile(
                _FASHION + "t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                5148,
            ),
        ),
        load=_load_fashion_mnist,
    ),
    "cifar10": BuiltinDataset(
        files=(
            RemoteFile(
                _CIFAR + "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                170052171,
            ),
        ),
        load=_load_cifar_archive,
    ),
    "cifar100": BuiltinDataset(
        files=(
            RemoteFile(
                _CIFAR + "cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                168513733,
            ),
        ),
        load=_load_cifar_archive,
    ),
    "cats-vs-dogs": BuiltinDataset(
        files=(
            RemoteFile(
                "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
                "kagglecatsanddogs_5340.zip",
                "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
                824887076,
            ),
        ),
        load=_load_cats_vs_dogs,
    ),
    "imagenette": BuiltinDataset(
        files=(
            RemoteFile(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
                "88daccb09b6fce93f45e6c09ddeb269cce705549e6bff322092a2a5a11489863",
                98948031,
            ),
        ),
        load=_load_imagenette,
    ),
}
BUILTIN_NAMES = (_DIGITS, *BUILTIN_DATASETS)
