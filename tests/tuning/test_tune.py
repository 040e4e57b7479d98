"""`tune`: what a search writes, resuming, and the test split, which takes no part in the selection."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

import tellapart
from folders import QUICK, digit_folder, run_cli
from recording import RecordingProgress
from tellapart.data.audit import audit_dataset
from tellapart.data.pixel_cache import LazyPixels
from tellapart.data.sources import load_dataset
from tellapart.data.split import make_splits
from tellapart.data.written_manifests import read_splits
from tellapart.errors import RunExistsError, TuningError
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe, load_recipe
from tellapart.training.execution_settings import keep_execution
from tellapart.training.fit import TrainingSession

SMALL = QUICK | {"autotune": False, "model": "lenet5", "size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("tuning") / "digits", 3, 30)


@pytest.fixture(scope="module")
def progress():
    return RecordingProgress()


@pytest.fixture(scope="module")
def result(folder, progress, tmp_path_factory):
    return tellapart.tune(
        folder, out=tmp_path_factory.mktemp("result") / "search", trials=6, progress=progress, **SMALL
    )


def test_a_search_writes_its_recipe_and_its_trials(result):
    assert [trial["number"] for trial in result.trials] == list(range(6))
    assert result.trials[0]["state"] == "complete"
    assert {trial["state"] for trial in result.trials} <= {"complete", "pruned"}
    assert sum(trial["selected"] for trial in result.trials) == 1
    assert load_recipe(result.recipe_file) == result.recipe
    recipe = load_recipe(result.run.directory / "recipe.toml")
    assert recipe == keep_execution(result.recipe, recipe)  # that of the study may be used on another machine
    document = json.loads((result.directory / "tuning.json").read_text())
    assert document["selection"] == result.selection.to_json()
    assert (document["selection"]["confirmation"] is None) == (result.selection.best == 0)
    assert document["trials"] == list(result.trials)
    assert not list((result.directory / "trials").glob("*"))  # checkpoints of finished trials are removed


def test_a_search_reports_its_trials(result, progress):
    ends = progress.values(Event.TRIAL_END)
    assert [(end["finished"], end["trials"]) for end in ends] == [(number, 6) for number in range(1, 7)]
    assert [end["state"] for end in ends] == [trial["state"] for trial in result.trials]
    assert progress.values(Event.TUNING_END) == [{"selected": result.selection.selected}]


def test_a_search_can_be_resumed_and_extended(result, folder, tmp_path):
    with pytest.raises(RunExistsError):
        tellapart.tune(folder, out=result.directory, trials=6, **SMALL)
    resumed = tellapart.tune(folder, out=result.directory, trials=6, resume=True, **SMALL)
    assert (resumed.recipe, resumed.trials) == (result.recipe, result.trials)
    with pytest.raises(TuningError):
        tellapart.tune(folder, out=result.directory, trials=6, resume=True, **(SMALL | {"epochs": 3}))
    copy = shutil.copytree(result.directory, tmp_path / "copy")
    extended = tellapart.tune(folder, out=copy, trials=8, resume=True, **SMALL)
    assert len(extended.trials) == 8


def test_a_timeout_leaves_trials_for_later(folder, tmp_path):
    progress, options = RecordingProgress(), {"out": tmp_path / "search", "trials": 3, "resume": True} | SMALL
    with pytest.raises(TuningError):  # not even the default was trained
        tellapart.tune(folder, timeout=0, progress=progress, **options)
    assert Event.TUNING_TIMEOUT in progress.events
    assert progress.values(Event.TRIAL_END) == []
    assert len(tellapart.tune(folder, **options).trials) == 3


def test_no_trial_reads_a_test_image(folder, tmp_path, monkeypatch):
    rows, getitem = set(), LazyPixels.__getitem__
    monkeypatch.setattr(
        LazyPixels,
        "__getitem__",
        lambda self, indices: (rows.update(self._rows[indices].tolist()), getitem(self, indices))[1],
    )
    run = SimpleNamespace(metrics={"validation": {}}, directory=tmp_path)
    monkeypatch.setattr("tellapart.tuning.tune.train", lambda *_, **__: run)
    monkeypatch.setattr("tellapart.tuning.tune.render", lambda *_: "")
    tellapart.tune(folder, out=tmp_path / "search", trials=3, **SMALL)
    audit = audit_dataset(load_dataset(folder), Progress())
    splits = make_splits(audit, Recipe().data, 0)
    assert rows == {*splits.train.tolist(), *splits.validation.tolist()}
    assert "hyperparameter search" in run.metrics["validation"]["used_for"]


def test_a_candidate_that_needs_too_much_memory_is_pruned(folder, tmp_path, monkeypatch):
    """Another candidate may need less memory, so the search continues, and reports the reason."""
    run, recipes = TrainingSession.run, []

    def fail_second(self, *arguments):
        recipes.append(self.recipe)
        if len(recipes) == 2:
            raise torch.OutOfMemoryError("Tried to allocate 2 TiB.")
        return run(self, *arguments)

    monkeypatch.setattr(TrainingSession, "run", fail_second)
    result = tellapart.tune(folder, out=tmp_path / "search", trials=3, **SMALL)
    reasons = [(trial["state"], trial["reason"]) for trial in result.trials]
    assert reasons[0] == ("complete", None)
    assert reasons[1] == ("pruned", "Tried to allocate 2 TiB.")
    assert reasons[2][1] is None
    assert "Tried to allocate 2 TiB." in result.report.read_text()


def test_a_search_has_the_split_of_a_run(result, folder):
    run = tellapart.train(folder, out=result.directory / "other", **SMALL)
    assert read_splits(run.directory / "split.csv") == read_splits(result.run.directory / "split.csv")


@pytest.mark.parametrize("values", [{"metric": "luck"}, {"trials": 0}, {"storage": "oracle://x"}])
def test_invalid_arguments_are_refused(folder, tmp_path, values):
    with pytest.raises(TuningError):
        tellapart.tune(folder, out=tmp_path / "search", **(SMALL | values))


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_report_is_accessible(result, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(result.report.as_uri())
    assert problems == []
    assert page.locator("tbody tr").count() == 6
    assert page.inner_text("p.lead")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    accessibility = Axe().run(page)
    assert accessibility.violations_count == 0, accessibility.generate_report()
    page.close()


def test_the_command(folder, tmp_path, capsys):
    options = ["--trials", "2", "--set", "model.name=lenet5", "--set", "schedule.epochs=1"]
    options += ["--set", "preprocess.size=32"]
    code, out, _ = run_cli(capsys, "tune", folder, "--out", tmp_path / "search", *options, "--json")
    assert code == 0
    printed = json.loads(out)
    assert printed["selection"]["selected"] in (0, 1)
    assert 0 <= printed["test"]["accuracy"]["value"] <= 1
    assert len(json.loads((tmp_path / "search" / "tuning.json").read_text())["trials"]) == 2
    code, out, _ = run_cli(capsys, "tune", folder, "--out", tmp_path / "search", *options, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "run_exists")
    for wrong, error_code in (
        (["--metric", "luck"], "cannot_tune"),
        (["--storage", "oracle://x"], "cannot_tune"),
        (["--search", "optimizer.x=1..2"], "invalid_recipe"),
    ):
        code, out, _ = run_cli(capsys, "tune", folder, "--out", tmp_path / "other", *options, *wrong, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, error_code)


def test_a_single_validation_image_compares_no_recipes(folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    split = ["validation", "test", *["train"] * (len(paths) - 2)]
    lines = [f"{path},{path.parent.name},{name}" for path, name in zip(paths[::-1], split, strict=True)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,split", *lines]))
    with pytest.raises(TuningError) as error:
        tellapart.tune(tmp_path / "manifest.csv", out=tmp_path / "search", trials=2, **SMALL)
    assert "found 1" in str(error.value)
    assert not (tmp_path / "search").exists()
