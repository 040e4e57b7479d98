"""Which files are served, and by which names."""

import shutil
from pathlib import Path

import pytest

from recording import RecordingProgress
from tellapart.errors import ServeError, TruncatedFileError
from tellapart.inference.onnx_safety import read_onnx
from tellapart.progress import Event
from tellapart.serving.model_repository import prepare_models


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


def test_two_models_of_one_name_are_an_error(exported, tmp_path):
    with pytest.raises(ServeError) as error:
        prepare_models([str(exported), str(exported)], None, tmp_path, RecordingProgress())
    assert exported.stem in str(error.value)


def test_a_truncated_file_is_an_error(exported, tmp_path):
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes()[:500])
    with pytest.raises(TruncatedFileError) as error:
        read_onnx(tmp_path / "m.onnx")
    assert "m.onnx" in str(error.value)
