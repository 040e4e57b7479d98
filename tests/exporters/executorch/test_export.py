"""ExecuTorch programs answer as the original does; ExecuTorch's own runtime is the judge."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import tellapart
from folders import QUICK, digit_folder, in_many_forms
from tellapart.classifier.classifier import load
from tellapart.errors import CannotExport, MissingExtra
from tellapart.exporters.executorch import export as exporting
from tellapart.exporters.onnx.graph import document_of
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("executorch")
    return train(
        digit_folder(root / "pictures", 3, 30), out=root / "run", **QUICK | {"epochs": 6, "training__autotune": False}
    )


def outputs(path, pixels):
    """What ExecuTorch gives for one picture (S, S, 3), and the document in the program, without our code."""
    with exporting._silence():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        assert program.method_names == {"forward", "tellapart"}
        found = program.load_method("forward").execute([torch.from_numpy(pixels[None])])
        (document,) = program.load_method("tellapart").execute([])
    return [output.numpy().copy() for output in found], json.loads(document)


@pytest.mark.slow
def test_a_program_answers_as_the_original(run):
    exported = tellapart.export(run.directory, "executorch")
    assert exported.path == run.directory / "model.pte"
    assert exported.agreement.same == 1
    assert exported.agreement.largest < 1e-5
    cases = json.loads((exported.golden / "cases.json").read_text())
    assert not (exported.golden / "example.py").exists()
    for case in cases["cases"][:4]:
        pixels = np.array(Image.open(exported.golden / case["resized"]))
        (probabilities, distances), document = outputs(exported.path, pixels)
        assert np.abs(probabilities[0] - case["probabilities"]).max() < 1e-5
        assert bool(distances[0] <= document["familiarity"]["limit"]) == case["familiar"]
    assert document == json.loads(json.dumps(document_of(run.classifier)))


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is made and run")
def test_a_program_that_cannot_be_checked_here_is_not_made(run, tmp_path):
    with pytest.raises(CannotExport, match=r"run on Apple's systems alone.*export on a Mac"):
        tellapart.export(run.directory, "executorch-coreml", out=tmp_path / "m.pte")


@pytest.mark.slow
def test_a_wrong_program_and_a_missing_package_are_told(run, tmp_path, monkeypatch):
    right = exporting._program

    def wrong(*args, **options):
        content, exported = right(*args, **options)
        object.__setattr__(exported, "method", Dimmed(exported.method))
        return content, exported

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_program", wrong)
        with pytest.raises(CannotExport, match="answers otherwise than the original"):
            tellapart.export(run.directory, "executorch", out=tmp_path / "m.pte")
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    monkeypatch.delitem(sys.modules, "tellapart.exporters.executorch.program", raising=False)
    with pytest.raises(MissingExtra, match=r"'executorch'.*pip install 'tellapart\[mobile\]'"):
        tellapart.export(run.directory, "executorch", out=tmp_path / "m.pte")
    assert list(tmp_path.iterdir()) == []


class Dimmed:
    """A runtime that is handed half of each pixel's light."""

    def __init__(self, method):
        self.method = method

    def execute(self, inputs):
        return self.method.execute([inputs[0] // 2])


@pytest.mark.slow
def test_a_program_in_int8(run):
    exported = tellapart.export(run.directory, "executorch-int8", min_speedup=0)
    assert exported.size < 0.6 * exported.details["float32_bytes"]
    assert exported.agreement.same >= 0.9
    assert 1e-6 < exported.agreement.mean < 0.05
    case = json.loads((exported.golden / "cases.json").read_text())["cases"][0]
    pixels = np.array(Image.open(exported.golden / case["resized"]))
    (probabilities, _), document = outputs(exported.path, pixels)
    assert np.abs(probabilities[0] - case["probabilities"]).max() < 1e-5
    assert document["familiarity"]["limit"] != run.classifier.familiarity.limit


@pytest.mark.slow
def test_real_pictures_of_all_kinds_get_the_same_answers(tmp_path):
    published = load("efficientnet_lite0")
    files = in_many_forms(tmp_path / "pictures", 520)
    with exporting._silence():
        from tellapart.exporters.executorch import program

        document = document_of(published)
        program = program.from_program(program.to_program(published, document), document)
    expected, found = published.probabilities(files), program.probabilities(files)
    assert np.array_equal(expected.argmax(axis=1), found.argmax(axis=1))
    assert np.abs(expected - found).max() < 1e-4
