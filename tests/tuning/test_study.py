"""A study that several processes share: each trial has one result, and none is lost when a process dies."""

import json
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest

from folders import digit_folder
from tellapart.errors import TuningError
from tellapart.tuning.study import StudySpec, open_storage, open_study, trial_position

SPEC = StudySpec(
    name="study",
    fingerprint="a",
    n_trials=3,
    initial_params=[{"x": 0.5}],
    sampler=optuna.samplers.RandomSampler(seed=0),
    pruner=optuna.pruners.NopPruner(),
    stale_after=1.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("tuning") / "digits", 3, 30)


@pytest.fixture(params=["sqlite", "journal", "postgres"])
def storages(request, tmp_path):
    """The same storage, as two processes open it."""
    locations = {"journal": f"journal://{tmp_path / 'study.log'}", "sqlite": str(tmp_path / "storage")}
    location = locations.get(request.param) or request.getfixturevalue("postgres")
    with open_storage(location) as first, open_storage(location) as second:
        yield first, second


def spec(request, **changes):
    """Return a study named after the test, since all tests share the PostgreSQL server."""
    return StudySpec(**(vars(SPEC) | {"name": request.node.name} | changes))


def waiting(study):
    return study.study.get_trials(states=[optuna.trial.TrialState.WAITING])


def test_a_trial_is_assigned_once_and_again_if_its_process_dies(storages, request):
    one, two = (open_study(storage, spec(request)) for storage in storages)
    first, second = one.take_trial(), two.take_trial()
    assert {first.number, second.number} == {0, 1}
    assert first.suggest_float("x", 0, 1) == 0.5  # the initial parameters
    lost = second.suggest_float("x", 0, 1)
    one.study.tell(first, 1.0)
    third = one.take_trial()
    assert third.suggest_float("x", 0, 1) != lost
    assert two.take_trial() is None
    with one.heartbeat(third):
        again = two.next_trial()  # waits until the second trial is stale; the third has a heartbeat
        assert (again.number, again.suggest_float("x", 0, 1)) == (3, lost)
    one.study.tell(third, 2.0)
    two.study.tell(again, 3.0)
    assert one.next_trial() is None
    assert [trial.value for trial in one.finished_trials()] == [1.0, 3.0, 2.0]  # by position


def test_more_trials_can_be_added_and_interrupted_trials_are_kept(storages, request):
    open_study(storages[0], spec(request))
    study = open_study(storages[1], spec(request, n_trials=5))
    assert len(waiting(study)) == 5
    for _ in range(4):  # interrupted trials are requeued without a limit
        study.requeue(study.read_trial(study.take_trial()), failed=False)
    assert len(waiting(study)) == 5


def test_a_study_with_another_fingerprint_is_refused(storages, request):
    open_study(storages[0], spec(request))
    with pytest.raises(TuningError):
        open_study(storages[1], spec(request, fingerprint="b"))


def test_a_process_that_dies_while_it_requeues_loses_nothing(storages, request, monkeypatch):
    """The parameters are queued again, and the trial is not ended: another process ends it, and runs it once."""
    one, two = (open_study(storage, spec(request, stale_after=0.5)) for storage in storages)
    dying = one.take_trial()
    x = dying.suggest_float("x", 0, 1)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(one.storage, "set_trial_state_values", die)
        with pytest.raises(KeyboardInterrupt):
            one.requeue(one.read_trial(dying))
    values = []
    while (trial := two.next_trial()) is not None:
        values.append(trial.suggest_float("x", 0, 1))
        two.study.tell(trial, values[-1])
    assert len(values) == 3
    assert values.count(x) == 1
    assert [trial_position(trial) for trial in two.finished_trials()] == [0, 1, 2]


@pytest.mark.parametrize("location", ["oracle://x", "postgresql://nowhere.invalid/x"])
def test_an_unavailable_storage_is_refused(location):
    with pytest.raises(TuningError), open_storage(location):
        pass


WORKER = """
import sys
import tellapart
tellapart.tune(
    sys.argv[1], out=sys.argv[2], storage=sys.argv[3], name="shared", trials=8, worker=True, resume=True,
    stale_after=6, model="lenet5", size=32, epochs=6, autotune=False, batch_size=4,
)
"""


def two_are_running(storage):
    """Return whether both processes are in the middle of a trial: each has reported an epoch."""
    try:
        trials = optuna.load_study(study_name="shared", storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return False
    return sum(bool(trial.state == optuna.trial.TrialState.RUNNING and trial.last_step) for trial in trials) >= 2


def test_two_workers_share_a_study_and_one_is_killed(folder, tmp_path, postgres):
    """The study has the requested number of results, each once, although one of two processes is killed in a trial."""
    command = [sys.executable, "-c", WORKER, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, tmp_path / name, postgres], env=environment, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    with open_storage(postgres) as storage:
        deadline = time.monotonic() + 60
        while not two_are_running(storage) and time.monotonic() < deadline:
            time.sleep(0.02)
        workers[1].send_signal(signal.SIGKILL)
        _, stderr = workers[0].communicate(timeout=120)
        workers[1].communicate()
        assert workers[0].returncode == 0, stderr
        trials = optuna.load_study(study_name="shared", storage=storage).get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") + states.count("PRUNED") == 8
    assert states.count("FAIL") == len(states) - 8
    for lost, again in zip((t for t in trials if t.state.name == "FAIL"), trials[8:], strict=True):
        assert again.params == lost.params
    params = [json.dumps(trial.params, sort_keys=True) for trial in trials if trial.state.name != "FAIL"]
    assert len(set(params)) == 8
