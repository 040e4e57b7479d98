"""`more_pictures(source) -> MorePictures`: whether collecting more would help, before anything is trained."""

from dataclasses import dataclass
from typing import Any

from tellapart.curation.features import feature_sets
from tellapart.curation.learning_curve import LearningCurve, learning_curve
from tellapart.data.audit import audit
from tellapart.data.sources import Source, load_source
from tellapart.data.split import make_splits
from tellapart.errors import CannotSplit
from tellapart.progress import Progress, progress_for_viewers
from tellapart.recipe import DataRecipe


@dataclass(frozen=True)
class MorePictures:
    """The learning curve of a source, by the features under which a linear classifier does best on it."""

    source: str
    features: str
    curve: LearningCurve

    def to_json(self) -> dict[str, Any]:
        """Return what `curve --json` prints."""
        return {"source": self.source, "features": self.features, **self.curve.to_json()}


def more_pictures(source: Source, seed: int = 0, progress: Progress | None = None) -> MorePictures:
    """Return how accuracy rises with the number of training pictures, and what more of them would bring.

    Nothing is trained but linear classifiers on frozen features, on growing parts of the training pictures of the
    split that `train` makes; they are judged on its validation pictures, and the test pictures are not touched. A
    network that is trained to the end does better, and usually gains a little more.

    Raises `CannotSplit` where the pictures are too few for a curve, or what `load_source` and `audit` raise.
    """
    said = progress or progress_for_viewers()
    found = audit(load_source(source, said), said)
    splits, labels = make_splits(found, DataRecipe(), seed), found.samples.labels
    train, validation = splits.train, splits.validation
    best: MorePictures | None = None
    for features in feature_sets(found, said):
        curve = learning_curve(
            features.of_rows(train), labels[train], features.of_rows(validation), labels[validation], seed
        )
        if curve is not None and (best is None or curve.accuracies[-1] > best.curve.accuracies[-1]):
            best = MorePictures(found.samples.title, features.name, curve)
    if best is None:
        raise CannotSplit(
            f"{found.samples.title} has {len(train)} training and {len(validation)} validation pictures, too few for a "
            "learning curve: collect more in any case."
        )
    return best
