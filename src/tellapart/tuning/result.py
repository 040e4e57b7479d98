"""What a search found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.recipe import Recipe
from tellapart.runs.run import Run
from tellapart.tuning.selection import Choice


@dataclass(frozen=True)
class Tuned:
    """What a search found: the recipe to train with, why, the trials, and the run that was trained with it, if any."""

    recipe: Recipe
    metric: str
    choice: Choice
    trials: tuple[dict[str, Any], ...]
    directory: Path
    run: Run | None

    @property
    def page(self) -> Path:
        """The page that tells of the search."""
        return self.directory / "tuning.html"
