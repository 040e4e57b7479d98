"""What notebooks show: pictures that are really those, and no markup of strangers."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from folders import QUICK, digit_folder
from tellapart.data.builtin import load_digits
from tellapart.data.sources import load_source
from tellapart.inference.prediction import Prediction
from tellapart.pipeline.train import train


def pictures_in(html):
    """The pictures inside a piece of HTML, decoded."""
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def same(shown, picture):
    """Whether a picture is shown, but for its size and JPEG."""
    small = np.asarray(Image.fromarray(shown).resize(picture.shape[1::-1], Image.Resampling.NEAREST))
    return np.abs(small.astype(int) - picture).mean() < 12


def test_a_prediction_shows_its_picture(tmp_path):
    folder = digit_folder(tmp_path / "digits", 3, 12)
    run = train(folder, out=tmp_path / "run", **QUICK, training__autotune=False)
    path = next((folder / "digit 2").iterdir())
    picture = np.asarray(Image.open(path).convert("RGB"))
    for found in (run.classifier.predict(path), run.classifier.predict(picture)):
        html = found._repr_html_()
        assert same(pictures_in(html)[0], picture)
        assert all(f"{probability:.1%}" in html for _, probability in found.top)
    path.unlink()
    assert pictures_in(run.classifier.predict(picture)._repr_html_())
    assert not pictures_in(Prediction(str(path), "a", 0, 1.0, (("a", 1.0),))._repr_html_())
    html = run._repr_html_()
    assert f"{run.metrics['test']['accuracy']['value']:.1%}" in html
    assert "<svg" in html


def test_a_sheet_shows_every_class():
    samples = load_digits()
    html = samples._repr_html_()
    shown = re.findall(r"<figcaption[^>]*>([^<]*)", html)
    assert sorted(set(shown)) == sorted(samples.classes)
    assert len({shown.count(name) for name in samples.classes}) == 1
    first = [int(np.flatnonzero(samples.labels == label)[0]) for label in range(10)]
    assert same(pictures_in(html)[0], samples.pictures.picture(first[0]))


def test_a_sheet_tells_of_pictures_that_cannot_be_read(tmp_path):
    folder = digit_folder(tmp_path / "digits", 2, 4)
    next((folder / "digit 1").iterdir()).write_bytes(b"\x89PNG\r\n\x1a\nxx")
    html = load_source(folder)._repr_html_()
    assert len(pictures_in(html)) == 7
    assert html.count("cannot be read") == 1


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_no_markup_of_strangers(label):
    html = Prediction("no such file", label, 0, 0.5, ((label, 0.5),), (label, "b"), False)._repr_html_()
    assert label not in html
    assert "Unlike the training pictures" in html
