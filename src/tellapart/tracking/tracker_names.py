"""The names of the experiment trackers; imports none of them."""

from collections.abc import Sequence

from tellapart.errors import OptionError, did_you_mean, printable
from tellapart.optional import require

_EXTRAS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}  # tracker -> the extra that installs it


def check_trackers(trackers: Sequence[str]) -> None:
    """Raise `OptionError` for an unknown tracker or model name, `MissingExtraError` for one that is not installed."""
    for tracker in trackers:
        kind = tracker.partition(":")[0]
        if kind not in _EXTRAS:
            raise OptionError(
                f"Expected a tracker such as tensorboard or mlflow:sqlite:///mlruns.db, found '{printable(tracker)}'."
                f"{did_you_mean(kind, _EXTRAS)}"
            )
        require(_EXTRAS[kind], kind)
        name = tracker.partition("#")[2]
        if kind == "mlflow" and (set(name) & set("/:") or name != name.strip()):
            raise OptionError(
                f"Expected a name of a registered model in MLflow, without / and :, found '{printable(name)}'."
            )
