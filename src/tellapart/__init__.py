"""tellapart: teach a computer to tell your images apart.

    import tellapart as ta
    run = ta.train("photos/")
    print(run.metrics["test"]["accuracy"], run.report)
    ta.load("runs/photos/model.safetensors").predict("cat.jpg")

Importing the package is quick and imports no torch: the names below are resolved on first use.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tellapart.classifier.classifier import Classifier
    from tellapart.classifier.layer_summary import summary
    from tellapart.curation.data_forecast import learning_curve
    from tellapart.curation.label_issues import LabelIssues, find_label_issues
    from tellapart.data.audit import Audit, audit_dataset
    from tellapart.data.dataset import ImageDataset
    from tellapart.data.sources import load_dataset
    from tellapart.errors import TellapartError
    from tellapart.evaluation.compare import Comparison, compare
    from tellapart.evaluation.evaluate import Evaluation, evaluate
    from tellapart.exporters.export import export
    from tellapart.exporters.export_job import ExportResult
    from tellapart.exporters.push_to_hub import push
    from tellapart.inference.load_predictor import load
    from tellapart.inference.prediction import Prediction
    from tellapart.pipeline.cross_validation import cross_validate
    from tellapart.pipeline.ensemble_runs import EnsembleResult, ensemble
    from tellapart.pipeline.train import train
    from tellapart.recipe.recipe import Recipe
    from tellapart.runs.run import Run
    from tellapart.tuning.result import TuningResult
    from tellapart.tuning.tune import tune

__version__ = "0.1.0"

# No telemetry. From 1.29 on, ONNX Runtime opens connections and writes a device identity and an event queue to the
# user's cache folder as soon as it is imported (unless a variable named CI is set). This module is imported before any
# other of the package, and so before the libraries that they import.
for _name in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")

# How often a thread of PyTorch checks whether the others are ready before it sleeps. With the default of GNU OpenMP,
# 300,000 times, training beside other programs takes 20 times as long as on an idle machine. A tenth of it is as fast
# there (benchmarks/busy_machine.py). It has an effect before torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

_HOMES = {
    "Audit": "tellapart.data.audit",
    "Classifier": "tellapart.classifier.classifier",
    "EnsembleResult": "tellapart.pipeline.ensemble_runs",
    "Comparison": "tellapart.evaluation.compare",
    "Evaluation": "tellapart.evaluation.evaluate",
    "ExportResult": "tellapart.exporters.export_job",
    "LabelIssues": "tellapart.curation.label_issues",
    "Prediction": "tellapart.inference.prediction",
    "Recipe": "tellapart.recipe.recipe",
    "Run": "tellapart.runs.run",
    "ImageDataset": "tellapart.data.dataset",
    "TellapartError": "tellapart.errors",
    "TuningResult": "tellapart.tuning.result",
    "audit_dataset": "tellapart.data.audit",
    "find_label_issues": "tellapart.curation.label_issues",
    "ensemble": "tellapart.pipeline.ensemble_runs",
    "compare": "tellapart.evaluation.compare",
    "cross_validate": "tellapart.pipeline.cross_validation",
    "summary": "tellapart.classifier.layer_summary",
    "evaluate": "tellapart.evaluation.evaluate",
    "export": "tellapart.exporters.export",
    "load": "tellapart.inference.load_predictor",
    "load_dataset": "tellapart.data.sources",
    "learning_curve": "tellapart.curation.data_forecast",
    "push": "tellapart.exporters.push_to_hub",
    "train": "tellapart.pipeline.train",
    "tune": "tellapart.tuning.tune",
}
_EXTRAS = dict.fromkeys(("torch", "safetensors", "sklearn", "scipy", "matplotlib", "jinja2"), "train")
_EXTRAS |= dict.fromkeys(("onnx", "onnxscript"), "export") | dict.fromkeys(("optuna", "sqlalchemy"), "tune")

__all__ = [
    "Audit",
    "Classifier",
    "Comparison",
    "EnsembleResult",
    "Evaluation",
    "ExportResult",
    "ImageDataset",
    "LabelIssues",
    "Prediction",
    "Recipe",
    "Run",
    "TellapartError",
    "TuningResult",
    "audit_dataset",
    "compare",
    "cross_validate",
    "ensemble",
    "evaluate",
    "export",
    "find_label_issues",
    "learning_curve",
    "load",
    "load_dataset",
    "push",
    "summary",
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
        from tellapart.errors import MissingExtraError

        raise MissingExtraError(
            f"tellapart.{name} needs the package '{absent}', which is not installed: run "
            f"`pip install 'tellapart[{'export' if name == 'export' else _EXTRAS[absent]}]'`."
        ) from error


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
