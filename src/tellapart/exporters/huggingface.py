"""`push(run, repository)`: a run's classifier on the Hugging Face Hub, with a model card made from its report."""

import json
import os
from pathlib import Path
from typing import Any

from tellapart.classifier.classifier import load_file
from tellapart.errors import BadCheckpoint, printable
from tellapart.evaluation.report.templates import templates
from tellapart.io.hub import MODEL, upload
from tellapart.optional import require
from tellapart.progress import Event, Progress

_SHOWN = 50  # classes in the card's table


def push(
    run: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    license: str | None = None,
    report: bool = False,
    progress: Progress | None = None,
) -> str:
    """Send a run to the Hub, in one commit, and return its address.

    run: the folder. repository: OWNER/NAME, made if there is none. private: seen by its owner alone. license: as the
    Hub names it, "mit" or "apache-2.0". report: also report.html, which shows some of your pictures. Sent are the
    classifier, its card, metrics.json, recipe.toml, and the exported model.onnx where there is one; no picture, and no
    name of one. Raises `HubFailed`, `BadCheckpoint` for a folder that is no run, or `MissingExtra`.
    """
    folder, said = Path(run), progress or Progress()
    files: dict[str, bytes | Path] = {"README.md": model_card(folder, repository, license).encode()}
    optional = ["model.onnx"] + (["report.html"] if report else [])
    for name in (MODEL, "metrics.json", "recipe.toml", *(name for name in optional if (folder / name).is_file())):
        files[name] = folder / name
    said.report(Event.UPLOAD_START, f"Sending {', '.join(files)} to {repository} on the Hugging Face Hub.")
    return upload(repository, files, "Add the classifier, with what its test has shown", private)


def model_card(run: Path, repository: str, license: str | None = None) -> str:
    """Return the model card of a run: what it tells apart, how well, on what, and how to use it.

    Raises `BadCheckpoint` for a folder that is no run.
    """
    library = require("huggingface_hub", "hub")
    try:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(
            f"{printable(str(run))} is not a finished run: expected its folder, with {MODEL} and report.json."
        ) from error
    classifier = load_file(run / MODEL)
    test, name = report["metrics"]["test"], repository.rpartition("/")[2]
    results = [
        library.EvalResult(
            "image-classification", "imagefolder", report["title"], kind, round(value, 4), metric_name=title
        )
        for kind, title, value in (
            ("accuracy", "accuracy", test["accuracy"]["value"]),
            ("f1", "macro F1", test["macro_f1"]["value"]),
        )
    ]
    data = library.ModelCardData(
        license=license,
        library_name="tellapart",
        pipeline_tag="image-classification",
        tags=["tellapart", "image-classification"],
        model_name=name,
        eval_results=results,
    )
    weakest = sorted(test["classes"].items(), key=lambda item: item[1]["recall"]["value"])
    return f"---\n{data.to_yaml()}\n---\n" + templates().get_template("card.md").render(
        name=name,
        repository=repository,
        report=report,
        test=test,
        architecture=classifier.architecture.name,
        size=classifier.preprocess.size,
        classes=[_plain(label) for label in classifier.classes],
        weakest=[(_plain(label), figures) for label, figures in weakest[:_SHOWN]],
        sets=classifier.sets,
        versions=classifier.facts.get("versions", {}),
        pretrained=bool(classifier.facts.get("recipe", {}).get("pretrained")),
    )


def _plain(label: str) -> Any:
    """Return a label that is no Markdown."""
    return "".join("\\" + letter if letter in "\\`*_{}[]()#+-.!|<>~" else letter for letter in label)
