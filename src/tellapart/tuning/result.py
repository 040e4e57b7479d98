"""The result of a hyperparameter search, as an object and in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.io.run_directory import RunDirectory
from tellapart.recipe.recipe import Recipe
from tellapart.runs.run import Run
from tellapart.tuning.selection import Selection


@dataclass(frozen=True)
class TuningResult:
    """The result of a search: the selected recipe, the metric, why it was selected, the trials, and the trained run."""

    recipe: Recipe
    metric: str
    selection: Selection
    trials: tuple[dict[str, Any], ...]
    directory: Path
    run: Run

    @property
    def recipe_file(self) -> Path:
        """The selected recipe (TOML)."""
        return RunDirectory(self.directory).recipe

    @property
    def report(self) -> Path:
        """The HTML report of the search."""
        return self.directory / "tuning.html"


def describe_selection(selection: Selection, metric: str) -> str:
    """Return in words which recipe was selected, and the score to expect from it."""
    name = {"log_loss": "log loss", "accuracy": "accuracy", "macro_f1": "macro F1"}[metric]

    def show(score: float) -> str:
        return f"{-score:.4f}" if metric == "log_loss" else f"{score:.1%}"

    if selection.n_candidates == 1:
        return f"Only the default recipe was trained to the end: validation {name} {show(selection.selection_score)}."
    scores = (
        f"The best trial has a validation {name} of {show(selection.selection_score)}; corrected for selection bias, "
        f"the expected {name} is {show(selection.unbiased_score.value)}."
    )
    if selection.best == 0:
        return f"{scores} It is the default recipe."
    improvement, data = selection.improvement, "of the resamples"
    if selection.confirmation:
        improvement, data = selection.confirmation, "of the resamples of other divisions of the images"
    verdict = "better" if improvement.is_significant else "probably better"
    decision = f"it is {verdict}, and its recipe is used"
    if not selection.selected:
        decision = "not enough, so the default recipe is used"
    return f"{scores} It is ahead of the default in {improvement.win_rate:.0%} {data}: {decision}."
