"""The corruptions on real images, and the robustness of a trained classifier."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.data.audit import audit_dataset
from tellapart.data.builtin import load_digits
from tellapart.data.pixel_cache import open_pixels
from tellapart.errors import InvalidCorruptionError
from tellapart.evaluation.explain import heat_maps
from tellapart.evaluation.robustness import CORRUPTIONS, corrupt, corruption_robustness
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Progress

SETTINGS = PreprocessSettings("squash", 28, 3, (0.5,) * 3, (0.25,) * 3)


def resized(files, size):
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files])


@pytest.fixture(scope="module")
def digits():
    """1,000 real handwritten digits (N, 28, 28, 3) and their labels."""
    dataset, preprocess = load_digits(), Preprocess(SETTINGS)
    pixels = np.stack([preprocess.resize(dataset.images.read(row)) for row in range(1000)])
    return pixels, dataset.labels[:1000].astype(np.int64)


@pytest.fixture(scope="module")
def trained(digits):
    """A small network trained on the digits before row 700."""
    torch.manual_seed(0)
    architecture = Architecture("simple_cnn", 10, 3, {"size": 28})
    model = Classifier(
        architecture=architecture, network=architecture.build(), preprocess=SETTINGS, classes=tuple("0123456789")
    )
    images, targets = Preprocess(SETTINGS)(torch.from_numpy(digits[0])), torch.from_numpy(digits[1])
    optimizer = torch.optim.AdamW(model.network.parameters(), 2e-3)
    for step in range(120):
        rows = torch.arange(64 * step, 64 * (step + 1)) % 700
        optimizer.zero_grad()
        F.cross_entropy(model.network(images[rows]), targets[rows]).backward()
        optimizer.step()
    return model


def distance(corrupted, pixels):
    """Return the root mean square difference of each image (N,), in levels."""
    return np.sqrt(((corrupted.astype(float) - pixels) ** 2).mean(axis=(1, 2, 3)))


@pytest.mark.parametrize("size", [28, 64, 160])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_higher_severity_changes_an_image_more(photos, written_digits, kind, size):
    for files in (photos, written_digits):
        pixels = resized(files, size)
        before = pixels.copy()
        corrupted = [corrupt(pixels, kind, severity) for severity in range(1, 6)]
        assert all(s.dtype == np.uint8 and s.shape == pixels.shape for s in corrupted)
        np.testing.assert_array_equal(pixels, before)
        means = [distance(s, pixels).mean() for s in corrupted]
        assert means == sorted(means)
        assert 1 < means[0] < 45  # severity 1 is visible but mild
        assert means[4] > 1.4 * means[0]
        if kind == "rotation":
            continue  # a small rotation moves every pixel
        correlation = [np.corrcoef(s.ravel(), p.ravel())[0, 1] for s, p in zip(corrupted[0], pixels, strict=True)]
        assert np.median(correlation) > 0.8


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_depends_on_seed_and_number_only(small_images, kind):
    pixels = resized(small_images, 32)
    numbers = np.arange(100, 120)
    once = corrupt(pixels, kind, 3, 5, numbers)
    np.testing.assert_array_equal(corrupt(pixels, kind, 3, 5, numbers), once)
    np.testing.assert_array_equal(corrupt(pixels[7:], kind, 3, 5, numbers[7:]), once[7:])
    np.testing.assert_array_equal(corrupt(pixels[[3]], kind, 3, 5, numbers[[3]])[0], once[3])
    many = corrupt(np.repeat(pixels, 4, axis=0), kind, 3, 5, np.repeat(numbers, 4))  # in other batches
    np.testing.assert_array_equal(many[::4], once)
    if kind in ("noise", "rotation"):
        assert not np.array_equal(corrupt(pixels, kind, 3, 6, numbers), once)
        assert not np.array_equal(corrupt(pixels, kind, 3, 5, numbers + 50), once)
    else:
        np.testing.assert_array_equal(corrupt(pixels, kind, 3, 6), once)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_uniform_and_tiny_images_stay_in_range(kind, level, size):
    plain = np.full((3, size, size, 3), level, np.uint8)
    for severity in (1, 5):
        corrupted = corrupt(plain, kind, severity).astype(int)
        if kind in ("blur", "contrast", "rotation"):
            np.testing.assert_array_equal(corrupted, plain)
        elif kind == "jpeg":
            assert np.abs(corrupted - level).max() <= 3
        elif kind == "brightness":
            np.testing.assert_allclose(corrupted, min(255, level + 255 * (0.1, 0.5)[severity > 1]), atol=0.5)
        else:
            assert ((corrupted == level).mean() > 0.25) == (level != 128)  # what left the range came back to its end


def test_noise_is_normal_with_the_deviation_of_its_severity():
    grey = np.full((64, 32, 32, 3), 128, np.uint8)
    for severity, deviation in ((1, 0.04), (3, 0.12)):
        noise = corrupt(grey, "noise", severity).astype(float) - 128
        assert noise.std() == pytest.approx(255 * deviation, rel=0.02)
        assert abs(noise.mean()) < 0.3
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    weak, strong = (corrupt(grey, "noise", s).astype(float) - 128 for s in (1, 2))
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.99  # the same noise, only more


def test_blur_is_close_to_that_of_pillow(photos):
    pixels = resized(photos[:6], 128)
    blurred_images = corrupt(pixels, "blur", 4)  # deviation 1.2 * sqrt(128 / 32)
    for image, blurred in zip(pixels, blurred_images, strict=True):
        expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2.4)))
        assert np.abs(blurred.astype(int) - expected)[8:-8, 8:-8].mean() < 1


def test_rotation_by_its_angle_to_either_side(photos):
    pixels = resized(photos[:12], 96)
    rotated_images = corrupt(pixels, "rotation", 2)
    sides = set()
    for image, turned in zip(pixels, rotated_images, strict=True):
        errors = []
        for angle in (10, -10):
            expected = np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))
            errors.append(np.abs(turned.astype(int) - expected)[24:-24, 24:-24].mean())
        assert min(errors) < 1
        sides.add(int(np.argmin(errors)))
    assert sides == {0, 1}


def test_accuracy_of_a_trained_classifier_under_corruption(digits, trained):
    pixels, labels = digits[0][700:], digits[1][700:]
    results = corruption_robustness(trained, pixels, labels, seed=3)
    assert [(r.corruption, r.severity) for r in results] == [(kind, s) for kind in CORRUPTIONS for s in range(1, 6)]
    as_is = (trained.predict_proba(pixels).argmax(axis=1) == labels).mean()
    assert as_is > 0.9
    for result in results:
        assert result.images == 300
        assert result.accuracy.low <= result.accuracy.value <= result.accuracy.high
        assert result.drop.low <= result.drop.value <= result.drop.high
        assert result.drop.value == pytest.approx(as_is - result.accuracy.value)
    by_kind = {kind: [r.drop.value for r in results if r.corruption == kind] for kind in CORRUPTIONS}
    assert all(drops[0] < 0.1 for drops in by_kind.values())
    assert sum(drops[4] > 0.05 for drops in by_kind.values()) >= 3
    worst = max(results, key=lambda result: result.drop.value)
    assert worst.drop.low > 0.1
    assert results == corruption_robustness(trained, pixels, labels, seed=3)
    assert json.loads(json.dumps(worst.to_json()))["drop"]["value"] == worst.drop.value


def test_many_images_are_sampled_by_the_seed():
    """The classifier predicts the first value of each image, which identifies the image."""
    first_values = []

    def predict_proba(pixels):
        first_values.append(pixels[:, 0, 0, 0])
        return np.eye(256, dtype=np.float32)[pixels[:, 0, 0, 0]]

    pixels = np.zeros((250, 4, 4, 3), np.uint8) + np.arange(250, dtype=np.uint8)[:, None, None, None]
    model = SimpleNamespace(predict_proba=predict_proba)
    results = corruption_robustness(model, pixels, np.arange(250), limit=60)
    assert {result.images for result in results} == {60}
    chosen = first_values[0].copy()
    assert (np.diff(chosen.astype(int)) > 0).all()
    first_values.clear()
    corruption_robustness(model, pixels, np.arange(250), seed=1, limit=60)
    assert not np.array_equal(first_values[0], chosen)
    assert results[0].accuracy.value < 1  # noise changes the first value
    assert next(r for r in results if r.corruption == "blur").drop.value == 0  # a plain image stays


@pytest.mark.slow
def test_lazily_decoded_images_give_the_same_results(trained):
    audit = audit_dataset(load_digits())
    pixels = open_pixels(audit, Preprocess(SETTINGS).resize, "robustness", 28, Progress())
    rows = np.arange(900, 960)
    labels = audit.dataset.labels[rows]
    late, at_once = pixels.rows(rows), np.asarray(pixels[rows])
    assert corruption_robustness(trained, late, labels, limit=20) == corruption_robustness(
        trained, at_once, labels, limit=20
    )
    np.testing.assert_array_equal(heat_maps(trained, late, labels), heat_maps(trained, at_once, labels))


def test_invalid_arguments_are_refused():
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(InvalidCorruptionError) as error:
        corrupt(pixels, "rotations", 1)
    assert "'rotation'" in str(error.value)  # a suggestion
    for severity in (0, 6, 2.5):
        with pytest.raises(InvalidCorruptionError) as error:
            corrupt(pixels, "blur", severity)
        assert str(severity) in str(error.value)
    with pytest.raises(InvalidCorruptionError):
        corruption_robustness(SimpleNamespace(), pixels, np.zeros(3, int))
    with pytest.raises(InvalidCorruptionError):
        corruption_robustness(SimpleNamespace(), pixels[:0], np.zeros(0, int))
