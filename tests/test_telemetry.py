"""No telemetry: no cache file of another package, no DNS lookup, no connection except those of the user."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from servers import wait_for
from tellapart.exporters.export_job import golden_folder

ROOT = Path(__file__).parents[1]
CALLS = "connect,sendto,sendmsg,sendmmsg"


@pytest.fixture
def watched(tmp_path):
    """Return a function that starts a command as a new user would, with a log of its network calls."""
    home, calls = tmp_path / "home", tmp_path / "calls"
    home.mkdir()
    # Names that continuous integration sets, which would hide reports; and what this package sets by itself.
    hiding = re.compile(r"CI|.*_DISABLE_TELEMETRY|DO_NOT_TRACK|GITHUB_ACTIONS|PYTEST_.*|XDG_.*|HF_HOME")
    plain = {name: value for name, value in os.environ.items() if not hiding.fullmatch(name)}
    plain |= {"HOME": str(home), "TELLAPART_CACHE": str(tmp_path / "cache")}

    def begin(*command, **options):
        trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={CALLS}", "-o", calls, "-A"]
        return subprocess.Popen([*trace, *map(str, command)], env=plain, text=True, **options)

    yield begin
    made = [str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()]
    assert made == []
    asked = [line for line in calls.read_text().splitlines() if re.search(r"sa_family=AF_INET6?\b", line)]
    assert [line for line in asked if 'inet_addr("127.0.0.1")' not in line and '"::1"' not in line] == []


def done(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def test_predict_and_the_example_send_no_telemetry(exported, run, watched):
    image = next((run.directory.parent / "images").rglob("*.png"))
    program = Path(sys.executable).with_name("tellapart")
    out = done(watched(program, "predict", exported, image, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    assert json.loads(out)["label"].startswith("digit")
    example = golden_folder(exported) / "example.py"
    lines = done(watched(sys.executable, example, stdout=subprocess.PIPE, stderr=subprocess.PIPE)).splitlines()
    assert all("digit" in line for line in lines)
    assert lines


def test_a_server_sends_no_telemetry(exported, watched, tmp_path):
    program, log = Path(sys.executable).with_name("tellapart"), tmp_path / "log"
    with log.open("w") as file:
        process = watched(program, "serve", exported, "--port", "0", stdout=file, stderr=file)
    wait_for(lambda: "http://127.0.0.1:" in log.read_text() or process.poll() is not None)
    address = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())[0]
    assert json.load(urllib.request.urlopen(f"{address}/v1/model"))["classes"]
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGTERM)
    assert process.wait(60) == 0, log.read_text()


def test_training_and_exporting_send_no_telemetry(run, watched, tmp_path):
    program, out = Path(sys.executable).with_name("tellapart"), tmp_path / "run"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done(watched(program, "train", run.directory.parent / "images", "--out", out, "--epochs", "1", **pipes))
    done(watched(program, "export", out, **pipes))


def test_telemetry_is_disabled_before_packages_are_imported():
    """Whichever module is imported first; a variable that is set already is kept."""
    code = "import os; import {module}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_DISABLE_TELEMETRY")}
    for module, given, expected in (
        ("tellapart.inference.onnx", {}, "1"),
        ("tellapart", {"ORT_DISABLE_TELEMETRY": "0"}, "0"),
    ):
        command = [sys.executable, "-c", code.format(module=module)]
        assert subprocess.check_output(command, env=plain | given, text=True).strip() == expected


def test_deployed_services_disable_telemetry():
    deploy = ROOT / "deploy"
    assert "ORT_DISABLE_TELEMETRY=1" in re.findall(r"[A-Z_]+=\S+", (deploy / "Dockerfile").read_text())
    assert "Environment=ORT_DISABLE_TELEMETRY=1" in (deploy / "tellapart.service").read_text().splitlines()
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    assert compose["services"]["tellapart"]["environment"]["ORT_DISABLE_TELEMETRY"] == "1"
    pod = next(yaml.safe_load_all((deploy / "kubernetes.yaml").read_text()))["spec"]["template"]["spec"]
    assert {"name": "ORT_DISABLE_TELEMETRY", "value": "1"} in pod["containers"][0]["env"]
