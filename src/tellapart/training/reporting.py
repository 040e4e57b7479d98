"""The progress messages of training."""

import math

from tellapart.recipe.sections import ScheduleRecipe
from tellapart.training.checkpointing.state import State
from tellapart.training.early_stopping import planned_epochs


def epoch_title(schedule: ScheduleRecipe, state: State) -> str:
    """Return the number of the epoch, as in "Epoch 3/10"."""
    epochs = planned_epochs(schedule, state)
    return f"Epoch {state.epoch}" if epochs is None else f"Epoch {state.epoch}/{epochs}"


def progress_note(sums: list[float], images_per_second: float) -> str:
    """Return the note of the progress bar; sums: as in `State`."""
    loss, correct, images = sums
    return f"loss {loss / images:.3f}  accuracy {correct / images:.1%}  {images_per_second:,.0f} images/s"


def epoch_message(schedule: ScheduleRecipe, state: State, seconds_left: float) -> str:
    """Return the metrics of the last epoch and the estimated time left, in one line."""
    metrics, left = state.history[-1], int(seconds_left)
    return (
        f"{epoch_title(schedule, state)}  loss {metrics['loss']:.3f}  "
        f"validation accuracy {metrics['validation_accuracy']:.1%}  "
        f"{metrics['images_per_second']:,.0f} images/s  {left // 60}:{left % 60:02d} left"
    )


def stopping_message(schedule: ScheduleRecipe, state: State) -> str:
    """Return why and when training ends before its last epoch."""
    return (
        f"Stopping early, after epoch {state.last_epoch}: {schedule.monitor} has not improved for {schedule.patience} "
        "epochs."
    )


def selection_message(monitor: str, state: State, validation_images: int) -> str:
    """Return which weights were selected, and why they are not those with the best score, if so."""
    probe = "the linear probe, which no epoch improved" if state.epoch > 1 else "the linear probe"
    message = f"Selected the weights of {f'epoch {state.selected_epoch}' if state.selected_epoch else probe}."
    scores = {entry["epoch"]: entry[f"validation_{monitor}"] for entry in state.history}
    is_best = state.selected_epoch == state.best_epoch
    if is_best or scores.get(state.selected_epoch) == scores.get(state.best_epoch, math.nan):  # equal, only later
        return message
    best = f"Epoch {state.best_epoch}" if state.best_epoch else "The linear probe"
    return (
        f"{message} {best} scored higher, by less than one standard error on {validation_images:,} validation images; "
        "then the later epoch is selected."
    )
