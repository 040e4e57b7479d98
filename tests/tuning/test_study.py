"""A search that several processes share: each trial has one result, and none is lost, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest

from folders import digit_folder
from tellapart.errors import CannotTune
from tellapart.tuning.study import open_study, opened, order_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("tuning") / "digits", 3, 30)


@pytest.fixture(params=["sqlite", "journal", "postgres"])
def storages(request, tmp_path):
    """The same place, as two processes open it."""
    places = {"journal": f"journal://{tmp_path / 'study.log'}", "sqlite": str(tmp_path / "kept")}
    where = places.get(request.param) or request.getfixturevalue("postgres")
    with opened(where) as first, opened(where) as second:
        yield first, second


def test_a_trial_is_handed_out_once_and_again_if_it_is_lost(storages):
    sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    name = "lost"
    one, two = (open_study(storage, name, "it", 3, [{"x": 0.5}], sampler, pruner, patience=1.0) for storage in storages)
    first, second = one.take(), two.take()
    assert {first.number, second.number} == {0, 1}
    assert first.suggest_float("x", 0, 1) == 0.5  # the default is the first
    lost = second.suggest_float("x", 0, 1)
    one.study.tell(first, 1.0)
    third = one.take()
    assert third.suggest_float("x", 0, 1) != lost
    assert two.take() is None
    with one.alive(third):
        began = time.monotonic()
        again = two.next()  # waits until the second has given no sign for a second; the third does
        assert time.monotonic() - began > 0.9
        assert (again.number, again.suggest_float("x", 0, 1)) == (3, lost)
    one.study.tell(third, 2.0)
    two.study.tell(again, 3.0)
    assert one.next() is None
    assert [trial.value for trial in one.ended()] == [1.0, 3.0, 2.0]  # by their places
    more = open_study(storages[1], name, "it", 5, [{"x": 0.5}], sampler, pruner)
    assert len(more.study.get_trials(states=[optuna.trial.TrialState.WAITING])) == 2
    for _ in range(4):  # one that is told to end, as often as it is, loses nothing
        taken = more.take()
        more.give_back(more.frozen(taken), lost=False)
    assert len(more.study.get_trials(states=[optuna.trial.TrialState.WAITING])) == 2
    with pytest.raises(CannotTune, match="other pictures"):
        open_study(storages[0], name, "another", 3, [{"x": 0.5}], sampler, pruner)


def test_a_process_that_dies_while_it_gives_back_loses_nothing(storages, monkeypatch):
    """The values wait already, the trial is not yet ended: others end it, and the values are taken once."""
    sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    one, two = (open_study(each, "cut", "it", 3, [{"x": 0.5}], sampler, pruner, patience=0.5) for each in storages)
    dying = one.take()
    place = dying.suggest_float("x", 0, 1)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(one.storage, "set_trial_state_values", cut)
        with pytest.raises(KeyboardInterrupt):
            one.give_back(one.frozen(dying))
    tried = []
    while (trial := two.next()) is not None:
        tried.append(trial.suggest_float("x", 0, 1))
        two.study.tell(trial, tried[-1])
    assert len(tried) == 3
    assert tried.count(place) == 1
    assert [order_of(trial) for trial in two.ended()] == [0, 1, 2]


WORKER = """
import sys
import tellapart
from tellapart.progress import TerminalProgress
tellapart.tune(
    sys.argv[1], out=sys.argv[2], storage=sys.argv[3], name="shared", trials=8, helper=True, resume=True, patience=6,
    progress=TerminalProgress(), model="lenet5", preprocess__size=32, epochs=6, training__autotune=False,
    training__batch_size=4,
)
"""


def running_in_two(storage):
    """Whether both processes are in the midst of a trial: each has told of an epoch."""
    try:
        trials = optuna.load_study(study_name="shared", storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return False
    return sum(bool(trial.state == optuna.trial.TrialState.RUNNING and trial.last_step) for trial in trials) >= 2


def test_two_work_on_one_search_and_one_is_killed(folder, tmp_path, postgres):
    """As many results as were asked for, each once, though one of two processes is killed in the midst of a trial."""
    command = [sys.executable, "-c", WORKER, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, tmp_path / name, postgres], env=environment, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    with opened(postgres) as storage:
        end = time.monotonic() + 60
        while not running_in_two(storage) and time.monotonic() < end:
            time.sleep(0.02)
        workers[1].send_signal(signal.SIGKILL)
        _, said = workers[0].communicate(timeout=120)
        workers[1].communicate()
        assert workers[0].returncode == 0, said
        trials = optuna.load_study(study_name="shared", storage=storage).get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") + states.count("PRUNED") == 8
    assert states.count("FAIL") == len(states) - 8
    for lost, again in zip((t for t in trials if t.state.name == "FAIL"), trials[8:], strict=True):
        assert again.params == lost.params
    places = [json.dumps(trial.params, sort_keys=True) for trial in trials if trial.state.name != "FAIL"]
    assert len(set(places)) == 8
