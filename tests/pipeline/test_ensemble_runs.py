"""`ensemble`: runs become one run, with its gain on the validation images."""

import json

import numpy as np
import pytest

import tellapart
from folders import QUICK, digit_folder, run_cli
from tellapart.data.written_manifests import read_splits
from tellapart.errors import EnsembleError, RunExistsError
from tellapart.pipeline.train import train
from tellapart.runs.run import read_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("ensembles")
    folder = digit_folder(root / "digits", 3, 20)
    fast = QUICK | {"autotune": False, "size": 32}
    return [
        train(folder, out=root / "a", **fast),
        train(root / "a/split.csv", out=root / "b", **(fast | {"seed": 1, "head": [24]})),
        train(folder, out=root / "c", **(fast | {"seed": 2, "model": "lenet5"})),
    ]


@pytest.fixture(scope="module")
def result(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensemble") / "both"
    return tellapart.ensemble([runs[0].directory, runs[1].directory], tta=["hflip"], out=out)


def test_an_ensemble_is_scored_on_the_validation_images(runs, result):
    classifier = tellapart.load(result.run.directory)
    paths = [result.run.directory / name for name in read_splits(result.run.directory / "split.csv")["validation"]]
    correct = [p.label == path.parent.name for p, path in zip(classifier.predict_many(paths), paths, strict=True)]
    assert result.ensemble.accuracy == pytest.approx(np.mean(correct))
    assert {member.name for member in result.members} == {str(run.directory) for run in runs[:2]}
    accuracies = [member.accuracy for member in result.members]
    assert accuracies == sorted(accuracies, reverse=True)
    assert result.gain.difference.value == pytest.approx(result.ensemble.accuracy - np.mean(accuracies))
    assert (result.gain.better is None) == (result.gain.p_value >= 0.05)
    document = result.to_json()
    assert document["ensemble"]["accuracy"] == result.ensemble.accuracy
    assert document["test"] == result.run.metrics["test"]


def test_an_ensemble_is_a_run_like_others(runs, result):
    saved = read_run(result.run.directory)
    assert (saved.metrics, saved.history) == (result.run.metrics, runs[0].history)
    assert saved.classifier.to_bytes() == result.run.classifier.to_bytes()
    assert result.run.classifier.conformal is not None
    assert result.run.classifier.ood_detector is not None
    comparison = tellapart.compare(runs[0].directory, result.run.directory)
    assert comparison.paired.images == result.run.metrics["test"]["images"]


def test_an_interrupted_ensemble_is_resumed(runs, result):
    before = result.run.classifier_file.read_bytes()
    arguments = {"tta": ["hflip"], "out": result.run.directory}
    result.run.classifier_file.unlink()  # as if killed before the end
    with pytest.raises(RunExistsError):
        tellapart.ensemble([runs[0].directory, runs[1].directory], **arguments)
    resumed = tellapart.ensemble([runs[0].directory, runs[1].directory], resume=True, **arguments)
    assert resumed.run.classifier_file.read_bytes() == before


def test_the_command(runs, result, tmp_path, capsys):
    command = ["ensemble", runs[0].directory, runs[1].directory, "--tta", "hflip", "--out", tmp_path / "both"]
    code, out, _ = run_cli(capsys, *command, "--json")
    assert code == 0
    printed = json.loads(out)
    assert printed["ensemble"]["accuracy"] == result.ensemble.accuracy
    assert run_cli(capsys, *command)[0] == 1
    code, out, _ = run_cli(capsys, *command, "--resume")
    assert code == 0
    assert result.describe().partition(";")[0] in out
    code, out, _ = run_cli(capsys, "runs", tmp_path, "--json")
    values = json.loads(out)[0]["values"]  # it was not trained itself
    assert (values["ensemble"], values["epochs"], values["seconds"]) == ("probabilities of 2, hflip", None, None)


def test_averages_of_weights(runs, tmp_path):
    result = tellapart.ensemble([runs[0].directory] * 2, average="weights", out=tmp_path / "soup")
    assert result.ensemble.accuracy == pytest.approx(result.members[0].accuracy)
    assert result.run.classifier.architecture == runs[0].classifier.architecture


def test_runs_that_do_not_fit_together_are_refused(runs, tmp_path, capsys):
    first, second, other_split = (run.directory for run in runs)
    for directories, values in (
        ([], {}),
        ([first], {}),
        ([first, other_split], {}),
        ([first, "efficientnet_lite0"], {}),
        ([first, second], {"average": "logits"}),
        ([first, second], {"average": "weights"}),
    ):
        with pytest.raises(EnsembleError):
            tellapart.ensemble(directories, out=tmp_path / "x", **values)
    code, out, _ = run_cli(capsys, "ensemble", first, first / "report.html", "--out", tmp_path / "x", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "invalid_classifier_file")
    assert not (tmp_path / "x").exists()
