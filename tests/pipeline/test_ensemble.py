"""Classifiers that vote, and the mean of their weights, are classifiers like others: one file, exported, the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tellapart
from folders import QUICK, digit_folder, run_cli
from tellapart.classifier.classifier import Classifier
from tellapart.data.split import read_splits
from tellapart.errors import CannotCombine
from tellapart.exporters.export import export
from tellapart.pipeline.ensemble import averaged, ensemble
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("combined")
    folder = digit_folder(root / "digits", 3, 20)
    fast = QUICK | {"training__autotune": False, "preprocess__size": 32}
    return [
        train(folder, out=root / "a", **fast),
        train(root / "a/split.csv", out=root / "b", **(fast | {"seed": 1, "head": [24]})),
        train(folder, out=root / "c", **(fast | {"seed": 2, "model": "lenet5"})),
    ]


def some(run, count=12):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, run.classifier.preprocess.size, run.classifier.preprocess.size, 3), np.uint8)


def test_the_vote_is_the_mean(runs, tmp_path):
    classifiers = [run.classifier for run in runs]
    assert len({each.temperature for each in classifiers}) == 3
    found, pixels = ensemble(classifiers), some(runs[0])
    expected = np.mean([each.of_pixels(pixels) for each in classifiers], axis=0)
    assert found.of_pixels(pixels) == pytest.approx(expected, abs=1e-6)
    found.save(tmp_path / "vote.safetensors")
    again = tellapart.load(tmp_path / "vote.safetensors")
    assert (again.of_pixels(pixels) == found.of_pixels(pixels)).all()
    assert isinstance(again, Classifier)


@pytest.mark.slow
def test_the_vote_is_exported(runs, tmp_path):
    ensemble([run.classifier for run in runs]).save(tmp_path / "vote.safetensors")
    exported = export(tmp_path / "vote.safetensors", check=runs[0].directory.parent / "digits")
    pictures = sorted((runs[0].directory.parent / "digits").rglob("*.png"))[:6]
    expected = tellapart.load(tmp_path / "vote.safetensors").probabilities(pictures)
    assert tellapart.load(exported.path).probabilities(pictures) == pytest.approx(expected, abs=1e-5)


def test_the_mean_of_weights(runs):
    one, pixels = runs[0].classifier, some(runs[0])
    assert averaged([one, one]).of_pixels(pixels) == pytest.approx(
        replace(one, temperature=1).of_pixels(pixels), abs=1e-6
    )
    other = replace(one, network=one.architecture.build().eval())
    other.network.load_state_dict({name: 3 * value for name, value in one.network.state_dict().items()})
    found = averaged([one, other]).network.state_dict()
    for name, value in one.network.state_dict().items():
        assert torch.allclose(found[name].float(), 2 * value.float(), atol=1e-6) or not value.is_floating_point()


def test_views_are_seen_by_the_same_weights(runs, tmp_path):
    """Against pictures that numpy mirrors and shifts."""
    one, pixels = runs[0].classifier, some(runs[0])  # 32 x 32, so that a step is one pixel
    wide = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    seen = [pixels, pixels[:, :, ::-1], wide[:, 1:-1, 2:], wide[:, 1:-1, :-2], wide[:, 2:, 1:-1], wide[:, :-2, 1:-1]]
    expected = np.mean([one.of_pixels(np.ascontiguousarray(each)) for each in seen], axis=0)
    found = ensemble([one], ["mirror", "shifts"])
    assert found.of_pixels(pixels) == pytest.approx(expected, abs=1e-6)
    heavy = sum(value.numel() for value in one.network.state_dict().values())
    assert sum(value.numel() for value in found.network.state_dict().values()) == heavy
    found.save(tmp_path / "views.safetensors")
    assert (tellapart.load(tmp_path / "views.safetensors").of_pixels(pixels) == found.of_pixels(pixels)).all()
    exported = export(tmp_path / "views.safetensors", check=runs[0].directory.parent / "digits")
    assert exported.agreement.same == 1
    with pytest.raises(CannotCombine, match="mirror or shifts"):
        ensemble([one], ["upside down"])


def test_runs_are_combined_into_a_run(runs, tmp_path, capsys):
    again, other = runs[:2]
    code, out, err = run_cli(
        capsys, "combine", again.directory, other.directory, "--view", "mirror", "--out", tmp_path / "both", "--json"
    )
    assert code == 0, err
    printed = json.loads(out)
    classifier = tellapart.load(tmp_path / "both")
    assert classifier.sets is not None
    assert classifier.familiarity is not None
    names = read_splits(tmp_path / "both/split.csv")["validation"]
    paths = [tmp_path / "both" / name for name in names]
    right = [p.label == path.parent.name for p, path in zip(classifier.predict_many(paths), paths, strict=True)]
    assert printed["combined"]["accuracy"] == pytest.approx(np.mean(right))
    assert {each["name"] for each in printed["members"]} == {str(again.directory), str(other.directory)}
    assert printed["gain"]["value"] == pytest.approx(
        printed["combined"]["accuracy"] - max(each["accuracy"] for each in printed["members"])
    )
    best = tellapart.compare(again.directory, tmp_path / "both")
    assert best.paired.pictures == printed["test"]["pictures"]
    (tmp_path / "both/model.safetensors").unlink()  # as after a kill
    command = ("combine", again.directory, other.directory, "--view", "mirror", "--out", tmp_path / "both")
    assert run_cli(capsys, *command)[0] == 1
    code, out, err = run_cli(capsys, *command, "--resume")
    assert code == 0, err
    assert "times the time for a picture" in out
    assert (tellapart.load(tmp_path / "both").probabilities(paths) == classifier.probabilities(paths)).all()
    code, out, _ = run_cli(capsys, "runs", tmp_path, "--json")
    values = json.loads(out)[0]["values"]  # its network is not that of one run, and its course is none of its own
    assert (values["combined"], values["epochs"], values["seconds"]) == ("vote of 2, mirror", None, None)
    code, out, _ = run_cli(capsys, "runs", tmp_path)
    assert "(vote of 2, mirror)" in out


def test_runs_of_other_parts_are_refused(runs, capsys, tmp_path):
    for others, said in (
        ([runs[2].directory], "different parts"),
        ([], "at least two"),
        ([runs[1].directory / "report.html"], "not a classifier file"),
    ):
        code, _, err = run_cli(capsys, "combine", runs[0].directory, *others, "--out", tmp_path / "x")
        assert code == 1
        assert said in err
        assert not (tmp_path / "x").exists()


def test_what_does_not_go_together_is_refused(runs):
    first, second, third = (run.classifier for run in runs)
    for wrong, said in (
        ([first], "at least two"),
        ([first, replace(second, classes=("x", "y", "z"))], "different classes"),
        ([first, replace(second, preprocess=replace(second.preprocess, resize="pad"))], "resize"),
        ([ensemble([first, second]), third], "member of another"),
    ):
        with pytest.raises(CannotCombine, match=said):
            ensemble(wrong)
    with pytest.raises(CannotCombine, match="let the classifiers vote"):
        averaged([first, replace(second, preprocess=first.preprocess)])
