"""tellapart: teach a computer to tell your pictures apart.

    import tellapart as ta
    run = ta.train("photos/")
    print(run.metrics["test"]["accuracy"], run.report)
    ta.load("runs/photos/model.safetensors").predict("cat.jpg")

Importing this package is quick and brings no torch: the names below are resolved on first use.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tellapart.classifier.classifier import Classifier
    from tellapart.classifier.describe import describe
    from tellapart.curation.data_forecast import more_pictures
    from tellapart.curation.label_audit import LabelAudit, audit_labels
    from tellapart.data.audit import Audit, audit
    from tellapart.data.dataset import Samples
    from tellapart.data.sources import load_source
    from tellapart.errors import TellapartError
    from tellapart.evaluation.compare import Comparison, compare
    from tellapart.evaluation.evaluate import Evaluation, evaluate_on
    from tellapart.exporters.export import export
    from tellapart.exporters.huggingface import push
    from tellapart.exporters.job import Exported
    from tellapart.inference.load import load
    from tellapart.inference.prediction import Prediction
    from tellapart.pipeline.cross_validation import cross_validate
    from tellapart.pipeline.ensemble_runs import Combined, combine
    from tellapart.pipeline.train import train
    from tellapart.recipe import Recipe
    from tellapart.runs.run import Run
    from tellapart.tuning.result import Tuned
    from tellapart.tuning.tune import tune

__version__ = "0.1.0"

# Nothing leaves the user's machine. ONNX Runtime, from 1.29 on, looks up names, opens connections, and keeps an
# identity of the device and a queue of events in the user's cache folder as soon as it is imported (a variable named CI
# hides that). This module comes before any other of the package, and so before all that they import.
for _name in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")

_HOMES = {
    "Audit": "tellapart.data.audit",
    "Classifier": "tellapart.classifier.classifier",
    "Combined": "tellapart.pipeline.ensemble_runs",
    "Comparison": "tellapart.evaluation.compare",
    "Evaluation": "tellapart.evaluation.evaluate",
    "Exported": "tellapart.exporters.job",
    "LabelAudit": "tellapart.curation.label_audit",
    "Prediction": "tellapart.inference.prediction",
    "Recipe": "tellapart.recipe",
    "Run": "tellapart.runs.run",
    "Samples": "tellapart.data.dataset",
    "TellapartError": "tellapart.errors",
    "Tuned": "tellapart.tuning.result",
    "audit": "tellapart.data.audit",
    "audit_labels": "tellapart.curation.label_audit",
    "combine": "tellapart.pipeline.ensemble_runs",
    "compare": "tellapart.evaluation.compare",
    "cross_validate": "tellapart.pipeline.cross_validation",
    "describe": "tellapart.classifier.describe",
    "evaluate_on": "tellapart.evaluation.evaluate",
    "export": "tellapart.exporters.export",
    "load": "tellapart.inference.load",
    "load_source": "tellapart.data.sources",
    "more_pictures": "tellapart.curation.data_forecast",
    "push": "tellapart.exporters.huggingface",
    "train": "tellapart.pipeline.train",
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
