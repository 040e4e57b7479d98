"""A study that several processes share: trials are assigned one by one, and again if a process dies.

All trials are in the study from the start, in the waiting state. Only one process can take a trial, and sends a
heartbeat while it runs it. A trial without a heartbeat is requeued, with the same parameters, by the first process that
notices. So the study has the requested number of results, however many processes take part or die.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from tellapart.errors import TuningError
from tellapart.io.database_url import database_url, redact_url

_JOURNAL = "journal://"
_HEARTBEAT, _FAILURES, _POSITION, _PARAMS = "heartbeat", "failures", "position", "params"  # attributes of a trial
_FINGERPRINT, _IS_FILLED = "fingerprint", "is_filled"  # attributes of a study
_MAX_FAILURES = 3  # of a trial, before it is abandoned
_FILL_TIMEOUT = 30.0  # seconds to wait for another process to fill a new study
_POLL_INTERVAL = 0.5  # seconds

optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def open_storage(location: str | Path) -> Iterator[BaseStorage]:
    """Open a folder (SQLite), `postgresql://...`, or `journal://FILE` on a file system that machines share.

    Raises `TuningError`.
    """
    try:
        storage = _open(str(location))
    except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError, OSError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise TuningError(
            f"Cannot open the storage {redact_url(location)}: {reason}; use a folder, postgresql://... or journal://FILE."
        ) from error
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _open(location: str) -> BaseStorage:
    if location.startswith(_JOURNAL):
        path = Path(location.removeprefix(_JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    url = database_url(location, "study.sqlite")
    options = {"connect_args": {"timeout": 60}} if url.drivername == "sqlite" else {"pool_pre_ping": True}
    return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)


@dataclass
class Study:
    """A study in a storage; stale_after: seconds without a heartbeat after which a running trial is requeued."""

    storage: BaseStorage
    study: optuna.Study
    stale_after: float = 60.0
    _heartbeats: dict[int, tuple[Any, float]] = field(default_factory=dict)  # by number: the last one, and when it came

    def next_trial(self) -> optuna.Trial | None:
        """Take the next trial; wait while other processes run the last ones, and return None when all are finished."""
        while True:
            for stale in self._stale_trials():
                self.requeue(stale)
            trial = self.take_trial()
            if trial is not None or not self._trials(TrialState.RUNNING):
                return trial
            time.sleep(_POLL_INTERVAL)

    def take_trial(self) -> optuna.Trial | None:
        """Assign a waiting trial to this process and return it, or None if no trial is waiting."""
        states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        taken = {trial_position(trial) for trial in self._trials(*states)}
        for waiting in self._trials(TrialState.WAITING):
            if trial_position(waiting) in taken:  # two processes have filled the study at the same time
                continue
            with contextlib.suppress(UpdateFinishedTrialError):
                trial_id = self._trial_id(waiting)
                if self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    return optuna.Trial(self.study, trial_id)
        return None

    def requeue(self, trial: FrozenTrial, *, failed: bool = True) -> None:
        """End a trial without a result, and queue its parameters again.

        failed: its process died. After several failures a trial is abandoned, except the default, which is required.
        """
        if self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():  # another process was faster
            return
        failures = trial.user_attrs.get(_FAILURES, 0) + failed
        # Enqueue before ending the trial: a process that dies in between loses nothing, as duplicates are taken once.
        if failures < _MAX_FAILURES or trial_position(trial) == 0:
            params = trial.user_attrs[_PARAMS] | trial.params
            attributes = {_FAILURES: failures, _POSITION: trial_position(trial), _PARAMS: params}
            self.study.enqueue_trial(params, user_attrs=attributes)
        with contextlib.suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(self._trial_id(trial), TrialState.FAIL)

    @contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Send heartbeats for a trial from a background thread."""
        stop = threading.Event()

        def beat() -> None:
            for number in itertools.count():
                with contextlib.suppress(Exception):  # the database may be unavailable for a while
                    trial.set_user_attr(_HEARTBEAT, number)
                if stop.wait(self.stale_after / 6):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def finished_trials(self) -> list[FrozenTrial]:
        """Return the complete and the pruned trials, by position."""
        by_position: dict[int, FrozenTrial] = {}
        for trial in self._trials(TrialState.COMPLETE, TrialState.PRUNED):
            by_position.setdefault(trial_position(trial), trial)
        return [by_position[position] for position in sorted(by_position)]

    def read_trial(self, trial: optuna.Trial) -> FrozenTrial:
        """Return a trial as it is in the storage."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _stale_trials(self) -> list[FrozenTrial]:
        """Return the running trials without a recent heartbeat, by the clock of this process."""
        now, stale = time.monotonic(), []
        for trial in self._trials(TrialState.RUNNING):
            heartbeat = (trial.user_attrs.get(_HEARTBEAT), trial.last_step)
            previous, since = self._heartbeats.get(trial.number, (None, now))
            if trial.number not in self._heartbeats or previous != heartbeat:
                self._heartbeats[trial.number] = heartbeat, now
            elif now - since > self.stale_after:
                stale.append(trial)
        return stale

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _trial_id(self, trial: FrozenTrial) -> int:
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)


def trial_position(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the position of a trial in the study, which a requeued trial keeps."""
    position: int = trial.user_attrs.get(_POSITION, trial.number)
    return position


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study to create or join.

    fingerprint: a hash of what must be equal in all processes. initial_params: parameters of the first trials, the
    default first.
    """

    name: str
    fingerprint: str
    n_trials: int
    initial_params: Sequence[dict[str, Any]]
    sampler: optuna.samplers.BaseSampler
    pruner: optuna.pruners.BasePruner
    stale_after: float = 60.0


def open_study(storage: BaseStorage, spec: StudySpec) -> Study:
    """Create a study, or join the existing one; raises `TuningError` if its fingerprint differs."""
    options: dict[str, Any] = {
        "study_name": spec.name,
        "storage": storage,
        "sampler": spec.sampler,
        "pruner": spec.pruner,
    }
    try:
        study = optuna.create_study(**options, direction="maximize")
    except DuplicatedStudyError:
        study = optuna.load_study(**options)
        _wait_until_filled(study)
    if study.user_attrs.setdefault(_FINGERPRINT, spec.fingerprint) != spec.fingerprint:
        raise TuningError(
            f"The study '{spec.name}' was started with other images, settings or another search space: use the same "
            "ones to resume it, or choose another study with --name."
        )
    study.set_user_attr(_FINGERPRINT, spec.fingerprint)
    queued = {trial_position(trial) for trial in study.get_trials(deepcopy=False)}
    for position in sorted(set(range(spec.n_trials)) - queued):
        params = spec.initial_params[position] if position < len(spec.initial_params) else {}
        study.enqueue_trial(params, user_attrs={_PARAMS: params, _POSITION: position})
    study.set_user_attr(_IS_FILLED, True)
    return Study(storage, study, spec.stale_after)


def _wait_until_filled(study: optuna.Study) -> None:
    """Wait until the process that created the study has queued its trials, or has probably died."""
    deadline = time.monotonic() + _FILL_TIMEOUT
    while not study.user_attrs.get(_IS_FILLED) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)
