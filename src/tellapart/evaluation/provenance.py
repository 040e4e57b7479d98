"""What a run's folder tells of the pictures that its classifier was made from, and what a classifier's file tells.

Nothing is guessed: where neither tells, nothing is said.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data.audit import pixel_digest
from tellapart.data.dataset import PARTS, TEST, TRAIN, Files, Samples
from tellapart.data.sources import Source, load_source
from tellapart.data.split import read_splits
from tellapart.data.threads import map_in_order
from tellapart.errors import BadSource, CannotCompare
from tellapart.evaluation.dataset import Judged, Labelled
from tellapart.progress import Progress


def seen_in_training(model: Judged, data: Labelled) -> str | None:
    """Return a sentence if pictures that the classifier is judged on were in its training or validation part, or None.

    With the run's folder at hand pictures in files are compared byte by byte, and rows of arrays by their place in the
    same arrays; so a picture that was saved anew is not found. A classifier's file alone tells only whether it was made
    from a set with the very same pictures and labels. None also where none of this can tell.
    """
    same_set = model.classifier.facts.get("fingerprint") == data.found.fingerprint
    if model.run is None:
        return (
            f"{model.name} was made from a set of the very same pictures, and its file alone does not tell which it "
            "learned from: give its run's folder, or pictures that are new to it."
            if same_set
            else None
        )
    parts, pictures = read_splits(model.run / "split.csv"), data.found.samples.pictures
    learned = parts["train"] + parts["validation"]
    if isinstance(pictures, Files):
        seen = _same_files([pictures.path(row) for row in data.rows.tolist()], [model.run / name for name in learned])
    else:
        seen = len(set(data.names) & set(learned)) if same_set else 0
    if not seen:
        return None
    return (
        f"{seen} of the {len(data.rows)} pictures were in the training or validation part of {model.name}: its figures "
        "here are too good."
    )


def _same_files(judged: list[Path], learned: list[Path]) -> int:
    """Return how many of the files judged have the content of a file that was learned from; few need to be read."""
    sizes, learned_sizes = [_size(path) for path in judged], [_size(path) for path in learned]
    common = (set(sizes) & set(learned_sizes)) - {None}
    known = {_content(path) for path, size in zip(learned, learned_sizes, strict=True) if size in common}
    return sum(size in common and _content(path) in known for path, size in zip(judged, sizes, strict=True))


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:  # it is no longer there, or was never a file
        return None


def _content(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def tested_source(model: Judged, progress: Progress) -> Source:
    """Return the pictures of a run with their parts, so that its own test rows are judged.

    Raises `CannotCompare` if the model is no run's folder, or its pictures are no longer where they were.
    """
    if model.run is None:
        raise CannotCompare(
            f"{model.name} is not a run's folder, so its test pictures are not known: name pictures to judge on."
        )
    parts, title = read_splits(model.run / "split.csv"), str(model.classifier.facts.get("title"))
    if any(os.path.isfile(model.run / name) for name in parts["test"]):
        return model.run / "split.csv"
    try:
        samples = load_source(title, progress)
    except BadSource as error:
        raise CannotCompare(
            f"The test pictures of {model.name} are not where they were ({title}): name pictures to judge on."
        ) from error
    return _with_parts(samples, parts, model)


def _with_parts(samples: Samples, parts: dict[str, list[str]], model: Judged) -> Samples:
    """Return the samples with the parts that a run gave them; rows that it left out count as training."""
    place = {samples.pictures.name(row): row for row in range(len(samples))}
    preset = np.full(len(samples), TRAIN, np.int8)
    for part, names in enumerate(PARTS):
        unknown = [name for name in parts[names] if name not in place]
        if unknown:
            raise CannotCompare(
                f"{samples.title} no longer holds {unknown[0]}, a picture of {model.name}: name pictures to judge on."
            )
        preset[[place[name] for name in parts[names]]] = part
    return replace(samples, preset=preset)


def check_same_test(model: Judged, other: Judged, data: Labelled, progress: Progress) -> None:
    """Make sure that `other` was tested on `data`, the test pictures of `model`, by pixels and labels.

    Raises `CannotCompare` if not, or if arrays have changed since, or as `tested_source`.
    """
    rows_by_place = not isinstance(data.found.samples.pictures, Files)
    if rows_by_place and data.found.fingerprint != model.classifier.facts.get("fingerprint"):
        raise CannotCompare(
            f"The pictures of {data.found.samples.title} have changed since {model.name} was trained: give some "
            "by --on."
        )
    samples = load_source(tested_source(other, progress), progress)
    rows = np.flatnonzero(samples.preset == TEST)
    digests = map_in_order(lambda row: pixel_digest(samples.pictures.picture(row)), rows.tolist())
    theirs = set(_contents(samples, rows, digests))
    known = (data.found.digests[row].tobytes() for row in data.rows)
    ours = set(_contents(data.found.samples, data.rows, known))
    if ours != theirs:
        raise CannotCompare(
            f"{model.name} and {other.name} were tested on different pictures ({len(ours & theirs)} are in both test "
            f"parts, of {len(ours)} and {len(theirs)}): give pictures that neither was trained on by --on."
        )


def _contents(samples: Samples, rows: NDArray[np.int64], digests: Iterable[bytes]) -> Iterable[tuple[bytes, str]]:
    return ((digest, samples.label_name(int(row))) for row, digest in zip(rows, digests, strict=True))
