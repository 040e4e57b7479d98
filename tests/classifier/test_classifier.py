import json
import resource

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from folders import QUICK, digit_folder, package
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.file import decode_file, encode_file
from tellapart.classifier.golden_images import GoldenImages
from tellapart.classifier.load import copy_classifier, load_torch_classifier
from tellapart.data.image import read_image
from tellapart.data.written_manifests import read_splits
from tellapart.errors import (
    ChecksumError,
    ClassifierFileError,
    FormatVersionError,
    SaveError,
    TruncatedFileError,
    UnknownModelError,
    UnreadableImageError,
)
from tellapart.inference.base_predictor import to_image
from tellapart.inference.prediction import UnreadableFile
from tellapart.pipeline.train import train
from tellapart.uncertainty.ood import OODDetector

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return train(digit_folder(root / "images", 3, 12), out=root / "run", **QUICK)


@pytest.fixture
def file(run, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((run.directory / "model.safetensors").read_bytes())
    return path


def test_saved_and_loaded_predicts_the_same_bits(run, file, tmp_path):
    loaded = load_torch_classifier(file)
    images = sorted((run.directory.parent / "images").rglob("*.png"))
    assert np.array_equal(loaded.probabilities(images), run.classifier.probabilities(images))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert loaded.metadata["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert load_torch_classifier(run.directory).classes == ("digit 0", "digit 1", "digit 2")
    assert loaded.conformal == run.classifier.conformal
    assert loaded.ood_detector.to_json() == run.classifier.ood_detector.to_json()
    predictions = list(loaded.predict_many(images))
    assert predictions == list(run.classifier.predict_many(images))
    assert all(p.prediction_set and p.in_distribution is not None for p in predictions)


def test_paths_arrays_and_pillow_images_give_the_same_prediction(run):
    path = next((run.directory.parent / "images").rglob("*.png"))
    image = Image.open(path)
    by_path, by_image, by_array = (run.classifier.predict(p) for p in (path, image, np.asarray(image)))
    assert by_path.top == by_image.top == by_array.top
    assert sum(p for _, p in by_path.top) == pytest.approx(1, abs=1e-5)


def test_pillow_images_follow_the_decode_policy(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))
    tall.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.full((9, 9), 32768, np.uint16)).save(tmp_path / "deep.png")
    for name in ("turned.png", "deep.png"):
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(to_image(image), to_image(tmp_path / name))


def test_a_bad_image_among_good_ones_does_not_shift_the_others(run, tmp_path):
    good = sorted((run.directory.parent / "images").rglob("*.png"))[:5]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    results = list(run.classifier.predict_many([good[0], bad, *good[1:]]))
    assert isinstance(results[1], UnreadableFile)
    expected = [run.classifier.predict(path) for path in good]
    assert [r.label for r in results if not isinstance(r, UnreadableFile)] == [e.label for e in expected]
    with pytest.raises(UnreadableImageError):
        run.classifier.predict(bad)


def rewritten(file, change):
    """Save the file again with its document changed and its old checksum, as an editor would."""
    weights = safetensors.torch.load_file(file)
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    document = json.loads(metadata["tellapart"])
    change(document, weights)
    file.write_bytes(safetensors.torch.save(weights, metadata | {"tellapart": json.dumps(document)}))


def test_each_defect_has_its_own_error(file, tmp_path, monkeypatch):
    content = file.read_bytes()
    for cut in (100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        with pytest.raises(TruncatedFileError):
            load_torch_classifier(file)
    changed = bytearray(content)
    changed[-10] ^= 1
    file.write_bytes(changed)
    with pytest.raises(ChecksumError):
        load_torch_classifier(file)
    file.write_bytes(content)
    rewritten(file, lambda document, weights: document["classes"].reverse())
    with pytest.raises(ChecksumError):
        load_torch_classifier(file)
    file.write_bytes(content)
    rewritten(file, lambda document, weights: document.update(format_version=99))
    with pytest.raises(FormatVersionError):
        load_torch_classifier(file)
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, {"other": "x"})
    with pytest.raises(ClassifierFileError):
        load_torch_classifier(file)
    for junk in (b"", b"PK\x03\x04" + b"0" * 100, b"\x80\x04pickle" * 10):
        file.write_bytes(junk)
        with pytest.raises(ClassifierFileError):
            load_torch_classifier(file)
    with pytest.raises(UnknownModelError):
        load_torch_classifier(tmp_path / "nothing.safetensors")
    for name in ("runs/photos", "runs/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for wrong in ("photos", "runs/phots"):
        with pytest.raises(UnknownModelError) as error:
            load_torch_classifier(wrong)
        assert "'runs/photos'" in str(error.value)


def forge(path, **changes):
    """Write a classifier file with another document, and the checksum of that document."""
    document, _ = decode_file(path.read_bytes(), "the file")
    path.write_bytes(encode_file(document | changes, safetensors.torch.load_file(path)))


HUGE = {"name": "sequential", "num_classes": 3, "in_channels": 3}
FORGERIES = {
    "other classes": {"architecture": {"name": "alexnet", "num_classes": 3, "in_channels": 3}},
    "a billion classes": {"architecture": {"name": "resnet18", "num_classes": 10**9, "in_channels": 3}},
    "a wide layer": {
        "architecture": HUGE
        | {"arguments": {"size": 16, "layers": [{"type": "Flatten"}, {"type": "Dense", "units": 10**7}] * 2}}
    },
    "a deep head": {
        "architecture": {
            "name": "resnet18",
            "num_classes": 3,
            "in_channels": 3,
            "arguments": {"head": [8192] * 2000},
        }
    },
    "many members": {
        "architecture": HUGE
        | {
            "name": "ensemble",
            "arguments": {
                "members": [{"name": "vgg16", "arguments": {}, "mean": [0] * 3, "std": [1] * 3, "temperature": 1.0}]
                * 500
            },
        }
    },
    "a temperature of 0": {"temperature": 0},
    "an infinite temperature": {"temperature": float("inf")},
    "a negative temperature": {"temperature": -1.0},
    "a temperature of NaN": {"temperature": float("nan")},
    "a temperature of type string": {"temperature": "1"},
    "a duplicate class": {"classes": ["a", "b", "a"]},
    "a class of type integer": {"classes": ["a", "b", 3]},
    "an empty class name": {"classes": ["a", "b", ""]},
    "classes as one string": {"classes": "abc"},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_document_that_does_not_fit_the_weights_is_rejected_before_memory_is_allocated(file, forgery):
    forge(file, **FORGERIES[forgery])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ClassifierFileError):
        load_torch_classifier(file)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert growth < 200  # MB


def test_a_document_of_a_great_many_values_is_rejected_unparsed(file):
    tensors = safetensors.torch.load_file(file)
    file.write_bytes(safetensors.torch.save(tensors, {"tellapart": f"[{'[],' * 3_000_000}0]"}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ClassifierFileError):
        load_torch_classifier(file)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 100  # MB


def test_a_deeply_nested_document_is_rejected(file):
    tensors = safetensors.torch.load_file(file)
    file.write_bytes(safetensors.torch.save(tensors, {"tellapart": "[" * 100_000}))
    with pytest.raises(ClassifierFileError):
        load_torch_classifier(file)


@pytest.mark.parametrize("damage", [{"noise": float("nan")}, {"variances": np.zeros(3, np.float32)}, {"noise": None}])
def test_an_invalid_ood_detector_is_rejected(run, tmp_path, damage, monkeypatch):
    path, detector = tmp_path / "model.safetensors", run.classifier.ood_detector
    for method in ("tensors", "to_json"):
        values = getattr(OODDetector, method)(detector)
        changed = values | {key: value for key, value in damage.items() if key in values}
        monkeypatch.setattr(OODDetector, method, lambda self, changed=changed: changed)
    run.classifier.save(path)
    with pytest.raises(ClassifierFileError):
        load_torch_classifier(path)


def test_the_file_has_some_test_images_of_all_classes(run):
    golden = load_torch_classifier(run.directory).golden
    splits = read_splits(run.directory / "split.csv")
    originals = [read_image(run.directory / name) for name in splits["test"]]
    assert len(golden) == min(8, len(originals))
    assert set(golden.labels) == {0, 1, 2}
    for row in range(len(golden)):
        image = golden.read(row).astype(int)
        assert min(np.abs(image - original).mean() for original in originals if original.shape == image.shape) < 12


@pytest.mark.parametrize(
    "damage",
    [
        {"golden.ends": np.array([5, 3, 9])},
        {"golden.ends": np.array([1, 2, 10**15])},
        {"golden.labels": np.array([0, 1, 3])},
        {"golden.labels": np.array([0, 1])},
        {"golden.content": np.zeros(30, np.float32)},
        {"golden.content": None},
    ],
)
def test_invalid_test_images_are_refused(damage):
    arrays = GoldenImages((b"one", b"two", b"three"), (0, 1, 2)).arrays()
    assert GoldenImages.from_arrays(arrays, 3).files == (b"one", b"two", b"three")
    changed = {name: array for name, array in (arrays | damage).items() if array is not None}
    with pytest.raises(ValueError, match="golden"):
        GoldenImages.from_arrays(changed, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(run, tmp_path, value):
    classifier = copy_classifier(run.classifier)
    with torch.no_grad():
        next(classifier.network.parameters()).view(-1)[0] = value
    classifier.save(tmp_path / "model.safetensors")
    with pytest.raises(ClassifierFileError):
        load_torch_classifier(tmp_path / "model.safetensors")


@settings(deadline=None, max_examples=150, derandomize=True)
@given(data=st.data())
def test_every_damaged_byte_is_detected(run, data, tmp_path_factory):
    content = bytearray((run.directory / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    offset = data.draw(st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1)))
    content[offset] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    file.write_bytes(content)
    try:
        loaded = load_torch_classifier(file)
    except ClassifierFileError:
        return
    # Whitespace in the header may differ.
    assert loaded.document() == run.classifier.document()


def test_a_full_disk_leaves_the_old_file_intact(run, file, monkeypatch):
    before = file.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SaveError):
        run.classifier.save(file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load_torch_classifier("efficientnet_lite0")


def test_lite0_classifies_at_least_18_of_20_imagenet_images(lite0):
    results = list(lite0.predict_many(PHOTOS))
    correct = [r.index == int(path.stem.split("_")[-1]) for r, path in zip(results, PHOTOS, strict=True)]
    assert sum(correct) >= 18


def test_a_batch_and_single_images_have_the_same_probabilities(lite0):
    single = np.concatenate([lite0.probabilities([path]) for path in PHOTOS[:4]])
    assert np.abs(single - lite0.probabilities(PHOTOS[:4])).max() < 1e-5
