"""`find_label_issues(source) -> LabelIssues`: likely label errors, ambiguous classes and outliers.

Letters: N rows of the dataset, J of them scored, K classes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tellapart.curation.confident_learning import AmbiguousPair, LabelErrors, ambiguous_pairs, find_label_errors
from tellapart.curation.feature_extractors import FeatureExtractor, candidate_features
from tellapart.curation.kernel_classifier import Folds, KernelSettings, choose_settings, cross_validate
from tellapart.data.audit import Audit, audit_dataset
from tellapart.data.batching import batch_slices
from tellapart.data.dataset import ImageDataset
from tellapart.data.independence import independent_units
from tellapart.data.sources import Source, load_dataset
from tellapart.data.split import make_folds
from tellapart.data.written_manifests import check_manifest_path, manifest_record, save_manifest
from tellapart.errors import LabelIssuesError
from tellapart.progress import Event, Progress, default_progress
from tellapart.uncertainty.ood import fit_ood_detector

_FOLDS = 5
_CONTENT = "corrected labels"
_SAMPLE = 600  # rows that the features are chosen on
_FENCE = 3.0  # interquartile ranges
_BLOCK = 1024
ERROR, LABEL_CONFLICT, OUTLIER, ALONE, UNREADABLE = "error", "label_conflict", "outlier", "alone", "unreadable"


@dataclass(frozen=True)
class LabelIssues:
    """Label issues of a dataset.

    rows: (J,) rows scored, in the order of the dataset. probabilities: (J, K) out of sample. errors: label errors
    estimated from them. is_outlier: (J,) whether an image is unlike all others. alone: rows not scored, because their
    class has no second independent image. ambiguous: pairs of classes. features: name of the features used.
    """

    audit: Audit
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    errors: LabelErrors
    is_outlier: NDArray[np.bool_]
    alone: NDArray[np.int64]
    ambiguous: tuple[AmbiguousPair, ...]
    features: str

    def __repr__(self) -> str:
        n_errors = int(self.errors.wrong.sum())
        return f"<LabelIssues of {self.dataset.title}: {n_errors:,} of {len(self.rows):,} labels are likely wrong>"

    @property
    def dataset(self) -> ImageDataset:
        """The dataset."""
        return self.audit.dataset

    @property
    def unreadable(self) -> int:
        """The number of unreadable images."""
        return len(self.audit.unreadable)

    @property
    def possible_errors(self) -> list[dict[str, Any]]:
        """The entries of labels that differ from the suggestion and are not likely wrong, most suspicious first.

        With few images of a class, a wrong label is hard to tell from an unusual image.
        """
        return [entry for entry in self.of_kind("", OUTLIER) if entry["suggested"] != entry["label"]]

    @cached_property
    def table(self) -> list[dict[str, Any]]:
        """One entry per row of the dataset, most suspicious first.

        Keys: "row"; "label"; "suggested", the most probable class, and its "probability"; "kind": `error` (the label is
        likely wrong), `label_conflict` (the same pixels have two labels), `outlier` (unlike all other images), `alone`
        or `unreadable` (not scored, nothing is suggested), or "" if there is no issue. Errors and label conflicts come
        first, then outliers, then all other scored rows, each in the order of suspicion; rows not scored come last.
        """
        scored = [self._entry(index) for index in self.errors.ranking.tolist()]
        scored.sort(key=lambda entry: (entry["kind"] not in (ERROR, LABEL_CONFLICT), entry["kind"] != OUTLIER))
        not_scored = [(row, ALONE) for row in self.alone.tolist()]
        not_scored += [(row, UNREADABLE) for row, _ in self.audit.unreadable]
        return scored + [self._empty_entry(row, kind) for row, kind in not_scored]

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the entries of the table with one of these kinds, each with its "path"."""
        name = self.dataset.images.name
        return [{"path": name(entry["row"])} | entry for entry in self.table if entry["kind"] in kinds]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `label-issues --json` prints: everything but the rows without an issue."""
        classes, name = self.dataset.classes, self.dataset.images.name
        return {
            "source": self.dataset.title,
            "images": len(self.dataset),
            "scored": len(self.rows),
            "features": self.features,
            "estimated_noise": round(self.errors.noise, 5),
            "errors": self.of_kind(ERROR),
            "possible_errors": self.possible_errors,
            "label_conflicts": self.of_kind(LABEL_CONFLICT),
            "outliers": self.of_kind(OUTLIER),
            "ambiguous": [
                {"classes": [classes[p.first], classes[p.second]], "ambiguous": p.ambiguous, "images": p.images}
                for p in self.ambiguous
            ],
            "alone": self.of_kind(ALONE),
            "unreadable": [{"path": name(row), "reason": reason} for row, reason in self.audit.unreadable],
        }

    def save(self, path: str | Path) -> None:
        """Write all rows as a manifest to correct and train with; image paths are relative to it.

        Raises `SaveError` if the images are not files, or if the file exists or cannot be written.
        """
        path = Path(path)
        check_manifest_path(self.dataset, path, _CONTENT)
        save_manifest(path, self.dataset, [self._record(entry, path.parent) for entry in self.table])

    def _record(self, entry: dict[str, Any], folder: Path) -> dict[str, str]:
        return manifest_record(self.dataset, entry["row"], folder) | {
            "suggested": entry["suggested"] or "",
            "probability": "" if entry["probability"] is None else f"{entry['probability']:.4f}",
            "kind": entry["kind"],
        }

    def _entry(self, index: int) -> dict[str, Any]:
        row, suggested = int(self.rows[index]), int(self.errors.suggested[index])
        kind = OUTLIER if self.is_outlier[index] else ""
        kind = ERROR if self.errors.wrong[index] else kind
        return {
            "row": row,
            "label": self.dataset.label_name(row),
            "suggested": self.dataset.classes[suggested],
            "probability": round(float(self.probabilities[index, suggested]), 4),
            "kind": LABEL_CONFLICT if row in self._conflicting_rows else kind,
        }

    def _empty_entry(self, row: int, kind: str) -> dict[str, Any]:
        label = self.dataset.label_name(row)
        return {"row": row, "label": label, "suggested": None, "probability": None, "kind": kind}

    @cached_property
    def _conflicting_rows(self) -> set[int]:
        return {row for group in self.audit.label_conflicts for row in group}


def find_label_issues(
    source: Source,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    near_duplicates: str = "group",
) -> LabelIssues:
    """Find likely label errors, classes that are hard to distinguish, and outliers.

    source: as for `load_dataset`; a given split is ignored. out: path of a manifest to write, as `LabelIssues.save`
    does; it is checked before the images are read. seed: of the folds and of other random choices.
    near_duplicates: as for `audit_dataset`.

    Features that need no training are chosen by cross-validated log loss. Each image is scored by a classifier on
    these features that was fitted on neither the image, nor a duplicate of it, nor an image of its group.

    Raises `LabelIssuesError` if fewer than two classes have two independent images, and what `load_dataset` and
    `LabelIssues.save` raise.
    """
    progress = progress or default_progress()
    dataset = load_dataset(source, progress)
    if out is not None:
        check_manifest_path(dataset, Path(out), _CONTENT)
    issues = _score_labels(audit_dataset(dataset, progress, near_duplicates=near_duplicates), seed, progress)
    if out is not None:
        issues.save(out)
    return issues


def _score_labels(audit: Audit, seed: int, progress: Progress) -> LabelIssues:
    labels = audit.dataset.labels
    rows, alone = _scorable_rows(audit)
    classes, fold_labels = np.unique(labels[rows], return_inverse=True)
    folds = Folds(fold_labels.astype(np.int64), make_folds(audit, rows, _FOLDS, seed), len(classes))
    features, settings, name = _choose_features(candidate_features(audit, progress), rows, folds, seed)
    progress.report(Event.FEATURES_CHOSEN, f"Scoring {len(rows)} labels with a classifier on {name}.", features=name)
    probabilities = np.zeros((len(rows), len(audit.dataset.classes)), np.float32)
    probabilities[:, classes] = cross_validate(features, folds, settings, seed)
    with threadpool_limits(1, "blas"):  # as in `cross_validate`: more threads are slower on a busy machine
        is_outlier = _find_outliers(features, folds)
    return LabelIssues(
        audit=audit,
        rows=rows,
        probabilities=probabilities,
        errors=find_label_errors(probabilities, labels[rows]),
        is_outlier=is_outlier,
        alone=alone,
        ambiguous=ambiguous_pairs(probabilities, labels[rows]),
        features=name,
    )


def _scorable_rows(audit: Audit) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the readable rows of classes with at least two independent images, and those of all other classes."""
    rows, labels = audit.readable_rows, audit.dataset.labels
    pairs = np.unique(np.stack([labels[rows], independent_units(audit)[rows]]), axis=1)
    is_scorable = np.bincount(pairs[0], minlength=len(audit.dataset.classes)) > 1  # K
    if is_scorable.sum() < 2:
        raise LabelIssuesError(
            f"{audit.dataset.title} has {is_scorable.sum()} classes with two independent images (readable, not "
            "duplicates, not of one group), expected at least 2: add images, or take near duplicates for different "
            "images with --near-duplicates ignore."
        )
    return rows[is_scorable[labels[rows]]], rows[~is_scorable[labels[rows]]]


def _choose_features(
    extractors: list[FeatureExtractor], rows: NDArray[np.int64], folds: Folds, seed: int
) -> tuple[NDArray[np.float32], KernelSettings, str]:
    """Return the features (J, F) of rows (J,) with the lowest log loss on a sample, settings and the features' name."""
    sample = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_SAMPLE])
    candidates = []
    for extractor in extractors:
        features = extractor.extract(rows[sample])
        candidates.append((*choose_settings(features, folds.subset(sample), seed), extractor, features))
    settings, _, best, sample_features = min(candidates, key=lambda candidate: candidate[1])
    features, remaining = np.zeros((len(rows), sample_features.shape[1]), np.float32), np.ones(len(rows), bool)
    features[sample], remaining[sample] = sample_features, False
    if remaining.any():
        features[remaining] = best.extract(rows[remaining])
    return features, settings, best.name


def _find_outliers(features: NDArray[np.float32], folds: Folds) -> NDArray[np.bool_]:
    """Return which rows (J,) are far from all classes of the other folds.

    The limit is the outer fence of Tukey 1977, "Exploratory data analysis", chapter 2, on the logarithms of the
    distances: three interquartile ranges above the upper quartile.
    """
    distances = np.zeros(len(features))
    for number in np.unique(folds.numbers):
        inside = np.flatnonzero(folds.numbers == number)
        outside = folds.numbers != number
        detector = fit_ood_detector(features[outside], folds.labels[outside], features[inside[:_BLOCK]], 0.01)
        for block in batch_slices(len(inside), _BLOCK):
            distances[inside[block]] = detector.distances(features[inside[block]])
    logarithms = np.log(distances.clip(1e-12))
    lower, upper = np.quantile(logarithms, [0.25, 0.75])
    is_outlier: NDArray[np.bool_] = logarithms > upper + _FENCE * (upper - lower)
    return is_outlier
