"""Predictions of the web app in Chromium are those of Python."""

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from PIL import Image

import tellapart
from browsers import IN_PAGE
from encoding import encode, to_base64
from tellapart.data.image import decode
from tellapart.inference.prediction import PREDICTION_SCHEMA, PredictionBatch
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.uncertainty.conformal import ConformalPredictor

PREDICT = f"""async (data) => {{ {IN_PAGE} const {{ predict }} = await import("./local.js");
return predict(new Blob([bytes(data)])); }}"""


RESIZE = f"""async ([data, height, width, settings]) => {{ {IN_PAGE} const {{ resize }} = await import("./resize.js");
const all = bytes(data);
const read = (left, top, w, h) => {{ const region = new Uint8Array(w * h * 4); for (let y = 0; y < h; y++)
  region.set(all.subarray(((top + y) * width + left) * 4).subarray(0, w * 4), y * w * 4); return region; }};
return text(resize(read, height, width, settings)); }}"""


TO_PREDICTION = """async ([probabilities, distance, document]) => {
const { toPrediction } = await import("./prediction.js");
return toPrediction(new Float32Array(probabilities), distance, document); }"""


NAMES = tuple(f"class {k}" for k in range(12))


def make_files(photos, small_images, rounds=1):
    """Return real images of many sizes, in the formats that browsers decode, with all EXIF orientations."""
    files = {}
    for number, path in enumerate(photos * rounds):
        files[path.name] = path.read_bytes()
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((97 + 31 * number % 600, 411 - 17 * number % 400))
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        transparent = image.copy()
        transparent.putalpha(image.convert("L"))
        options = {"quality": 70 + number % 30, "subsampling": number % 3, "exif": exif.tobytes()}
        files[f"{number}.jpg"] = encode(image, "jpeg", **options)
        files[f"{number}.webp"] = encode(transparent, "webp", lossless=True, exif=exif.tobytes())
        files[f"{number}.png"] = encode(transparent, "png", exif=exif.tobytes())
        files[f"{number}.gif"] = encode(image, "gif")
        files[f"{number}.bmp"] = encode(image, "bmp")
        files[f"grey {number}.png"] = encode(image.convert("L"), "png")
        files[f"progressive {number}.jpg"] = encode(image, "jpeg", progressive=True)
        files[f"lossy {number}.webp"] = encode(image, "webp", quality=60)
    return files | {path.name: path.read_bytes() for path in small_images}


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_predictions_are_those_of_python(exported, page, run, photos, small_images, rounds):
    """Chromium decodes all of these images to the same levels as Python; other browsers may not."""
    original, validator = tellapart.load(run.directory), Draft202012Validator(PREDICTION_SCHEMA)
    images = make_files(photos, small_images, rounds)
    images |= {path.name: path.read_bytes() for path in sorted(exported.golden.glob("*.png"))}
    assert len(images) > (180 if rounds == 1 else 500)
    in_distribution = []
    for name, data in images.items():
        expected, actual = original.predict(decode(data)).to_json(), page.evaluate(PREDICT, to_base64(data))
        validator.validate(expected)
        validator.validate(actual)
        check_same_types(actual, expected, name)
        for key in ("label", "index", "prediction_set", "in_distribution"):
            assert actual[key] == expected[key], (name, key)
        assert dict(actual["top"]) == pytest.approx(dict(expected["top"]), abs=1e-5), name
        in_distribution.append(expected["in_distribution"])
    assert 0 < sum(in_distribution) < len(in_distribution)


def check_same_types(browser, python, name):
    """Check that a prediction has the keys and types of Python's; JSON has one type of number."""
    assert browser.keys() == python.keys() - {"path"}, name
    for key, value in browser.items():
        kinds = [float if isinstance(v, (int, float)) and key != "index" else type(v) for v in (value, python[key])]
        assert isinstance(value, bool) == isinstance(python[key], bool), (name, key)
        assert kinds[0] is kinds[1], (name, key)
    assert [[type(label), type(float(p))] for label, p in browser["top"]] == [[str, float]] * len(python["top"]), name


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", pytest.param("bicubic", marks=pytest.mark.slow)])
def test_resize_is_that_of_python_bit_for_bit(page, photo, resize, interpolation):
    settings = PreprocessSettings(
        resize=resize,
        size=24,
        channels=3,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation=interpolation,
        crop_share=0.875,
    )
    for height, width in ((1, 1), (1, 61), (24, 24), (24, 60), (25, 49), (61, 97), (11, 7), (300, 1100), (2101, 999)):
        image = np.asarray(Image.fromarray(photo).resize((width, height)))
        opaque = np.dstack([image, np.full((height, width), 255, np.uint8)])
        arguments = [to_base64(opaque.tobytes()), height, width, settings.to_json()]
        pixels = np.frombuffer(base64.b64decode(page.evaluate(RESIZE, arguments)), np.uint8).reshape(24, 24, 3)
        assert (pixels == Preprocess(settings).resize(image)).all(), (height, width)


def predict_both(page, row, conformal, distance=None, threshold=None):
    """Return the prediction of the browser and of Python for probabilities (12,)."""
    ood = None if threshold is None else {"threshold": threshold}
    document = {"classes": NAMES, "conformal": conformal and conformal.to_json(), "ood": ood}
    batch = PredictionBatch(
        row[None],
        conformal and conformal.prediction_sets(row[None]),
        None if threshold is None else np.array([distance], np.float32) <= threshold,
    )
    browser = page.evaluate(TO_PREDICTION, [row.tolist(), distance, document])
    return browser, batch.prediction(0, "", NAMES, 5)


def check_prediction(browser, python):
    """Check every key of a prediction of the browser, with probabilities in full precision."""
    expected = python.to_json() | {"probability": python.probability, "top": [list(entry) for entry in python.top]}
    assert browser == {key: value for key, value in expected.items() if key != "path"}


def test_prediction_sets_are_those_of_python(page):
    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=60, deadline=None)
    def check(seed):
        random = np.random.default_rng(seed)
        counts = random.integers(0, 9, 12) + (np.arange(12) == 3)  # small integers, so that many are equal
        row = (counts / counts.sum()).astype(np.float32)
        thresholds = tuple(np.where(random.random(12) < 0.1, np.inf, random.random(12)))
        check_prediction(*predict_both(page, row, ConformalPredictor(0.9, thresholds)))

    check()


def test_the_constants_of_prediction_sets_come_from_the_document(page):
    row = np.full(12, 1 / 12, np.float32)
    thresholds = (0.6,) * 12
    sizes = []
    for penalty, free_ranks in ((0.0, 5), (0.2, 5), (0.2, 1), (0.2, 0), (0.05, 1)):
        browser, python = predict_both(page, row, ConformalPredictor(0.9, thresholds, penalty, free_ranks))
        check_prediction(browser, python)
        sizes.append(len(browser["prediction_set"]))
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    assert sizes[4] > sizes[2]


def test_the_ood_threshold_is_compared_as_in_python(page):
    row = np.random.default_rng(0).dirichlet(np.ones(12)).astype(np.float32)
    at_threshold = float(np.float32(0.1))
    above = float(np.nextafter(np.float32(0.1), np.float32(1)))
    inside = []
    for distance in (0.0, at_threshold, above):
        browser, python = predict_both(page, row, None, distance, threshold=0.1)
        check_prediction(browser, python)
        inside.append(browser["in_distribution"])
    assert inside == [True, True, False]
