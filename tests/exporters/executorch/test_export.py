"""ExecuTorch programs make the same predictions as the original in ExecuTorch's own runtime."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import tellapart
from folders import QUICK, digit_folder, write_varied_images
from tellapart.classifier.load import load_torch_classifier
from tellapart.errors import ExportError, MissingExtraError
from tellapart.exporters.executorch import export as exporting
from tellapart.exporters.onnx.graph import build_document
from tellapart.exporters.silence import silence_process
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("executorch")
    return train(digit_folder(root / "images", 3, 30), out=root / "run", **QUICK | {"epochs": 6, "autotune": False})


def run_program(path, pixels):
    """Return the outputs for one image (S, S, 3), and the document in the program, without tellapart."""
    with silence_process():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        assert program.method_names == {"forward", "tellapart"}
        outputs = program.load_method("forward").execute([torch.from_numpy(pixels[None])])
        (document,) = program.load_method("tellapart").execute([])
    return [output.numpy().copy() for output in outputs], json.loads(document)


@pytest.mark.slow
def test_a_program_predicts_as_the_original(run):
    exported = tellapart.export(run.directory, "executorch")
    assert exported.path == run.directory / "model.pte"
    assert exported.parity.same == 1
    assert exported.parity.largest < 1e-5
    cases = json.loads((exported.golden / "cases.json").read_text())
    assert not (exported.golden / "example.py").exists()
    for case in cases["cases"][:4]:
        pixels = np.array(Image.open(exported.golden / case["resized"]))
        (probabilities, distances), document = run_program(exported.path, pixels)
        assert np.abs(probabilities[0] - case["probabilities"]).max() < 1e-5
        assert bool(distances[0] <= document["ood"]["threshold"]) == case["in_distribution"]
    assert document == json.loads(json.dumps(build_document(run.classifier)))


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML programs run there")
def test_a_program_that_cannot_be_checked_is_not_written(run, tmp_path):
    with pytest.raises(ExportError):
        tellapart.export(run.directory, "executorch-coreml", out=tmp_path / "m.pte")


@pytest.mark.slow
def test_a_wrong_program_and_a_missing_package_raise_named_errors(run, tmp_path, monkeypatch):
    build_program = exporting._build_program

    def wrong(*args, **options):
        content, exported = build_program(*args, **options)
        object.__setattr__(exported, "method", Dimmed(exported.method))
        return content, exported

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_build_program", wrong)
        with pytest.raises(ExportError):
            tellapart.export(run.directory, "executorch", out=tmp_path / "m.pte")
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    monkeypatch.delitem(sys.modules, "tellapart.exporters.executorch.program", raising=False)
    with pytest.raises(MissingExtraError) as error:
        tellapart.export(run.directory, "executorch", out=tmp_path / "m.pte")
    assert "'executorch'" in str(error.value)
    assert "tellapart[mobile]" in str(error.value)
    assert list(tmp_path.iterdir()) == []


class Dimmed:
    """A method that receives every pixel at half its brightness."""

    def __init__(self, method):
        self.method = method

    def execute(self, inputs):
        return self.method.execute([inputs[0] // 2])


@pytest.mark.slow
def test_a_program_in_int8(run):
    exported = tellapart.export(run.directory, "executorch-int8", min_speedup=0)
    assert exported.size < 0.6 * exported.details["float32_bytes"]
    assert exported.parity.same >= 0.9
    assert 1e-6 < exported.parity.mean < 0.05
    case = json.loads((exported.golden / "cases.json").read_text())["cases"][0]
    pixels = np.array(Image.open(exported.golden / case["resized"]))
    (probabilities, _), document = run_program(exported.path, pixels)
    assert np.abs(probabilities[0] - case["probabilities"]).max() < 1e-5
    assert document["ood"]["threshold"] != run.classifier.ood_detector.threshold


@pytest.mark.slow
def test_real_images_of_many_formats_have_the_same_probabilities(tmp_path):
    published = load_torch_classifier("efficientnet_lite0")
    files = write_varied_images(tmp_path / "images", 520)
    with silence_process():
        from tellapart.exporters.executorch.program import load_program, to_program

        document = build_document(published)
        program = load_program(to_program(published, document), document)
    expected, actual = published.probabilities(files), program.probabilities(files)
    assert np.array_equal(expected.argmax(axis=1), actual.argmax(axis=1))
    assert np.abs(expected - actual).max() < 1e-4
