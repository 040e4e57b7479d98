"""A search that several processes work on: trials are handed out one by one, and again if their process is gone.

All that is to be tried is in the study from the start, as trials that wait. A process takes one of them, which only one
can; while it works it gives signs of life. A trial without one is handed out anew, with the same values, by whoever
notices first. So the study has as many results as were asked for, however many take part, and whoever dies.
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

from tellapart.errors import CannotTune
from tellapart.io.database import database_url, shown

_JOURNAL = "journal://"
_ALIVE, _AGAIN, _ORDER, _PLACE, _FILLED = "alive", "again", "order", "place", "filled"
_MOST_TIMES = 3  # that one trial is handed out
_FILLING = 30.0  # seconds that another process may take to fill a new study
_POLL = 0.5  # seconds

optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def opened(where: str | Path) -> Iterator[BaseStorage]:
    """Open a folder (SQLite), `postgresql://...`, or `journal://FILE` on a file system that machines share.

    Raises `CannotTune`.
    """
    try:
        storage = _open(str(where))
    except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError, OSError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise CannotTune(
            f"Cannot keep the search in {shown(where)}: {reason}; name a folder, postgresql://... or journal://FILE."
        ) from error
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _open(where: str) -> BaseStorage:
    if where.startswith(_JOURNAL):
        path = Path(where.removeprefix(_JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    url = database_url(where, "study.sqlite")
    options = {"connect_args": {"timeout": 60}} if url.drivername == "sqlite" else {"pool_pre_ping": True}
    return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)


@dataclass
class Study:
    """A study in a storage. patience: seconds without a sign of life after which a trial is taken from its process."""

    storage: BaseStorage
    study: optuna.Study
    patience: float = 60.0
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict)  # by number: the last sign, and when it was new

    def take(self) -> optuna.Trial | None:
        """Return a trial that waits, which from now on is this process's, or None if there is none."""
        taken = {order_of(trial) for trial in self._in(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)}
        for waiting in self._in(TrialState.WAITING):
            if order_of(waiting) in taken:  # two processes have filled the study at once
                continue
            with contextlib.suppress(UpdateFinishedTrialError):
                identity = self._identity(waiting)
                if self.storage.set_trial_state_values(identity, TrialState.RUNNING):
                    return optuna.Trial(self.study, identity)
        return None

    def next(self) -> optuna.Trial | None:
        """Return the next trial; while others work on the last ones, wait: None when all have ended."""
        while True:
            for gone in self._gone():
                self.give_back(gone)
            trial = self.take()
            if trial is not None or not self._in(TrialState.RUNNING):
                return trial
            time.sleep(_POLL)

    def give_back(self, trial: FrozenTrial, *, lost: bool = True) -> None:
        """End a trial without a result, and let another process have its values.

        lost: its process has died in it; a trial in which several did is given up, but for the default's, which is
        needed.
        """
        if self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():  # another process noticed first
            return
        times = trial.user_attrs.get(_AGAIN, 0) + lost
        if times < _MOST_TIMES or order_of(trial) == 0:  # first, so that nobody finds neither the one nor the other
            place = trial.user_attrs[_PLACE] | trial.params
            attributes = {_AGAIN: times, _ORDER: order_of(trial), _PLACE: place}
            self.study.enqueue_trial(place, user_attrs=attributes)
        with contextlib.suppress(UpdateFinishedTrialError):  # two noticed: what waits twice is taken once
            self.storage.set_trial_state_values(self._identity(trial), TrialState.FAIL)

    @contextmanager
    def alive(self, trial: optuna.Trial) -> Iterator[None]:
        """Give signs of life for a trial."""
        ended = threading.Event()

        def beat() -> None:
            for number in itertools.count():
                with contextlib.suppress(Exception):  # a database that is away for a while; whatever class it raises
                    trial.set_user_attr(_ALIVE, number)
                if ended.wait(self.patience / 6):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def ended(self) -> list[FrozenTrial]:
        """Return the trials with a result, and those that were given up as hopeless, in the order of their places."""
        found: dict[int, FrozenTrial] = {}
        for trial in self._in(TrialState.COMPLETE, TrialState.PRUNED):
            found.setdefault(order_of(trial), trial)
        return [found[order] for order in sorted(found)]

    def frozen(self, trial: optuna.Trial) -> FrozenTrial:
        """Return a trial as it stands in the storage."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _gone(self) -> list[FrozenTrial]:
        """Return the running trials that have given no sign of life for long, as seen from here: clocks differ."""
        now, found = time.monotonic(), []
        for trial in self._in(TrialState.RUNNING):
            sign, since = self._seen.get(trial.number, (None, now))
            current = (trial.user_attrs.get(_ALIVE), trial.last_step)
            if trial.number not in self._seen or sign != current:
                self._seen[trial.number] = current, now
            elif now - since > self.patience:
                found.append(trial)
        return found

    def _in(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _identity(self, trial: FrozenTrial) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, trial.number)


def order_of(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the place of a trial among those that were asked for: one that was begun again keeps its own."""
    found: int = trial.user_attrs.get(_ORDER, trial.number)
    return found


def open_study(
    storage: BaseStorage,
    name: str,
    about: str,
    trials: int,
    known: Sequence[dict[str, Any]],
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    patience: float = 60.0,
) -> Study:
    """Begin a study, its first trials at known places, that of the default first, or take part in the one there is.

    about: what has to be equal for all who take part. Raises `CannotTune` if it is not.
    """
    try:
        study = optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, pruner=pruner, direction="maximize"
        )
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        _wait_until_filled(study)
    if study.user_attrs.setdefault("about", about) != about:
        raise CannotTune(
            f"The search '{name}' was begun with other pictures, settings or another space: give the same ones to go "
            "on with it, or name another by --name."
        )
    study.set_user_attr("about", about)
    there = {order_of(trial) for trial in study.get_trials(deepcopy=False)}
    for order in sorted(set(range(trials)) - there):
        place = known[order] if order < len(known) else {}
        study.enqueue_trial(place, user_attrs={_PLACE: place, _ORDER: order})
    study.set_user_attr(_FILLED, True)
    return Study(storage, study, patience)


def _wait_until_filled(study: optuna.Study) -> None:
    """Let the process that has begun the study fill it; one that died meanwhile is not waited for."""
    end = time.monotonic() + _FILLING
    while not study.user_attrs.get(_FILLED) and time.monotonic() < end:
        time.sleep(_POLL)
