"""The commands that the pages show, run as they stand there, in a folder that has what they name."""

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
NOT_HERE = {
    "pip install": "scripts/run_blocks.py looks whether there is such an extra",
    "torchrun --nnodes": "several machines",
    "#SBATCH": "a cluster",
    "scripts/setup": "the tests themselves need what it installs",
    "benchmarks/": "hours of measurements",
    "uoft-cs": "a set on the hub itself",
    "ort/dist": "a copy of onnxruntime-web that somebody has",
    "tellapart collected": "somebody has to label pictures on a page first: tests/serving/capture/test_store.py does",
    "export MLFLOW": "the same",
    "mlflow models serve": "tests/tracking/test_callbacks.py serves so",
}
# Published weights that a test cannot fetch, places that only others have, time, and what is there already.
INSTEAD = (
    (r"resnet(50|18)\b", "efficientnet_lite0"),
    (r"/shared/", ""),
    (r"cats-vs-dogs|(?<=train )pets|photos/(?= )", "photos"),
    (r"http://tracker:5000", "sqlite:///tracker.db"),
    (r"--budget \w+", "--budget 5s"),
    (
        r"--frozen-base|--head",
        r"--set pretrained=true \g<0>",
    ),  # these pictures are too small to get weights by themselves
    (r"--out runs/photos --resume", "--out out/photos --resume"),
    (r"^tellapart export runs/photos$", r"\g<0> --out fresh.onnx"),
    (r"--out pets.onnx", "--out other.onnx"),
)
SHORT = {
    "train": "--epochs 1 --no-autotune --set preprocess.size=32",
    "tune": "--trials 2 --epochs 1 --set training.autotune=false --set preprocess.size=32",
    "combine": "",
    "serve": "--port 0",
}


def lines(page):
    """Return the lines of the page's blocks that are commands."""
    found = []
    for _, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if not any(name in code for name in ("#SBATCH", "--nnodes")):
            found += textwrap.dedent(code).replace("\\\n", " ").splitlines()
    found = [re.sub(r"(^|\s+)# .*", "", line) for line in found]  # without remarks
    return [line for line in found if line and not any(name in line for name in NOT_HERE)]


PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if lines(page)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with the pictures and runs that pages speak of."""
    root = tmp_path_factory.mktemp("forms")
    digit_folder(root / "photos", 3, 24)
    for epochs, name in enumerate("abc", 1):
        settings = QUICK | {"training__autotune": False, "epochs": epochs}
        train(root / "photos", out=root / "runs" / name, **settings)
    for name in ("photos", "old", "digits", "cats-and-dogs", "new"):
        shutil.copytree(root / "runs" / ("b" if name == "new" else "a"), root / "runs" / name)
    tell(root, "tellapart export runs/photos")
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
def place(made, tmp_path):
    shutil.copytree(made, tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def hub():
    with Hub() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running.address
        running.shutdown()


def tell(folder, line, **settings):
    """Run a line by bash and return what it printed; a server runs until it says its address, and is told to end."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    own |= {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    log = folder / "told.log"
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
    """Return a line with what there is here instead, a folder of its own, and less to do."""
    for there, here in INSTEAD:
        line = re.sub(there, here, line)
    line = re.sub(r"postgresql://me@host/\w+", lambda _: f"'{postgres}'", line)
    for name, options in SHORT.items():
        if f"tellapart {name} " in line:
            options = options.replace("--epochs 1", "") if "--budget" in line and name == "train" else options
            out = "" if "--out" in line or "--resume" in line or name == "serve" else f" --out out/{number}"
            line = f"{line} {options}{out}"
    return line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_commands_that_a_page_shows_run(page, place, postgres, hub):
    for number, line in enumerate(lines(page)):
        if line.startswith("curl"):
            server = Server(place, place / "runs/photos/model.onnx")
            told = tell(place, line.replace(":8000/", f":{server.port}/"))
            assert server.end() == 0
            assert '"class"' in told or '"label"' in told, told
        else:
            tell(place, shortened(line, number, postgres), HF_ENDPOINT=hub)
