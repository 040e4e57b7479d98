"""The loop in which a process takes trials from a study and runs them."""

import signal
import time

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from tellapart.errors import InterruptedTrainingError
from tellapart.progress import Event, Progress
from tellapart.tuning.study import Study, trial_position
from tellapart.tuning.trial import REASON, SCORES, TrialPrunedError, TrialRunner, count_epochs

STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)


def run_trials(study: Study, runner: TrialRunner, n_trials: int, deadline: float | None) -> None:
    """Run trials until all are finished, or the next would probably end after the deadline (`time.monotonic`)."""
    dimensions = ", ".join(dimension.name for dimension in runner.space.all_dimensions)
    runner.progress.report(
        Event.TUNING_START,
        f"Searching {dimensions}: {n_trials} trials, the first with the default recipe.",
        trials=n_trials,
    )
    longest = 0.0
    while deadline is None or time.monotonic() + longest < deadline:
        trial = study.next_trial()
        if trial is None:
            return
        started = time.monotonic()
        if deadline is not None and started + longest >= deadline:  # the trial was waited for
            study.requeue(study.read_trial(trial), failed=False)
            break
        try:
            with study.heartbeat(trial):
                value = runner.run(trial)
            study.study.tell(trial, value)
        except TrialPrunedError:
            study.study.tell(trial, state=TrialState.PRUNED)
        except STORAGE_ERRORS:
            raise
        except BaseException as error:  # also Ctrl-C: another process can take the trial at once
            if study.read_trial(trial).state.is_finished():
                _report_lost(trial_position(trial) + 1, runner.progress)
                continue
            _requeue(study, study.read_trial(trial), error)
            raise
        seconds = time.monotonic() - started
        longest = max(longest, seconds)
        _report_end(study, study.read_trial(trial), runner, n_trials, seconds)
    runner.progress.report(Event.TUNING_TIMEOUT, "Time limit reached: run the remaining trials with --resume.")


def _requeue(study: Study, trial: FrozenTrial, error: BaseException) -> None:
    """Requeue the trial of an error; raises `InterruptedTrainingError` for Ctrl-C."""
    study.requeue(trial, failed=not isinstance(error, (KeyboardInterrupt, InterruptedTrainingError)))
    if isinstance(error, KeyboardInterrupt):
        raise InterruptedTrainingError("Interrupted by Ctrl-C: the trial was requeued.", signal.SIGINT) from error


def _report_lost(number: int, progress: Progress) -> None:
    progress.warn(
        Event.TRIAL_LOST,
        f"Trial {number} was taken over by another process, since this process sent no heartbeat.",
        trial=number,
    )


def _report_end(study: Study, trial: FrozenTrial, runner: TrialRunner, n_trials: int, seconds: float) -> None:
    finished = len(study.finished_trials())
    runner.progress.report(
        Event.TRIAL_END,
        f"Trial {finished}/{n_trials}  {_describe(trial, runner.metric)}  ({seconds:.0f} s)  "
        f"{runner.space.describe(trial.params)}",
        trial=trial_position(trial) + 1,
        state=trial.state.name.lower(),
        finished=finished,
        trials=n_trials,
    )


def _describe(trial: FrozenTrial, metric: str) -> str:
    if trial.state == TrialState.PRUNED:
        reason = trial.user_attrs.get(REASON)
        return f"failed: {reason}" if reason else f"pruned after epoch {count_epochs(trial)}"
    scores = trial.user_attrs[SCORES]
    text = f"validation accuracy {scores['accuracy']:.1%}, log loss {-scores['log_loss']:.4f}"
    return text + f", macro F1 {scores['macro_f1']:.1%}" * (metric == "macro_f1")
