"""`push(run, repository)`: upload a run's classifier to the Hugging Face Hub, with a model card from its report."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tellapart.classifier.golden_images import GoldenImages
from tellapart.classifier.load import load_classifier_file
from tellapart.errors import CheckpointError, printable
from tellapart.evaluation.report.templates import templates
from tellapart.io.hub import upload
from tellapart.io.run_directory import RunDirectory
from tellapart.optional import require
from tellapart.progress import Event, Progress

_MAX_CLASSES = 50  # in the card's table


def push(
    run: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    license: str | None = None,
    report: bool = False,
    progress: Progress | None = None,
) -> str:
    """Upload a run to the Hugging Face Hub in one commit, and return its URL.

    run: the run directory. repository: OWNER/NAME, created if needed. private: make a new repository private. license:
    an identifier of the Hub, such as "mit" or "apache-2.0". report: also upload report.html, which contains some of
    your images. Uploaded are the classifier without the test images in its file, its model card, metrics.json,
    recipe.toml and, if it exists, model.onnx; no image and no image name. Raises `HubError`, `CheckpointError` if the
    folder is not a run, or `MissingExtraError`.
    """
    folder, progress = Path(run), progress or Progress()
    files: dict[str, bytes | Path] = {"README.md": render_model_card(folder, repository, license).encode()}
    run_files = RunDirectory(folder)
    optional = [run_files.onnx] + ([run_files.report] if report else [])
    for path in (run_files.metrics, run_files.recipe, *filter(Path.is_file, optional)):
        files[path.name] = path
    classifier = load_classifier_file(run_files.classifier)
    files[run_files.classifier.name] = replace(classifier, golden=GoldenImages()).to_bytes()
    progress.report(
        Event.UPLOAD_START,
        f"Uploading {', '.join(files)} to {repository} on the Hugging Face Hub.",
        files=list(files),
        repository=repository,
    )
    return upload(repository, files, "Add the classifier and its test metrics", private)


def render_model_card(run: Path, repository: str, license: str | None = None) -> str:
    """Return the model card of a run: classes, test metrics, data and usage.

    Raises `CheckpointError` if the folder is not a run.
    """
    files = RunDirectory(run)
    try:
        report = json.loads(files.report_json.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{printable(str(run))} is not a finished run: expected a run directory with {files.classifier.name} and "
            f"{files.report_json.name}."
        ) from error
    classifier = load_classifier_file(files.classifier)
    test, name = report["metrics"]["test"], repository.rpartition("/")[2]
    weakest = sorted(test["classes"].items(), key=lambda item: item[1]["recall"]["value"])
    card = (
        templates()
        .get_template("card.md")
        .render(
            name=name,
            repository=repository,
            report=report,
            test=test,
            architecture=classifier.architecture.name,
            size=classifier.preprocess.size,
            classes=[_escape_markdown(label) for label in classifier.classes],
            weakest=[(_escape_markdown(label), metrics) for label, metrics in weakest[:_MAX_CLASSES]],
            conformal=classifier.conformal,
            detects_ood=classifier.ood_detector is not None,
            versions=classifier.metadata.get("versions", {}),
            pretrained=bool(classifier.metadata.get("recipe", {}).get("model", {}).get("pretrained")),
        )
    )
    return f"---\n{_card_metadata(report, name, license)}\n---\n{card}"


def _card_metadata(report: dict[str, Any], name: str, license: str | None) -> str:
    """Return the card's YAML header."""
    library = require("huggingface_hub", "hub")
    test = report["metrics"]["test"]
    results = [
        library.EvalResult(
            "image-classification",
            "imagefolder",
            report["title"],
            kind,
            round(test[key]["value"], 4),
            metric_name=title,
        )
        for kind, key, title in (("accuracy", "accuracy", "accuracy"), ("f1", "macro_f1", "macro F1"))
    ]
    data = library.ModelCardData(
        license=license,
        library_name="tellapart",
        pipeline_tag="image-classification",
        tags=["tellapart", "image-classification"],
        model_name=name,
        eval_results=results,
    )
    return str(data.to_yaml())


def _escape_markdown(label: str) -> str:
    return "".join("\\" + letter if letter in "\\`*_{}[]()#+-.!|<>~" else letter for letter in label)
