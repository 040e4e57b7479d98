"""A run told to TensorBoard: `tensorboard --logdir runs` shows all of them side by side."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from tellapart.recipe import Recipe
from tellapart.runs.run import Run
from tellapart.training.checkpointing.state import History

FOLDER = "tensorboard"  # in the run's
_GROUPS = {"loss": "loss/train", "validation_log_loss": "loss/validation", "train_accuracy": "accuracy/train"}
_GROUPS |= {"validation_accuracy": "accuracy/validation", "validation_macro_f1": "macro_f1/validation"}


class TensorBoard:
    """Writes an event file; it stays open, since several of one second would be read in the order of their names."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.told = directory, 0

    def began(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """Write the recipe; the file is made here, when nothing stands in the way of the run any more."""
        self.writer = SummaryWriter(str(self.directory / FOLDER), purge_step=0)  # one that goes on tells all again
        self.writer.add_text("recipe", f"```toml\n{recipe.to_toml()}\n```")
        self.writer.add_text("data", "  \n".join(f"{name}: {value}" for name, value in facts.items()))

    def epoch(self, history: History) -> None:
        """Write the figures of what epochs are new."""
        for entry in history[self.told :]:
            for name, value in entry.items():
                if name not in ("epoch", "step"):
                    self.writer.add_scalar(_GROUPS.get(name, f"other/{name}"), value, entry["epoch"])
        self.writer.flush()
        self.told = len(history)

    def ended(self, run: Run) -> None:
        """Write the test figures, and the epochs of one that was killed after the last of them."""
        self.epoch(run.history)
        for name, figure in run.metrics["test"].items():
            if isinstance(figure, dict) and "value" in figure:
                self.writer.add_scalar(f"test/{name}", figure["value"], run.history[-1]["epoch"])
        self.writer.close()

    def stopped(self) -> None:
        """Write what is not written yet."""
        self.writer.close()


def open_record(where: str, directory: Path, title: str) -> TensorBoard:  # noqa: ARG001  as of `open_records`
    """Return the record."""
    return TensorBoard(directory)
