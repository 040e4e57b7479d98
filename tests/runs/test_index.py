"""The index of runs: their values, conditions on them, and sorting."""

import json

import pytest

from folders import QUICK, digit_folder, run_cli
from tellapart.errors import OptionError
from tellapart.pipeline.train import train
from tellapart.runs.index import list_runs, select_runs
from tellapart.runs.run import read_run

FAST = QUICK | {"autotune": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two finished runs, and an unfinished one with a damaged history."""
    root = tmp_path_factory.mktemp("index")
    folder = digit_folder(tmp_path_factory.mktemp("images") / "digits", 3, 20)
    train(folder, out=root / "a", seed=1, **FAST)
    train(folder, out=root / "deep" / "b", **(FAST | {"model": "lenet5", "size": 32}))
    unfinished = root / "c"
    unfinished.mkdir()
    for name in ("recipe.toml", "run.json"):
        (unfinished / name).write_bytes((root / "a" / name).read_bytes())
    (unfinished / "history.jsonl").write_text("damaged")
    return root


def test_runs_are_listed_with_their_values(root):
    runs = {run.directory.name: run for run in list_runs(root)}
    assert set(runs) == {"a", "b", "c"}
    assert [runs[name].finished for name in "abc"] == [True, True, False]
    run = read_run(root / "a")
    assert runs["a"].values["test.accuracy"] == run.metrics["test"]["accuracy"]["value"]
    assert runs["a"].values["data"] == run.classifier.metadata["fingerprint"] == runs["b"].values["data"]
    assert (runs["a"].values["epochs"], runs["a"].values["seconds"]) == (2, run.training_seconds)
    assert runs["b"].values["model.name"] == "lenet5"
    assert (runs["c"].values["epochs"], runs["c"].values["data"]) == (0, None)


def test_runs_are_sorted_by_their_last_change(root):
    times = [run.when for run in list_runs(root)]
    assert times == sorted(times, reverse=True)


def test_the_command_lists_runs(root, capsys):
    code, out, _ = run_cli(capsys, "runs", root)
    assert code == 0
    assert out.count("\n") == 4
    code, out, _ = run_cli(capsys, "runs", root, "--where", "model.name=lenet5", "--json")
    assert [run["directory"] for run in json.loads(out)] == [str(root / "deep" / "b")]
    code, out, _ = run_cli(capsys, "runs", root / "nothing", "--json")
    assert (code, json.loads(out)) == (0, [])


def test_runs_are_selected_by_conditions(root):
    runs = list_runs(root)
    fingerprint = next(run.values["data"] for run in runs if run.finished)

    def names(*conditions, order="seed"):
        return [run.directory.name for run in select_runs(runs, conditions, order)]

    assert names("test.accuracy>=0") == ["a", "b"]
    assert names("test.accuracy>1") == []
    assert names(f"data={fingerprint[:6]}", "seed=1") == ["a"]
    assert names("data=none") == []
    assert sorted(names("model.name!=lenet5", "optimizer.batch_size<=32")) == ["a", "c"]
    assert names("test.accuracy>=0", order="-seed") == ["b", "a"]
    assert names(order="test.accuracy")[-1] == "c"  # it has no such value
    assert names("model.name=lene") == names("seed!=0", "data=0000") == []


@pytest.mark.parametrize(
    ("condition", "suggestion"), [("accuracy>0.5", "test.accuracy"), ("modle.name=lenet5", "model.name")]
)
def test_unknown_names_are_refused_with_a_suggestion(root, condition, suggestion):
    with pytest.raises(OptionError) as error:
        select_runs(list_runs(root), [condition], None)
    assert f"'{suggestion}'" in str(error.value)


def test_an_unknown_order_is_refused_with_a_suggestion(root):
    with pytest.raises(OptionError) as error:
        select_runs(list_runs(root), [], "-accuracy")
    assert "'test.accuracy'" in str(error.value)


@pytest.mark.parametrize("condition", ["accuracy", "test.accuracy~1", ""])
def test_invalid_conditions_are_refused(root, condition):
    with pytest.raises(OptionError):
        select_runs(list_runs(root), [condition], None)
