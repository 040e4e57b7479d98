"""A classifier file as MLflow's `pyfunc` model: what `mlflow.pyfunc.load_model` and `mlflow models serve` load."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from tellapart.classifier.classifier import load_file
from tellapart.data.image import decode
from tellapart.errors import WrongInput
from tellapart.inference.predictor import Predictor


class Model:
    """Takes a table with the column `image`: the bytes of a picture's file, or the same in base64."""

    def __init__(self, classifier: Predictor) -> None:
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Return the label, its probability, the possible classes (separated by |), and whether it is familiar.

        Raises `WrongInput` if there is no column `image`, and `UnreadableImage` for one that is no picture.
        """
        if not isinstance(model_input, pd.DataFrame) or "image" not in model_input.columns:
            raise WrongInput("Expected a table with the column 'image': the bytes of each picture's file, or base64.")
        pictures = [decode(_bytes(content)) for content in model_input["image"]]
        rows = []
        for found in self.classifier.predict_many(pictures):
            told = found.to_json()
            inside = None if told["set"] is None else "|".join(told["set"])
            rows.append((told["label"], told["probability"], inside, told["familiar"]))
        return pd.DataFrame(rows, columns=["label", "probability", "set", "familiar"], index=model_input.index)


def _bytes(content: bytes | str) -> bytes:
    return base64.b64decode(content) if isinstance(content, str) else bytes(content)


def _load_pyfunc(path: str) -> Model:
    """Return the model in a file: the function that MLflow calls."""
    return Model(load_file(Path(path)))
