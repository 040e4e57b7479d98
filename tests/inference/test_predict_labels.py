"""Labels of several images, for the metrics of scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, classification_report

from folders import QUICK
from tellapart.errors import ImageInputError
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(n_class=3, return_X_y=True)
    return (images.reshape(-1, 8, 8) * 15).astype(np.uint8), labels


@pytest.mark.parametrize("kind", ["integers", "words", "padded"])
def test_reports_of_scikit_learn_take_the_labels(digits, tmp_path, kind):
    images, labels = digits
    if kind != "integers":
        labels = np.array([f"digit {label}" if kind == "words" else f"{label:02}" for label in labels])
    classifier = train((images, labels), out=tmp_path / "run", **QUICK).classifier
    predicted = classifier.predict_labels(images)
    assert predicted.dtype.kind == labels.dtype.kind
    report = classification_report(labels, predicted, output_dict=True, zero_division=0)
    names = [classifier.predict(image).label for image in images[:20]]
    assert [str(label) for label in predicted[:20]] == names
    assert report["accuracy"] == accuracy_score(labels, predicted)


def test_several_images_are_refused_by_predict(digits, tmp_path):
    images, labels = digits
    classifier = train((images, labels), out=tmp_path / "run", **QUICK).classifier
    for several in (list(images[:3]), np.zeros((3, 8, 8, 3), np.uint8)):
        with pytest.raises(ImageInputError, match="predict_many"):
            classifier.predict(several)
