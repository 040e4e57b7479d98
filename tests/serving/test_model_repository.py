"""Which files are served, and by which names."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import tellapart
from recording import RecordingProgress
from tellapart.classifier.golden_images import GoldenImages
from tellapart.errors import ServeError, TruncatedFileError
from tellapart.inference.onnx_safety import read_onnx
from tellapart.progress import Event
from tellapart.serving import model_repository
from tellapart.serving.model_repository import prepare_models, split_name


@pytest.mark.slow
def test_an_exported_run_is_not_exported_again(run, exported, tmp_path):
    progress = RecordingProgress()
    assert prepare_models([str(run.directory)], None, tmp_path, progress) == {"run": exported.resolve()}
    assert Event.MODEL_SERVED_AS_EXPORTED in progress.events
    images = str(run.directory.parent / "images")
    (checked,) = prepare_models([str(run.directory)], images, tmp_path, progress).values()  # needs a parity check
    assert checked.parent.parent == tmp_path
    copy = Path(shutil.copytree(run.directory, tmp_path / "copy"))
    (copy / "run.json").write_text('{"identity": "other"}')  # as if the exported file were of another run
    ((name, path),) = prepare_models([f"new={copy}"], images, tmp_path, progress).items()
    assert (name, path.parent.parent) == ("new", tmp_path)


def test_models_have_the_names_of_their_files_or_given_names(exported, tmp_path):
    files = prepare_models([str(exported), f"dogs={exported}"], None, tmp_path, RecordingProgress())
    assert files == {exported.stem: exported.resolve(), "dogs": exported.resolve()}


def test_a_run_keeps_the_export_for_the_next_start(run, tmp_path):
    copy = Path(shutil.copytree(run.directory, tmp_path / "copy", ignore=shutil.ignore_patterns("*.onnx*")))
    shutil.copytree(run.directory.parent / "images", tmp_path / "images")
    progress = RecordingProgress()
    for _ in range(2):
        assert prepare_models([str(copy)], None, tmp_path, progress) == {"copy": copy / "model.onnx"}
    assert progress.events.count(Event.EXPORT_START) == 1
    assert progress.events.count(Event.MODEL_SERVED_AS_EXPORTED) == 1


def test_a_run_that_cannot_keep_the_export_is_served(run, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(run.directory, tmp_path / "copy", ignore=shutil.ignore_patterns("*.onnx*")))
    monkeypatch.setattr(model_repository, "_beside_run", lambda run: tmp_path / "missing" / "model.onnx")
    (path,) = prepare_models([str(copy)], None, tmp_path, RecordingProgress()).values()
    assert path.parent.parent == tmp_path
    assert tellapart.load(path).classes == run.classifier.classes


def test_a_path_may_have_equals_signs(exported, tmp_path):
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    path = Path(shutil.copy(exported, folder / "size=64.onnx"))
    files = prepare_models([str(path), f"dogs={path}"], None, tmp_path, RecordingProgress())
    assert files == {"size=64": path, "dogs": path}
    assert split_name("runs/lr=0.1/missing.onnx") == ("missing", "runs/lr=0.1/missing.onnx")


def test_a_classifier_file_alone_is_served(run, tmp_path):
    """As copied to another machine; the parity check is on the test images in the file, or on generated ones."""
    file = Path(shutil.copy(run.directory / "model.safetensors", tmp_path / "dogs.safetensors"))
    replace(run.classifier, golden=GoldenImages()).save(tmp_path / "cats.safetensors")
    progress = RecordingProgress()
    models = prepare_models([str(file), str(tmp_path / "cats.safetensors")], None, tmp_path, progress)
    assert progress.events.count(Event.PARITY_CHECK_IMAGES) == 2
    image = next((run.directory.parent / "images").rglob("*.png"))
    expected = run.classifier.predict(image)
    for path in models.values():
        assert tellapart.load(path).predict(image).probability == pytest.approx(expected.probability, abs=1e-3)


def test_two_models_of_one_name_are_an_error(exported, tmp_path):
    with pytest.raises(ServeError) as error:
        prepare_models([str(exported), str(exported)], None, tmp_path, RecordingProgress())
    assert exported.stem in str(error.value)


def test_a_truncated_file_is_an_error(exported, tmp_path):
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes()[:500])
    with pytest.raises(TruncatedFileError) as error:
        read_onnx(tmp_path / "m.onnx")
    assert "m.onnx" in str(error.value)
