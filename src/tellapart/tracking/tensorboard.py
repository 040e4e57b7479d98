"""Logging a run to TensorBoard: `tensorboard --logdir runs` shows all runs side by side."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from tellapart.recipe.recipe import Recipe
from tellapart.runs.run import Run
from tellapart.training.checkpointing.state import History

FOLDER = "tensorboard"  # in the run directory
_TAGS = {
    "loss": "loss/train",
    "validation_log_loss": "loss/validation",
    "train_accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "validation_macro_f1": "macro_f1/validation",
}  # of history keys; others are tagged other/KEY


class TensorBoardCallback:
    """Writes one event file per process, since TensorBoard orders files of the same second by their names."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.n_logged = directory, 0

    def on_train_begin(self, recipe: Recipe, metadata: dict[str, Any]) -> None:
        """Create the event file and write the recipe."""
        self.writer = SummaryWriter(str(self.directory / FOLDER), purge_step=0)  # a resumed run logs all epochs again
        self.writer.add_text("recipe", f"```toml\n{recipe.to_toml()}\n```")
        self.writer.add_text("data", "  \n".join(f"{name}: {value}" for name, value in metadata.items()))

    def on_epoch_end(self, history: History) -> None:
        """Write the metrics of new epochs."""
        for entry in history[self.n_logged :]:
            for name, value in entry.items():
                if name not in ("epoch", "step"):
                    self.writer.add_scalar(_TAGS.get(name, f"other/{name}"), value, entry["epoch"])
        self.writer.flush()
        self.n_logged = len(history)

    def on_train_end(self, run: Run) -> None:
        """Write the test metrics, and epochs that were not logged before a crash."""
        self.on_epoch_end(run.history)
        for name, metric in run.metrics["test"].items():
            if isinstance(metric, dict) and "value" in metric:
                self.writer.add_scalar(f"test/{name}", metric["value"], run.history[-1]["epoch"])
        self.writer.close()

    def on_exception(self) -> None:
        """Flush and close the event file."""
        self.writer.close()


def create_callback(target: str, directory: Path, title: str) -> TensorBoardCallback:  # noqa: ARG001  same signature for all trackers
    """Return the callback of a run."""
    return TensorBoardCallback(directory)
