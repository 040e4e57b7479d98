"""The commands that the documents show, run as they are, in a folder with the files that they name."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

from folders import QUICK, digit_folder, package
from hub_server import TOKEN, Hub
from servers import Server, wait_for
from tellapart.models import create
from tellapart.pipeline.train import train

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^ *```(bash|sh)\n(.*?)^ *```$", re.M | re.S)
SKIPPED = {
    "pip install": "scripts/run_blocks.py checks the extra",
    "torchrun --nnodes": "needs several machines",
    "#SBATCH": "needs a cluster",
    "scripts/setup": "the tests need what it installs",
    "benchmarks/": "takes hours",
    "uoft-cs": "needs the hub itself",
    "ort/dist": "needs a copy of onnxruntime-web",
    "tellapart export-labels": "needs labelled images: tests/serving/capture/test_store.py",
    "export MLFLOW": "needs an MLflow server",
    "mlflow models serve": "tests/tracking/test_callbacks.py",
}
# Weights that a test cannot download, services and folders that do not exist here, time, and existing files.
REPLACED = (
    (r"resnet(50|18)\b", "efficientnet_lite0"),
    (r"/shared/", ""),
    (r"cats-vs-dogs|(?<=train )pets|photos/(?= )", "photos"),
    (r"http://tracker:5000", "sqlite:///tracker.db"),
    (r"--max-time \w+", "--max-time 5s"),
    (r"--timeout \d+[mh]", "--timeout 5s"),
    (
        r"--freeze-backbone|--head",
        r"--set model.pretrained=true \g<0>",
    ),  # these images are too small to get weights by themselves
    (r"--out runs/photos --resume", "--out out/photos --resume"),
    (r"^tellapart export runs/photos$", r"\g<0> --out fresh.onnx"),
    (r"--out pets.onnx", "--out other.onnx"),
    (r"v[12]\.onnx", "model.onnx"),
)
SHORT = {
    "train": "--epochs 1 --no-autotune --set preprocess.size=32",
    "tune": "--trials 2 --epochs 1 --set execution.autotune=false --set preprocess.size=32",
    "ensemble": "",
    "serve": "--port 0",
}


def lines(page):
    """Return the lines of the page's blocks that are commands."""
    found = []
    for _, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if not any(name in code for name in ("#SBATCH", "--nnodes")):
            found += textwrap.dedent(code).replace("\\\n", " ").splitlines()
    found = [re.sub(r"(^|\s+)# .*", "", line) for line in found]  # without remarks
    return [line for line in found if line and not any(name in line for name in SKIPPED)]


PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if lines(page)]


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory):
    """Return a folder with the images and runs that the documents name."""
    root = tmp_path_factory.mktemp("forms")
    digit_folder(root / "photos", 3, 24)
    for epochs, name in enumerate("abc", 1):
        settings = QUICK | {"autotune": False, "epochs": epochs}
        train(root / "photos", out=root / "runs" / name, **settings)
    for name in ("photos", "old", "digits", "cats-and-dogs", "new"):
        shutil.copytree(root / "runs" / ("b" if name == "new" else "a"), root / "runs" / name)
    run_line(root, "tellapart export runs/photos")
    for name in ("model.onnx", "pets.onnx", "birds.onnx", "runs/digits/model.onnx", "runs/cats-and-dogs/model.onnx"):
        shutil.copy(root / "runs/photos/model.onnx", root / name)
    photos = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
    for name, photo in zip(("cat", "dog"), photos, strict=False):
        shutil.copy(photo, root / f"{name}.jpg")
    shutil.copytree(root / "photos", root / "new-photos")
    (root / "new").mkdir()
    shutil.copy(next((root / "photos").rglob("*.png")), root / "new")
    (root / "token").write_text("a-long-enough-token")
    torch.save(create("efficientnet_lite0").state_dict(), root / "mine.pth")
    layers = re.search(r"```toml\n(.*?)```", (ROOT / "docs/layers.md").read_text(encoding="utf-8"), re.S)
    (root / "mynet.toml").write_text(layers[1])
    return root


@pytest.fixture
def folder(example_folder, tmp_path):
    shutil.copytree(example_folder, tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def hub():
    with Hub() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running.address
        running.shutdown()


def run_line(folder, line, **settings):
    """Run a line with bash and return its output; a server is stopped once it has printed its address."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    own |= {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    log = folder / "output.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=folder, env=os.environ | own | settings, stdout=file, stderr=file
        )
    if re.match(r"tellapart serve|tensorboard|python -m http.server", line):
        wait_for(lambda: "http://" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, f"{line}\n{log.read_text()}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM), f"{line}\n{log.read_text()}"
    else:
        assert process.wait(500) == 0, f"{line}\n{log.read_text()[-3000:]}"
    return log.read_text()


def shortened(line, number, postgres):
    """Return a line with existing files and services, an output folder of its own, and little work."""
    for there, here in REPLACED:
        line = re.sub(there, here, line)
    line = re.sub(r"postgresql://me@host/\w+", lambda _: f"'{postgres}'", line)
    for name, options in SHORT.items():
        if f"tellapart {name} " in line:
            options = options.replace("--epochs 1", "") if "--max-time" in line and name == "train" else options
            out = "" if "--out" in line or "--resume" in line or name == "serve" else f" --out out/{number}"
            line = f"{line} {options}{out}"
    return line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_commands_that_a_page_shows_run(page, folder, postgres, hub):
    for number, line in enumerate(lines(page)):
        if line.startswith("curl"):
            server = Server(folder, folder / "runs/photos/model.onnx")
            answer = run_line(folder, line.replace(":8000/", f":{server.port}/"))
            assert server.stop() == 0
            assert '"class"' in answer or '"label"' in answer, answer
        else:
            run_line(folder, shortened(line, number, postgres), HF_ENDPOINT=hub)
