"""The files in deploy/ are valid, agree with the command line and the metrics, and what they install serves."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import tellapart
from folders import QUICK, digit_folder
from servers import PLAN, wait_for
from tellapart.cli import app
from tellapart.pipeline.train import train
from tellapart.progress import Progress
from tellapart.serving.admission import Admission
from tellapart.serving.limits import Limits
from tellapart.serving.metrics import ServerMetrics
from tellapart.serving.served_models import ServedModels
from tellapart.serving.worker.pool import WorkerPool

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def find_tool(name):
    path = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    assert path, f"{name} is required: scripts/test installs it"
    return path


def serve_options():
    """Return the options of `tellapart serve`."""
    serve = get_command(app).commands["serve"]
    return {name for parameter in serve.params for name in parameter.opts}


def commands():
    """Return the arguments that each file passes to `tellapart serve`."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    kubernetes = next(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    unit = (DEPLOY / "tellapart.service").read_text()
    return {
        "Dockerfile": json.loads(re.search(r"^CMD (.*)", dockerfile, re.MULTILINE)[1]),
        "compose": compose["services"]["tellapart"]["command"],
        "kubernetes": kubernetes["spec"]["template"]["spec"]["containers"][0]["args"],
        "systemd": re.search(r"ExecStart=\S+ serve (.*)", unit)[1].split(),
    }


@pytest.mark.parametrize("file", commands())
def test_the_options_exist(file):
    options = {word.partition("=")[0] for word in commands()[file] if word.startswith("--")}
    assert "--token-file" in options  # no file opens a server to other machines without a token
    assert options <= serve_options()


def test_the_metrics_for_autoscaling_exist():
    limits = Limits()
    models = ServedModels({}, Progress())
    pool = WorkerPool([], [], PLAN, 0, limits.pixels, models.apply)
    metrics = ServerMetrics(Admission(limits), pool, models).render(with_classes=True).decode()
    text = (DEPLOY / "kubernetes.yaml").read_text()
    names = re.findall(r"rate\((\w+)\[", text)
    assert len(names) == 2
    assert all(re.search(rf"^{name} ", metrics, re.MULTILINE) for name in names)


def test_the_kubernetes_manifests_are_valid():
    subprocess.run([find_tool("kubernetes-validate"), "--strict", DEPLOY / "kubernetes.yaml"], check=True)
    pod = next(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 5 + Limits().grace_seconds  # 5: of the hook before SIGTERM


def test_the_dockerfile_is_valid():
    subprocess.run([find_tool("hadolint"), DEPLOY / "Dockerfile"], check=True)


def test_the_systemd_unit_is_valid(tmp_path):
    unit = (DEPLOY / "tellapart.service").read_text().replace("/opt/tellapart/bin/tellapart", "/bin/true")
    (tmp_path / "tellapart.service").write_text(unit)
    command = [find_tool("systemd-analyze"), "verify", tmp_path / "tellapart.service"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "tellapart.service" not in result.stderr, result.stderr
    assert result.returncode == 0


@pytest.mark.slow
def test_what_the_container_image_installs_serves_without_torch(tmp_path):
    run = train(digit_folder(tmp_path / "images", 3, 20), out=tmp_path / "run", **QUICK)
    exported = tellapart.export(run.directory).path
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*install, f"{ROOT}[serve,postgres]"], check=True)
    packages = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "onnx", "scipy", "matplotlib"} & set(packages.split())
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 400e6
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [environment / "bin" / "tellapart", "serve", exported, "--port", "0"]
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path)
    try:
        wait_for(lambda: find_address(log) or process.poll() is not None)
        address = find_address(log)
        image = sorted((tmp_path / "images").rglob("*.png"))[0].read_bytes()
        prediction = json.load(urllib.request.urlopen(urllib.request.Request(f"{address}/v1/predict", image)))
        assert prediction["label"] in run.classifier.classes
        with urllib.request.urlopen(f"{address}/") as page:
            assert b'id="files"' in page.read()
    finally:
        process.terminate()
    assert process.wait(30) == 0


def find_address(log):
    match = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    return match and match[0]
