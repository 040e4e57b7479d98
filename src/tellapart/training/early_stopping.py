"""The number of epochs that training takes, which falls once training has stopped improving."""

import math

from tellapart.recipe.sections import ScheduleRecipe
from tellapart.training.checkpointing.state import State

_FINAL_SHARE = 0.5  # of the epochs so far, in which the learning rate falls to zero


def planned_epochs(schedule: ScheduleRecipe, state: State) -> int | None:
    """Return the number of epochs that training takes; None if the time limits it."""
    return schedule.epochs if state.last_epoch is None else state.last_epoch


def end_if_not_improving(schedule: ScheduleRecipe, state: State) -> bool:
    """After `patience` epochs without improvement, set the last epoch; return whether it was set now.

    Training does not end at once, since most of the accuracy of a schedule comes from its last epochs, in which the
    learning rate falls to zero.
    """
    if not schedule.patience or state.last_epoch or state.epoch - state.best_epoch < schedule.patience:
        return False
    last_epoch = state.epoch + math.ceil(_FINAL_SHARE * state.epoch)
    if schedule.epochs is not None and last_epoch >= schedule.epochs:
        return False
    state.last_epoch = last_epoch
    return True
