"""`audit_labels(source) -> LabelAudit`: which labels are probably wrong, by a classifier on frozen features.

Letters: N rows of the source, J of them judged, K classes.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tellapart.curation.confident_learning import AmbiguousPair, LabelErrors, ambiguous_pairs, find_label_errors
from tellapart.curation.features import FeatureSet, feature_sets
from tellapart.curation.kernel_classifier import Folds, KernelSettings, choose_settings, cross_validate
from tellapart.data.audit import Audit, audit
from tellapart.data.batching import blocks
from tellapart.data.dataset import PARTS, Files, Samples
from tellapart.data.manifest import JUDGEMENT, write_manifest
from tellapart.data.sources import Source, load_source
from tellapart.data.split import independent_units, make_folds, reference
from tellapart.errors import CannotAuditLabels, CannotSave, printable
from tellapart.io.atomic import cannot_save, refuse_unwritable
from tellapart.progress import Event, Progress, progress_for_viewers
from tellapart.uncertainty.ood import fit_familiarity

_FOLDS = 5
_TRIED = 600  # rows that the features are chosen by
_FENCE = 3.0  # interquartile ranges
_BLOCK = 1024
ERROR, CONTRADICTION, OUTLIER, ALONE, UNREADABLE = "error", "contradiction", "outlier", "alone", "unreadable"


@dataclass(frozen=True)
class LabelAudit:
    """What was found.

    rows: (J,) rows judged, in the order of the source. probabilities: (J, K) out of sample. errors: what they say of
    the labels. outlying: (J,) whether a picture is unlike all others. alone: rows of classes with too few independent
    pictures to be judged. ambiguous: pairs of classes. features: what the pictures were judged by.
    """

    found: Audit
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    errors: LabelErrors
    outlying: NDArray[np.bool_]
    alone: NDArray[np.int64]
    ambiguous: tuple[AmbiguousPair, ...]
    features: str

    def __repr__(self) -> str:
        wrong = int(self.errors.wrong.sum())
        return f"<LabelAudit of {self.samples.title}: {wrong:,} of {len(self.rows):,} labels are probably wrong>"

    @property
    def samples(self) -> Samples:
        """The source."""
        return self.found.samples

    @property
    def unreadable(self) -> int:
        """How many pictures cannot be read."""
        return len(self.found.unreadable)

    @cached_property
    def table(self) -> list[dict[str, Any]]:
        """One entry for each row of the source, the most suspicious first.

        "row" of the source; "label"; "suggested", the most probable class, and its "probability"; and "kind": `error`
        (the label is probably wrong), `contradiction` (the same pixels stand under two labels), `outlier` (unlike
        all other pictures), `alone` or `unreadable` (not judged, so nothing is suggested), or "" where nothing is
        wrong. Errors and contradictions come first, then outliers, both in the order of suspicion; then the rest.
        """
        judged = [self._entry(place) for place in self.errors.ranking.tolist()]
        judged.sort(key=lambda entry: (entry["kind"] not in (ERROR, CONTRADICTION), entry["kind"] != OUTLIER))
        rest = [(row, ALONE) for row in self.alone.tolist()] + [(row, UNREADABLE) for row, _ in self.found.unreadable]
        return judged + [self._blank(row, kind) for row, kind in rest]

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the entries of the table of some kinds, with "path", for people and programs."""
        name = self.samples.pictures.name
        return [{"path": name(entry["row"])} | entry for entry in self.table if entry["kind"] in kinds]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the rows that nothing is wrong with."""
        names = self.samples.classes
        return {
            "source": self.samples.title,
            "pictures": len(self.samples),
            "judged": len(self.rows),
            "features": self.features,
            "estimated_noise": round(self.errors.noise, 5),
            "errors": self.of_kind(ERROR),
            "contradictions": self.of_kind(CONTRADICTION),
            "outliers": self.of_kind(OUTLIER),
            "ambiguous": [
                {"classes": [names[p.first], names[p.second]], "undecided": p.undecided, "pictures": p.pictures}
                for p in self.ambiguous
            ],
            "alone": self.of_kind(ALONE),
            "unreadable": [
                {"path": self.samples.pictures.name(row), "reason": reason} for row, reason in self.found.unreadable
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write all rows as a manifest that `train` takes after labels were mended; paths are relative to it.

        Raises `CannotAuditLabels` if the pictures are in no files, `CannotSave` if there is a file already.
        """
        _check_out(self.samples, Path(path))
        part, group = self.samples.has_preset, self.samples.groups is not None
        further = [name for name in self.samples.columns if name not in JUDGEMENT]
        columns = ["path", "label", *["group"] * group, *["split"] * part, *further, *JUDGEMENT]
        rows = [self._record(entry, Path(path).parent) for entry in self.table]
        unfinished = Path(path).with_name(f".{Path(path).name}.part")
        try:
            write_manifest(unfinished, [{name: row[name] for name in columns} for row in rows], columns)
            os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise cannot_save(Path(path), error) from error

    def _record(self, entry: dict[str, Any], folder: Path) -> dict[str, str]:
        samples, row = self.samples, entry["row"]
        return {
            **{name: values[row] for name, values in samples.columns.items()},
            "path": reference(samples, row, folder),
            "label": entry["label"],
            "group": "" if samples.groups is None else samples.group_names[samples.groups[row]],
            "split": PARTS[samples.preset[row]],
            "suggested": entry["suggested"] or "",
            "probability": "" if entry["probability"] is None else f"{entry['probability']:.4f}",
            "kind": entry["kind"],
        }

    def _entry(self, place: int) -> dict[str, Any]:
        row, suggested = int(self.rows[place]), int(self.errors.suggested[place])
        kind = OUTLIER if self.outlying[place] else ""
        kind = ERROR if self.errors.wrong[place] else kind
        return {
            "row": row,
            "label": self.samples.label_name(row),
            "suggested": self.samples.classes[suggested],
            "probability": round(float(self.probabilities[place, suggested]), 4),
            "kind": CONTRADICTION if row in self._contradictory else kind,
        }

    def _blank(self, row: int, kind: str) -> dict[str, Any]:
        label = self.samples.label_name(row)
        return {"row": row, "label": label, "suggested": None, "probability": None, "kind": kind}

    @cached_property
    def _contradictory(self) -> set[int]:
        return {row for group in self.found.conflicts for row in group}


def audit_labels(
    source: Source, *, out: str | Path | None = None, seed: int = 0, progress: Progress | None = None
) -> LabelAudit:
    """Look for labels that are probably wrong, classes that are hard to tell apart, and pictures unlike all others.

    source: as for `load_source`; its split is not looked at. out: a manifest to write, as `LabelAudit.save` does; that
    it can be written is checked before the pictures are read. seed: of the folds and of other draws.

    Features that need no training are chosen by cross-validated log loss, and each picture is judged by a classifier
    on those that has seen neither the picture, nor a duplicate, nor one of its group.

    Raises `CannotAuditLabels` if fewer than two classes have two independent pictures, or what `load_source` and
    `LabelAudit.save` raise.
    """
    said = progress or progress_for_viewers()
    samples = load_source(source, said)
    if out is not None:
        _check_out(samples, Path(out))
    found = _audit(audit(samples, said), seed, said)
    if out is not None:
        found.save(out)
    return found


def _audit(found: Audit, seed: int, said: Progress) -> LabelAudit:
    samples = found.samples
    rows, alone = _judged(found)
    classes, labels = np.unique(samples.labels[rows], return_inverse=True)
    folds = Folds(labels.astype(np.int64), make_folds(found, rows, _FOLDS, seed), len(classes))
    some = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_TRIED])
    chosen, settings, seen = _choose(feature_sets(found, said), rows[some], folds.some(some), seed)
    said.report(
        Event.FEATURES_CHOSEN,
        f"Judging {len(rows)} pictures by {chosen.name}, the best of what was tried (cross-validated log loss).",
        features=chosen.name,
    )
    features, rest = np.zeros((len(rows), seen.shape[1]), np.float32), np.ones(len(rows), bool)
    features[some], rest[some] = seen, False
    if rest.any():
        features[rest] = chosen.of_rows(rows[rest])
    probabilities = np.zeros((len(rows), len(samples.classes)), np.float32)
    probabilities[:, classes] = cross_validate(features, folds, settings, seed)
    with threadpool_limits(1, "blas"):  # as in `cross_validate`: on a busy machine more would wait for each other
        outlying = _outlying(features, folds)
    given = samples.labels[rows]
    return LabelAudit(
        found,
        rows,
        probabilities,
        find_label_errors(probabilities, given),
        outlying,
        alone,
        ambiguous_pairs(probabilities, given),
        chosen.name,
    )


def _check_out(samples: Samples, path: Path) -> None:
    """Raise `CannotAuditLabels` or `CannotSave` if no manifest of these pictures can be written to `path`."""
    name = printable(str(path))
    if not isinstance(samples.pictures, Files):
        raise CannotAuditLabels(
            f"The pictures of {samples.title} are not in files of their own, and a manifest names files: write none, "
            "and mend the array of labels by the row numbers in the JSON output."
        )
    if path.suffix.lower() != ".csv":
        raise CannotSave(f"Cannot write {name}: expected a name that ends in .csv, by which `train` knows a manifest.")
    refuse_unwritable(path, "it may hold mended labels")


def _judged(found: Audit) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the readable rows that can be judged, and those of classes with a single independent picture."""
    rows, labels = found.readable, found.samples.labels
    pairs = np.unique(np.stack([labels[rows], independent_units(found)[rows]]), axis=1)
    enough = np.bincount(pairs[0], minlength=len(found.samples.classes)) > 1  # K
    if enough.sum() < 2:
        raise CannotAuditLabels(
            f"{found.samples.title} has {enough.sum()} classes with two independent pictures (readable, not copies, "
            "not of one group): expected at least two classes; add pictures."
        )
    return rows[enough[labels[rows]]], rows[~enough[labels[rows]]]


def _choose(
    sets: list[FeatureSet], rows: NDArray[np.int64], folds: Folds, seed: int
) -> tuple[FeatureSet, KernelSettings, NDArray[np.float32]]:
    """Return what has the least log loss on rows (n,): the way to see them, the classifier's settings, the features."""
    tried = []
    for one in sets:
        features = one.of_rows(rows)
        tried.append((*choose_settings(features, folds, seed), one, features))
    settings, _, chosen, features = min(tried, key=lambda each: each[1])
    return chosen, settings, features


def _outlying(features: NDArray[np.float32], folds: Folds) -> NDArray[np.bool_]:
    """Return which rows (J,) lie far from all classes as the other folds show them.

    Far is beyond the outer fence of Tukey 1977, "Exploratory data analysis", chapter 2: three interquartile ranges
    above the upper quartile, of the logarithms of distances.
    """
    distances = np.zeros(len(features))
    for number in np.unique(folds.numbers):
        inside = np.flatnonzero(folds.numbers == number)
        outside = folds.numbers != number
        known = fit_familiarity(features[outside], folds.labels[outside], features[inside[:_BLOCK]], share=0.01)
        for block in blocks(len(inside), _BLOCK):
            distances[inside[block]] = known.distances(features[inside[block]])
    logarithms = np.log(distances.clip(1e-12))
    lower, upper = np.quantile(logarithms, [0.25, 0.75])
    far: NDArray[np.bool_] = logarithms > upper + _FENCE * (upper - lower)
    return far
