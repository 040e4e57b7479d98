"""A search of hyperparameters: the default is a candidate, luck is told from skill, the test pictures take no part."""

import json
import shutil

import numpy as np
import optuna
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given, settings
from hypothesis import strategies as st

import tellapart
from folders import QUICK, digit_folder, run_cli
from tellapart.data.audit import audit
from tellapart.data.pixel_cache import Pixels
from tellapart.data.sources import load_source
from tellapart.data.split import make_splits, read_splits
from tellapart.errors import BadRecipe, CannotTune, RunExists, UnknownModel
from tellapart.models import MODELS, larger
from tellapart.pipeline.defaults import resolve
from tellapart.pipeline.train import recipe_with
from tellapart.progress import Progress
from tellapart.recipe import Recipe, load_recipe
from tellapart.training.fit import Fitting
from tellapart.tuning.confirmation import divisions, last_round
from tellapart.tuning.search_space import space_for
from tellapart.tuning.selection import Answers, choose, lead
from tellapart.tuning.study import open_study, opened
from tellapart.tuning.trial import Candidates

SMALL = QUICK | {"training__autotune": False, "model": "lenet5", "preprocess__size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("tuning") / "digits", 3, 30)


@pytest.fixture(scope="module")
def settle(folder):
    found = audit(load_source(folder), Progress())
    splits = make_splits(found, Recipe().data, 0)
    return lambda recipe: resolve(recipe, found, splits, Progress())


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    return tellapart.tune(folder, out=tmp_path_factory.mktemp("found") / "search", trials=6, **SMALL)


def test_the_middle_of_the_space_is_the_default(settle):
    for base in (Recipe(), Recipe(model="resnet20"), Recipe().with_values(training__optimizer="sgd")):
        space = space_for(base, settle, [str(base.model), "lenet5"] if base.model else [])
        assert space.recipe(space.default) == settle(base) == space.default_recipe
    assert [space.recipe(place).training.epochs for place in space_for(Recipe(), settle).known] == [
        settle(Recipe()).training.epochs,
        2 * settle(Recipe()).training.epochs,
    ]
    networks = space_for(Recipe(), settle, ["small_resnet", "resnet20", "lenet5"])
    told = ["the default", "model resnet20", "model lenet5", "epochs x 2"]
    assert [networks.described(place) for place in networks.known] == told
    outside = space_for(Recipe(), settle, searched=["training.optimizer=sgd,adamw"])
    assert outside.known == [{}]
    assert (outside.default, outside.default_recipe) == ({}, settle(Recipe()))


def test_larger_networks_of_the_same_make_are_searched_where_their_weights_are_here(monkeypatch, tmp_path):
    lite = ("efficientnet_lite1", "efficientnet_lite2")
    assert (larger("efficientnet_lite0"), larger("efficientnet_lite2"), larger("small_resnet")) == (lite, (), ())
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    assert larger("resnet34") == ()
    (tmp_path / "weights").mkdir()
    for name in ("resnet18", "resnet101", "wide_resnet50_2"):
        (tmp_path / "weights" / MODELS[name].pretrained.file).touch()
    assert larger("resnet34") == ("resnet101",)

    def photographs(recipe):
        return Recipe(model=recipe.model or "efficientnet_lite0", pretrained=recipe.pretrained is not False)

    def networks(base):
        return [d.choices for d in space_for(base, photographs).dimensions if d.name == "model"]

    assert networks(Recipe()) == [("efficientnet_lite0", *lite)]
    assert networks(Recipe(model="efficientnet_lite0")) == networks(Recipe(pretrained=False)) == []


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_place_is_a_recipe(settle, data):
    space = space_for(Recipe(), settle, ["small_resnet", "resnet20"], ["training.optimizer=sgd,adamw"])
    place = {}
    for dimension in (*space.dimensions, *space.own):
        inside = st.sampled_from(dimension.choices) if dimension.choices else st.floats(dimension.low, dimension.high)
        place[dimension.name] = data.draw(inside)
    found, default = space.recipe(place), settle(Recipe(model=place["model"]))
    assert found == settle(found)  # nothing is left open
    assert (found.model, found.training.optimizer) == (place["model"], place["training.optimizer"])
    assert found.augment.rotation == pytest.approx(default.augment.rotation * place["augmentation"])
    assert found.training.label_smoothing == place["label smoothing"]


def test_what_the_recipe_says_is_not_searched(settle):
    names = {dimension.name for dimension in space_for(Recipe(), settle).dimensions}
    usual = {"learning rate", "weight decay", "label smoothing", "batch size", "epochs", "size", "augmentation"}
    assert names == usual
    told = Recipe().with_values(training__learning_rate=0.01, augment__rotation=3, preprocess__size=24)
    names = {dimension.name for dimension in space_for(told, settle).dimensions}
    assert names == {"weight decay", "label smoothing", "batch size", "epochs"}
    own = space_for(Recipe(), settle, searched=["training.learning_rate=1e-4..0.1", "training.ema=0.9,0.99"])
    assert [(d.name, d.log, d.low, d.high) for d in own.own[:1]] == [("training.learning_rate", True, 1e-4, 0.1)]
    assert own.own[1].choices == (0.9, 0.99)
    whole = space_for(Recipe(), settle, searched=["training.start_size=16..32"]).own[0]
    assert (whole.whole, whole.default) == (True, None)
    assert "label smoothing" not in {
        d.name for d in space_for(Recipe(), settle, told=["training.label_smoothing"]).dimensions
    }
    wrongs = ("training.nothing=1..2", "training.ema", "training.ema=0.9..0.1", "training.ema=a..b")
    wrongs += ("training.optimizer=sgd,adamv", "training.learning_rate=0.001..100")  # misspelt, and out of bounds
    with pytest.raises(UnknownModel, match="Did you mean"):
        space_for(Recipe(), settle, ["small_resnet", "resnet5O"])
    for wrong in (*wrongs, "seed=0,1", "data.test=0.1..0.3", "head.widths=[64],[32]"):
        with pytest.raises(BadRecipe):
            space_for(Recipe(), settle, searched=[wrong])


def simulated(random, skills, count):
    """Candidates that name the right one of two classes with the given probabilities."""
    labels = random.integers(0, 2, count)
    hard = random.normal(0, 1, count)  # what is hard for one is hard for the others
    found = []
    for skill in skills:
        noise = np.sqrt(0.5) * hard + np.sqrt(0.5) * random.normal(0, 1, count)
        right = noise < np.quantile(random.normal(0, 1, 100_000), skill)
        found.append(Answers(np.where(right, labels, 1 - labels), np.where(right, 0.1, 2.0)))
    return found, labels


def test_luck_is_told_from_skill():
    """Twenty candidates of one skill: the best of them looks too good, what is told does not, the default is kept."""
    random = np.random.default_rng(0)
    choices = [choose(*simulated(random, [0.9] * 20, 200), "accuracy", seed=n) for n in range(40)]
    apparent, honest = (np.mean([getattr(c, name) for c in choices]) for name in ("apparent", "optimism"))
    assert apparent > 0.93
    assert apparent - honest == pytest.approx(0.9, abs=0.012)
    assert np.mean([c.chosen != 0 for c in choices]) < 0.4
    covered = [c.honest.low <= 0.9 <= c.honest.high for c in choices]
    assert np.mean(covered) > 0.85


def test_a_lead_is_told_as_often_as_chance_allows():
    """Of candidates as good as the default, two in ten seem surely better where eight in ten draws are asked for."""
    random, held = np.random.default_rng(3), []
    for seed in range(150):
        (default, candidate), labels = simulated(random, [0.9] * 2, 200)
        held.append(lead(candidate, default, labels, "log_loss", seed=seed).holds)
    assert np.mean(held) == pytest.approx(0.2, abs=0.1)
    (default, candidate), labels = simulated(random, [0.85, 0.95], 400)
    assert lead(candidate, default, labels, "accuracy").surely > 0.95


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
def test_what_is_better_is_chosen(metric):
    random = np.random.default_rng(1)
    for seed in range(5):
        found, labels = simulated(random, [0.85] * 5 + [0.96], 400)
        choice = choose(found, labels, metric, seed=seed)
        assert choice.chosen == choice.best == 5
        assert choice.lead.surely > 0.95
        assert choice.lead.gain.low > 0


def test_groups_are_drawn_as_wholes():
    """Ten copies of each picture tell no more than one: what is uncertain stays so."""
    found, labels = simulated(np.random.default_rng(2), [0.8, 0.86], 60)
    many = [Answers(each.predicted.repeat(10), each.losses.repeat(10)) for each in found]
    groups = np.arange(60).repeat(10)
    alone, together = choose(found, labels, "accuracy"), choose(many, labels.repeat(10), "accuracy", groups)
    naive = choose(many, labels.repeat(10), "accuracy")
    width = lambda choice: choice.lead.gain.high - choice.lead.gain.low  # noqa: E731
    assert width(together) == pytest.approx(width(alone), rel=0.15)
    assert width(naive) < 0.6 * width(alone)


def test_a_search_leaves_what_it_found(tuned, folder, tmp_path):
    assert [trial["number"] for trial in tuned.trials] == list(range(6))
    assert tuned.trials[0]["state"] == "complete"
    assert sum(trial["chosen"] for trial in tuned.trials) == 1
    assert load_recipe(tuned.directory / "recipe.toml") == tuned.recipe
    assert load_recipe(tuned.run.directory / "recipe.toml") == tuned.recipe
    document = json.loads((tuned.directory / "tuning.json").read_text())
    assert document["choice"]["chosen"] == tuned.choice.chosen
    assert (document["choice"]["last_round"] is None) == (tuned.choice.best == 0)
    assert not list((tuned.directory / "trials").glob("*"))  # checkpoints of what has ended
    with pytest.raises(RunExists):
        tellapart.tune(folder, out=tuned.directory, trials=6, **SMALL)
    again = tellapart.tune(folder, out=tuned.directory, trials=6, resume=True, **SMALL)
    assert (again.recipe, again.trials) == (tuned.recipe, tuned.trials)
    with pytest.raises(CannotTune, match="begun with other"):
        tellapart.tune(folder, out=tuned.directory, trials=6, resume=True, **(SMALL | {"epochs": 3}))
    more = tellapart.tune(
        folder, out=shutil.copytree(tuned.directory, tmp_path / "copy"), trials=8, resume=True, **SMALL
    )
    assert len(more.trials) == 8


def test_no_trial_sees_a_test_picture(folder, tmp_path, monkeypatch):
    """What training and judging read is written down: no row of the test part is among it."""
    seen, take = set(), Pixels.__getitem__
    monkeypatch.setattr(
        Pixels, "__getitem__", lambda self, places: (seen.update(self._rows[places].tolist()), take(self, places))[1]
    )
    monkeypatch.setattr("tellapart.tuning.tune.train", lambda *_, **__: None)
    monkeypatch.setattr("tellapart.tuning.tune.render", lambda *_: "")
    tellapart.tune(folder, out=tmp_path / "search", trials=3, **SMALL)
    found = audit(load_source(folder), Progress())
    splits = make_splits(found, Recipe().data, 0)
    assert seen == {*splits.train.tolist(), *splits.validation.tolist()}


def test_the_last_round_judges_on_other_divisions_and_only_once(folder, tmp_path, monkeypatch):
    """Each picture of training and validation is validated on once at most; a search gone on with trains nothing."""
    found = audit(load_source(folder), Progress())
    splits = make_splits(found, Recipe().data, 0)
    known = {*splits.train.tolist(), *splits.validation.tolist()}
    divided = divisions(found, splits, seed=0)
    judged = np.concatenate([each.validation for each in divided])
    assert len(divided) == 3
    assert len(np.unique(judged)) == len(judged)
    for each in divided:
        assert {*each.train.tolist(), *each.validation.tolist()} == known
        assert abs(len(each.validation) - len(splits.validation)) <= 2
    trained, answers = [], Candidates.answers
    monkeypatch.setattr(Candidates, "answers", lambda *given: (trained.append(given[3]), answers(*given))[1])
    recipe = resolve(recipe_with(None, SMALL), found, splits, Progress())
    good, bad = recipe, recipe.with_values(training__learning_rate=1e-7)
    said = Progress()
    candidates = Candidates(found, splits, space_for(recipe, lambda each: each), "log_loss", tmp_path / "trials", said)
    sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    with opened(tmp_path) as kept:
        study = open_study(kept, "last", "it", 1, [{}], sampler, pruner)
        first = last_round(candidates, study, bad, good, "log_loss", said)
        assert first.holds
        assert first.gain.low > 0
        assert len(trained) == 6
        assert last_round(candidates, study, bad, good, "log_loss", said) == first
        assert last_round(candidates, study, good, bad, "log_loss", said).surely == pytest.approx(1 - first.surely)
        assert len(trained) == 6
        hopeless = good.with_values(training__learning_rate=10.0, training__optimizer="sgd")
        assert not last_round(candidates, study, good, hopeless, "log_loss", said).holds


def test_the_last_round_asks_no_picture_that_has_chosen(folder, tmp_path, monkeypatch):
    """Those that were for validation in the search have chosen the candidate: only the others tell what it is worth."""
    found = audit(load_source(folder), Progress())
    splits = make_splits(found, Recipe().data, 0)
    judged = np.concatenate([each.validation for each in divisions(found, splits, seed=0)])
    fresh = judged[~np.isin(judged, splits.validation)]
    assert 0 < len(fresh) < len(judged)
    labels = found.samples.labels

    def answers(self, recipe, divided, label):
        """One that is wrong on all that have chosen, and better on all others."""
        rows = divided.validation
        losses = np.where(np.isin(rows, splits.validation), 9.0, 0.1) if recipe.seed else np.full(len(rows), 0.5)
        return Answers(labels[rows].astype(np.int64), losses)

    monkeypatch.setattr(Candidates, "answers", answers)
    recipe = resolve(recipe_with(None, SMALL), found, splits, Progress())
    candidates = Candidates(found, splits, space_for(recipe, lambda each: each), "log_loss", tmp_path, Progress())
    sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    with opened(tmp_path) as kept:
        study = open_study(kept, "last", "it", 1, [{}], sampler, pruner)
        told = last_round(candidates, study, recipe, recipe.with_values(seed=1), "log_loss", Progress())
    assert (told.surely, told.gain.low) == (1.0, pytest.approx(0.4))


def test_a_candidate_that_needs_too_much_memory_ends_alone(folder, tmp_path, monkeypatch):
    """Another one may need less: the search goes on, and says why this one has no figure."""
    run, runs = Fitting.run, []

    def second_is_too_large(self, *arguments):
        runs.append(self.recipe)
        if len(runs) == 2:
            raise torch.OutOfMemoryError("Tried to allocate 2 TiB.")
        return run(self, *arguments)

    monkeypatch.setattr(Fitting, "run", second_is_too_large)
    found = tellapart.tune(folder, out=tmp_path / "search", trials=3, **SMALL)
    told = [(trial["state"], trial["reason"]) for trial in found.trials]
    assert told[0] == ("complete", None)
    assert told[1] == ("given up", "Tried to allocate 2 TiB.")
    assert told[2][1] is None
    assert "Tried to allocate 2 TiB." in found.page.read_text()


def test_the_split_is_that_of_the_run(tuned, folder):
    run = tellapart.train(folder, out=tuned.directory / "other", **SMALL)
    assert read_splits(run.directory / "split.csv") == read_splits(tuned.run.directory / "split.csv")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_tells_of_it(tuned, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(tuned.page.as_uri())
    assert problems == []
    assert page.locator("tbody tr").count() == 6
    assert "to be expected" in page.inner_text("p.lead")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_the_command(folder, tmp_path, capsys):
    options = ["--trials", "2", "--set", "model=lenet5", "--set", "training.epochs=1", "--set", "preprocess.size=32"]
    code, out, err = run_cli(capsys, "tune", folder, "--out", tmp_path / "search", *options, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["choice"]["chosen"] in (0, 1)
    assert 0 <= told["test"]["accuracy"]["value"] <= 1
    assert "Trial 2/2" in err
    code, _, err = run_cli(capsys, "tune", folder, "--out", tmp_path / "search", *options)
    assert (code, err.count("\n")) == (1, 1)
    for wrong in (["--metric", "luck"], ["--storage", "oracle://x"], ["--search", "training.x=1..2"]):
        code, _, err = run_cli(capsys, "tune", folder, "--out", tmp_path / "other", *options, *wrong)
        assert code == 1
        assert "Error: " in err.splitlines()[-1]
