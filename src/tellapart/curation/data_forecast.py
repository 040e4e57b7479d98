"""`learning_curve(source) -> DataForecast`: a forecast of how much more training images would help."""

from dataclasses import dataclass
from typing import Any

from tellapart.curation.feature_extractors import candidate_features
from tellapart.curation.learning_curve import LearningCurve, fit_learning_curve, has_too_few
from tellapart.data.audit import audit_dataset
from tellapart.data.independence import units_of
from tellapart.data.sources import Source, load_dataset
from tellapart.data.split import make_splits
from tellapart.errors import SplitError
from tellapart.progress import Progress, default_progress
from tellapart.recipe.sections import DataRecipe


@dataclass(frozen=True)
class DataForecast:
    """The learning curve of a source, on the features with which a linear classifier is most accurate."""

    source: str
    features: str
    curve: LearningCurve

    def to_json(self) -> dict[str, Any]:
        """Return the object that `learning-curve --json` prints."""
        return {"source": self.source, "features": self.features, **self.curve.to_json()}


def learning_curve(
    source: Source, seed: int = 0, progress: Progress | None = None, *, near_duplicates: str = "group"
) -> DataForecast:
    """Return the accuracy by number of training images, and a forecast for more of them.

    Only linear classifiers on frozen features are trained, on subsets of the training split that `train` makes. They
    are evaluated on its validation split; the test split is not used. A fully trained network is more accurate, and
    usually gains a little more from further images. near_duplicates: as for `audit_dataset`.

    Raises `SplitError` if there are too few images for a curve, and what `load_dataset` and `audit_dataset` raise.
    """
    progress = progress or default_progress()
    dataset = load_dataset(source, progress)
    if has_too_few(dataset.labels, len(dataset), None):
        raise _too_few(dataset.title, f"{len(dataset)} images of {len(dataset.classes)} classes")
    audit = audit_dataset(dataset, progress, near_duplicates=near_duplicates)
    splits, labels = make_splits(audit, DataRecipe(), seed), dataset.labels
    train, validation = splits.train, splits.validation
    sizes = f"{len(train)} training and {len(validation)} validation images of {len(dataset.classes)} classes"
    if has_too_few(labels[train], len(validation), units_of(audit, validation)):
        raise _too_few(dataset.title, sizes)
    best: DataForecast | None = None
    for extractor in candidate_features(audit, progress):
        curve = fit_learning_curve(
            extractor.extract(train),
            labels[train],
            extractor.extract(validation),
            labels[validation],
            seed,
            units_of(audit, validation),
        )
        if curve is not None and (best is None or curve.accuracies[-1] > best.curve.accuracies[-1]):
            best = DataForecast(audit.dataset.title, extractor.name, curve)
    if best is None:
        raise _too_few(dataset.title, sizes)
    return best


def _too_few(title: str, found: str) -> SplitError:
    return SplitError(
        f"{title} has {found}, too few for a learning curve: collect at least 10 training images per class, and 20 "
        "validation images of two groups."
    )
