"""tellapart: teach a computer to tell your pictures apart.

    import tellapart as ta
    run = ta.train("photos/")
    print(run.metrics["test"]["accuracy"], run.report)
    ta.load("runs/photos/model.safetensors").predict("cat.jpg")

Importing this package is quick and brings no torch: the names below are resolved on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tellapart.telemetry import disable_telemetry

if TYPE_CHECKING:
    from tellapart.classifier import Classifier
    from tellapart.combined import Combined, combine
    from tellapart.data.audit import Audit, audit
    from tellapart.data.samples import Samples
    from tellapart.data.sources import load_source
    from tellapart.describe import describe
    from tellapart.errors import TellapartError
    from tellapart.evaluation.compare import Comparison, compare
    from tellapart.evaluation.label_audit import LabelAudit, audit_labels
    from tellapart.evaluation.more_pictures import more_pictures
    from tellapart.evaluation.on_source import Evaluation, evaluate_on
    from tellapart.exporting.export import export
    from tellapart.exporting.order import Exported
    from tellapart.folds import cross_validate
    from tellapart.loading import load
    from tellapart.pipeline import train
    from tellapart.prediction import Prediction
    from tellapart.publish import push
    from tellapart.recipe import Recipe
    from tellapart.run import Run
    from tellapart.tuning.tune import Tuned, tune

__version__ = "0.1.0"

disable_telemetry()  # here, since this module comes before any other of the package, and so before what they import

_HOMES = {
    "Audit": "tellapart.data.audit",
    "Classifier": "tellapart.classifier",
    "Combined": "tellapart.combined",
    "Comparison": "tellapart.evaluation.compare",
    "Evaluation": "tellapart.evaluation.on_source",
    "Exported": "tellapart.exporting.order",
    "LabelAudit": "tellapart.evaluation.label_audit",
    "Prediction": "tellapart.prediction",
    "Recipe": "tellapart.recipe",
    "Run": "tellapart.run",
    "Samples": "tellapart.data.samples",
    "TellapartError": "tellapart.errors",
    "Tuned": "tellapart.tuning.tune",
    "audit": "tellapart.data.audit",
    "audit_labels": "tellapart.evaluation.label_audit",
    "combine": "tellapart.combined",
    "compare": "tellapart.evaluation.compare",
    "cross_validate": "tellapart.folds",
    "describe": "tellapart.describe",
    "evaluate_on": "tellapart.evaluation.on_source",
    "export": "tellapart.exporting.export",
    "load": "tellapart.loading",
    "load_source": "tellapart.data.sources",
    "more_pictures": "tellapart.evaluation.more_pictures",
    "push": "tellapart.publish",
    "train": "tellapart.pipeline",
    "tune": "tellapart.tuning.tune",
}
_EXTRAS = dict.fromkeys(("torch", "safetensors", "sklearn", "scipy", "matplotlib", "jinja2"), "train")
_EXTRAS |= dict.fromkeys(("onnx", "onnxscript"), "export") | dict.fromkeys(("optuna", "sqlalchemy"), "tune")

__all__ = [
    "Audit",
    "Classifier",
    "Combined",
    "Comparison",
    "Evaluation",
    "Exported",
    "LabelAudit",
    "Prediction",
    "Recipe",
    "Run",
    "Samples",
    "TellapartError",
    "Tuned",
    "audit",
    "audit_labels",
    "combine",
    "compare",
    "cross_validate",
    "describe",
    "evaluate_on",
    "export",
    "load",
    "load_source",
    "more_pictures",
    "push",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tellapart' has no attribute '{name}'")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        absent = (error.name or "").partition(".")[0]
        if absent not in _EXTRAS:
            raise
        from tellapart.errors import MissingExtra

        raise MissingExtra(
            f"tellapart.{name} needs the package '{absent}', which is not installed: run "
            f"`pip install 'tellapart[{'export' if name == 'export' else _EXTRAS[absent]}]'`."
        ) from error


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
