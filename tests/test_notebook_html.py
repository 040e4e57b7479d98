"""HTML for notebooks shows the right images, and escapes labels."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from folders import QUICK, digit_folder
from tellapart.data.builtin import load_digits
from tellapart.data.sources import load_dataset
from tellapart.inference.prediction import Prediction
from tellapart.pipeline.train import train


def images_in(html):
    """Return the images in HTML, decoded."""
    contents = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) for content in contents]


def is_same(displayed, image):
    """Return whether an image is the same, except for its size and JPEG compression."""
    small = np.asarray(Image.fromarray(displayed).resize(image.shape[1::-1], Image.Resampling.NEAREST))
    return np.abs(small.astype(int) - image).mean() < 12


def test_a_prediction_shows_its_image(tmp_path):
    folder = digit_folder(tmp_path / "digits", 3, 12)
    run = train(folder, out=tmp_path / "run", **QUICK, autotune=False)
    path = next((folder / "digit 2").iterdir())
    image = np.asarray(Image.open(path).convert("RGB"))
    for prediction in (run.classifier.predict(path), run.classifier.predict(image)):
        html = prediction._repr_html_()
        assert is_same(images_in(html)[0], image)
        assert all(f"{probability:.1%}" in html for _, probability in prediction.top)
    path.unlink()
    assert images_in(run.classifier.predict(image)._repr_html_())
    assert not images_in(
        Prediction(path=str(path), label="a", index=0, probability=1.0, top=(("a", 1.0),))._repr_html_()
    )
    html = run._repr_html_()
    assert f"{run.metrics['test']['accuracy']['value']:.1%}" in html
    assert "<svg" in html


def test_a_contact_sheet_shows_every_class():
    dataset = load_digits()
    html = dataset._repr_html_()
    captions = re.findall(r"<figcaption[^>]*>([^<]*)", html)
    assert sorted(set(captions)) == sorted(dataset.classes)
    assert len({captions.count(name) for name in dataset.classes}) == 1
    first = [int(np.flatnonzero(dataset.labels == label)[0]) for label in range(10)]
    assert is_same(images_in(html)[0], dataset.images.read(first[0]))


def test_a_contact_sheet_lists_unreadable_images(tmp_path):
    folder = digit_folder(tmp_path / "digits", 2, 4)
    next((folder / "digit 1").iterdir()).write_bytes(b"\x89PNG\r\n\x1a\nxx")
    html = load_dataset(folder)._repr_html_()
    assert len(images_in(html)) == 7
    assert html.count("<figcaption") == 8


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_escapes_labels(label):
    prediction = Prediction(
        path="no such file",
        label=label,
        index=0,
        probability=0.5,
        top=((label, 0.5),),
        prediction_set=(label, "b"),
        in_distribution=False,
    )
    assert label not in prediction._repr_html_()
    assert len(prediction._notes()) == 2
