"""Mistakes in a command are reported before torch is imported, and Ctrl-C by what the command can do."""

import json
import subprocess
import sys

import pytest

from folders import digit_folder
from tellapart.cli.early_checks import check_new_run
from tellapart.errors import RunExistsError
from tellapart.models import MODELS
from tellapart.recipe.model_names import MODEL_NAMES

RUN = "import sys; from tellapart.cli import main; sys.exit(main())"
REPORT_TORCH = """
import atexit, sys
atexit.register(lambda: print("torch" if "torch" in sys.modules else "no torch", file=sys.stderr))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    root = tmp_path_factory.mktemp("workplace")
    digit_folder(root / "digits", 2, 4)
    (root / "runs" / "digits").mkdir(parents=True)
    (root / "runs" / "digits" / "recipe.toml").touch()
    (root / "text.jpg").write_text("no image")
    (root / "empty.png").touch()
    (root / "model.safetensors").touch()
    return root


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("train digits", "runs/digits"),
        ("train digits --out digits/run", "digits/run"),
        ("train digist", "digist"),
        ("train digits --out new --model resnet19", "resnet18"),
        ("train digits --out new --max-time soon", "soon"),
        ("train digits --out new --track floppy", "floppy"),
        ("train digits --out new --set optimizer.learning_rate=fast", "optimizer.learning_rate"),
        ("train digits --out new --recipe none.toml", "none.toml"),
        ("tune nothing", "nothing"),
        ("tune digits --timeout soon", "soon"),
        ("tune digits --model resnet19", "resnet18"),
        ("ensemble one two", "one"),
        ("ensemble runs/digits", "--resume"),
        ("predict nothing.safetensors digits", "nothing.safetensors"),
        ("predict model.safetensors missing.jpg text.jpg", "2 files"),
        ("predict model.safetensors empty.png text.jpg --json", "2 files"),
        ("evaluate nothing digits", "nothing"),
        ("evaluate model.safetensors nothing", "nothing"),
        ("compare model.safetensors nothing --on digits", "nothing"),
        ("export model.safetensors --to tflite", "tflite"),
        ("export nothing", "nothing"),
        ("serve digits=nothing", "nothing"),
    ],
)
def test_mistakes_are_reported_without_torch(workplace, command, named):
    code = [sys.executable, "-c", REPORT_TORCH + RUN, *command.split()]
    result = subprocess.run(code, cwd=workplace, capture_output=True, text=True)
    assert result.returncode == 1
    assert named in result.stderr
    assert result.stderr.splitlines()[-1] == "no torch"
    assert "Traceback" not in result.stderr


def test_unreadable_files_are_listed_as_after_loading_the_classifier(workplace):
    command = [sys.executable, "-m", "tellapart", "predict", "model.safetensors", "text.jpg", "missing.jpg", "--json"]
    result = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["path"] for line in lines] == ["text.jpg", "missing.jpg"]
    assert {line["code"] for line in lines} == {"unreadable_image"}
    assert result.returncode == 1


def test_the_names_of_networks_are_those_of_the_registry():
    assert tuple(MODELS) == MODEL_NAMES


def test_a_directory_that_another_rank_has_made_is_not_refused(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()
    with pytest.raises(RunExistsError):
        check_new_run("digits", tmp_path / "run", "runs", resume=False)
    monkeypatch.setenv("RANK", "1")
    check_new_run("digits", tmp_path / "run", "runs", resume=False)
