"""A classifier file as MLflow's `pyfunc` model, for `mlflow.pyfunc.load_model` and `mlflow models serve`."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from tellapart.classifier.load import load_classifier_file
from tellapart.data.image import decode
from tellapart.errors import InputShapeError
from tellapart.inference.base_predictor import Predictor

_COLUMNS = ("label", "probability", "prediction_set", "in_distribution")


class Model:
    """Predicts from a table with the column `image`: the bytes of each image file, or the same in base64."""

    def __init__(self, classifier: Predictor) -> None:
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Return the label, its probability, the prediction set (separated by |), and whether it is in distribution.

        Raises `InputShapeError` without a column `image`, and `UnreadableImageError` for bytes that are not an image.
        """
        if not isinstance(model_input, pd.DataFrame) or "image" not in model_input.columns:
            raise InputShapeError("Expected a table with the column 'image': the bytes of each image file, or base64.")
        images = [decode(_to_bytes(content)) for content in model_input["image"]]
        rows = [prediction.to_json() for prediction in self.classifier.predict_many(images)]
        for row in rows:
            if row["prediction_set"] is not None:
                row["prediction_set"] = "|".join(row["prediction_set"])
        return pd.DataFrame(
            [[row[name] for name in _COLUMNS] for row in rows], columns=list(_COLUMNS), index=model_input.index
        )


def _to_bytes(content: bytes | str) -> bytes:
    return base64.b64decode(content) if isinstance(content, str) else bytes(content)


def _load_pyfunc(path: str) -> Model:
    """Return the model in a file; MLflow calls this function by its name."""
    return Model(load_classifier_file(Path(path)))
