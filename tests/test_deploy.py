"""The files in deploy/ are sound, agree with the command line, and what they install serves."""

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
from servers import wait_for
from tellapart.cli import app
from tellapart.pipeline.train import train

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def tool(name):
    path = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    assert path, f"{name} is needed: scripts/test installs it"
    return path


def options():
    serve = get_command(app).commands["serve"]
    return {name for parameter in serve.params for name in parameter.opts}


def given(*words):
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def commands():
    """What each file gives to `tellapart serve`."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    kubernetes = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    unit = (DEPLOY / "tellapart.service").read_text()
    return {
        "Dockerfile": json.loads(re.search(r"^CMD (.*)", dockerfile, re.MULTILINE)[1]),
        "compose": compose["services"]["tellapart"]["command"],
        "kubernetes": kubernetes[0]["spec"]["template"]["spec"]["containers"][0]["args"],
        "systemd": re.search(r"ExecStart=\S+ serve (.*)", unit)[1].split(),
    }


@pytest.mark.parametrize("where", commands())
def test_the_command_line_knows_their_options(where):
    words = given(*commands()[where])
    assert "--token-file" in words  # none is open to others without a token
    assert words <= options()


def test_kubernetes_knows_the_manifests():
    subprocess.run([tool("kubernetes-validate"), "--strict", DEPLOY / "kubernetes.yaml"], check=True)
    pod = next(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 5 + 30  # the pause before, and the server's own


def test_the_dockerfile_has_no_fault():
    subprocess.run([tool("hadolint"), DEPLOY / "Dockerfile"], check=True)


def test_systemd_knows_the_unit(tmp_path):
    unit = (DEPLOY / "tellapart.service").read_text().replace("/opt/tellapart/bin/tellapart", "/bin/true")
    (tmp_path / "tellapart.service").write_text(unit)
    verify = [tool("systemd-analyze"), "verify", tmp_path / "tellapart.service"]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert "tellapart.service" not in done.stderr, done.stderr
    assert done.returncode == 0


@pytest.mark.slow
def test_what_the_image_installs_serves_without_torch(tmp_path):
    run = train(digit_folder(tmp_path / "pictures", 3, 20), out=tmp_path / "run", **QUICK)
    exported = tellapart.export(run.directory).path
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--constraint",
        ROOT / "constraints.txt",
        f"{ROOT}[serve,postgres]",
    ]
    subprocess.run(install, check=True)
    packages = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "onnx", "scipy", "matplotlib"} & set(packages.split())
    size = sum(
        path.stat().st_size for path in (tmp_path / "env").rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert size < 400e6
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [tmp_path / "env" / "bin" / "tellapart", "serve", exported, "--port", "0"]
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path)
    try:
        wait_for(lambda: "Serving" in log.read_text() or process.poll() is not None)
        address = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())[0]
        picture = sorted((tmp_path / "pictures").rglob("*.png"))[0].read_bytes()
        answer = json.load(urllib.request.urlopen(urllib.request.Request(f"{address}/v1/predict", picture)))
        assert answer["label"] in run.classifier.classes
        with urllib.request.urlopen(f"{address}/") as page:
            assert b"Choose pictures" in page.read()
    finally:
        process.terminate()
    assert process.wait(30) == 0
