"""Runs on disk: what is written, reading a finished run, and runs that are never overwritten."""

import json

import numpy as np
import pytest
import torch

from folders import QUICK, digit_folder
from recording import RecordingProgress
from tellapart.errors import CheckpointError, RecipeError, RunExistsError
from tellapart.io.new_directory import folder_name, refuse_existing, refuse_inside
from tellapart.io.run_directory import RunDirectory, find_runs
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.recipe.recipe import load_recipe
from tellapart.runs.run import read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("runs") / "digits", 3, 20)


@pytest.fixture(scope="module", params=["small_resnet", "simple_cnn"])
def run(request, folder, tmp_path_factory):
    values = QUICK | {"model": request.param, "size": 20, "freeze_backbone": False}
    return train(folder, out=tmp_path_factory.mktemp("out") / "run", activation_checkpointing=True, **values)


def test_a_run_in_memory_equals_the_run_that_is_read(run):
    saved = read_run(run.directory)
    assert (saved.metrics, saved.history, saved.directory) == (run.metrics, run.history, run.directory)
    assert saved.classifier.to_bytes() == run.classifier.to_bytes() == run.classifier_file.read_bytes()
    assert saved.classifier.document() == run.classifier.document()
    networks = saved.classifier.network, run.classifier.network
    strides, gradients = ([getattr(p, name) for p in networks[0].parameters()] for name in ("shape", "requires_grad"))
    assert strides == [parameter.shape for parameter in networks[1].parameters()]
    assert gradients == [parameter.requires_grad for parameter in networks[1].parameters()]
    assert networks[0].activation_checkpointing == networks[1].activation_checkpointing
    assert {n: type(m) for n, m in networks[0].named_modules()} == {n: type(m) for n, m in networks[1].named_modules()}


def test_a_run_in_memory_predicts_the_same_bits_as_the_run_that_is_read(run):
    side = run.classifier.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (30, side, side, 3), np.uint8)
    ours, saved = run.classifier.infer(pixels), read_run(run.directory).classifier.infer(pixels)
    assert np.array_equal(ours.probabilities, saved.probabilities)
    assert np.array_equal(ours.prediction_sets, saved.prediction_sets)
    assert np.array_equal(ours.in_distribution, saved.in_distribution)
    for ours_value, saved_value in zip(
        run.classifier.network.state_dict().values(),
        read_run(run.directory).classifier.network.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours_value, saved_value)
        assert ours_value.stride() == saved_value.stride()


def test_a_run_writes_its_files(run):
    files = RunDirectory(run.directory)
    for path in (files.classifier, files.recipe, files.info, files.split, files.excluded, files.history):
        assert path.is_file(), path
    assert files.metrics.is_file()
    assert files.report == run.report
    assert json.loads(files.report_json.read_text())["metrics"]["test"] == run.metrics["test"]
    assert files.checkpoints.is_dir()
    assert files.is_finished
    assert files.read_identity() == run.classifier.metadata["identity"]
    assert load_recipe(files.recipe).to_table() == run.classifier.metadata["recipe"]
    assert list(find_runs(run.directory.parent)) == [files]


def test_a_run_without_its_metrics_is_refused(run, tmp_path):
    files = RunDirectory(tmp_path)
    files.classifier.write_bytes(run.classifier_file.read_bytes())
    with pytest.raises(CheckpointError) as error:
        read_run(tmp_path)
    assert str(files.history) in str(error.value)
    files.history.write_text("{}\n")
    files.metrics.write_text("{")
    with pytest.raises(CheckpointError) as error:
        read_run(tmp_path)
    assert str(files.metrics) in str(error.value)


def test_a_finished_run_is_not_trained_again(run, folder):
    progress, before = RecordingProgress(), run.classifier_file.stat().st_mtime_ns
    values = QUICK | {"model": run.classifier.architecture.name, "size": 20, "freeze_backbone": False}
    again = train(folder, out=run.directory, resume=True, progress=progress, activation_checkpointing=True, **values)
    assert again.metrics == run.metrics
    assert Event.RUN_FINISHED_BEFORE in progress.events
    assert Event.EPOCH_END not in progress.events
    assert run.classifier_file.stat().st_mtime_ns == before
    with pytest.raises(CheckpointError) as error:
        train(folder, out=run.directory, resume=True, activation_checkpointing=True, **(values | {"epochs": 3}))
    assert f"schedule.epochs={QUICK['epochs']}" in str(error.value)


def test_an_existing_directory_is_never_overwritten(tmp_path):
    refuse_existing(tmp_path)
    refuse_existing(tmp_path / "new")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunExistsError) as error:
            refuse_existing(path)
        assert str(path) in str(error.value)


def test_a_run_directory_inside_the_images_is_refused(tmp_path):
    refuse_inside("digits", tmp_path)
    refuse_inside(tmp_path / "images", tmp_path / "run")
    (tmp_path / "images").mkdir()
    with pytest.raises(RecipeError):
        refuse_inside(tmp_path / "images", tmp_path / "images" / "run")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("photos/", "photos"),
        ("a/b c.csv", "b-c.csv"),
        ("hf://datasets/me/dogs?split=train", "dogs"),
        ("...", "run"),
        ("a/é!", "é"),
    ],
)
def test_the_name_of_a_run_comes_from_its_source(title, name):
    assert folder_name(title) == name


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"identity": 3}'])
def test_the_identity_of_a_damaged_run_is_unknown(tmp_path, content):
    files = RunDirectory(tmp_path)
    if content is not None:
        files.info.write_text(content)
    assert files.read_identity() in (None, "3")
    assert not files.is_finished
