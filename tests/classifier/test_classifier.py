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
from tellapart.classifier.classifier import Classifier, _checksum, _parts, load
from tellapart.errors import (
    BadClassifierFile,
    CannotSave,
    CutClassifierFile,
    EditedClassifierFile,
    UnknownModel,
    UnreadableImage,
    WrongVersionClassifierFile,
)
from tellapart.inference.prediction import Unreadable
from tellapart.inference.predictor import to_picture
from tellapart.pipeline.train import train
from tellapart.uncertainty.ood import Familiarity

PHOTOS = sorted(package("foolbox").glob("data/imagenet_*.jpg"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return train(digit_folder(root / "pictures", 3, 12), out=root / "run", **QUICK)


@pytest.fixture
def file(run, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((run.directory / "model.safetensors").read_bytes())
    return path


def test_saved_and_loaded_predicts_the_same_bits(run, file, tmp_path):
    loaded = load(file)
    pictures = sorted((run.directory.parent / "pictures").rglob("*.png"))
    assert np.array_equal(loaded.probabilities(pictures), run.classifier.probabilities(pictures))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert loaded.facts["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert load(run.directory).classes == ("digit 0", "digit 1", "digit 2")
    assert loaded.sets == run.classifier.sets
    assert loaded.familiarity.to_json() == run.classifier.familiarity.to_json()
    said = [(p.set, p.familiar) for p in run.classifier.predict_many(pictures)]
    assert said == [(p.set, p.familiar) for p in loaded.predict_many(pictures)]
    assert None not in [familiar for _, familiar in said]


def test_paths_arrays_and_pillow_images_are_one(run):
    path = next((run.directory.parent / "pictures").rglob("*.png"))
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
        image = Image.open(tmp_path / name)
        assert np.array_equal(to_picture(image), to_picture(tmp_path / name))


def test_a_bad_picture_among_good_ones_does_not_shift_the_others(run, tmp_path):
    good = sorted((run.directory.parent / "pictures").rglob("*.png"))[:5]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    results = list(run.classifier.predict_many([good[0], bad, *good[1:]]))
    assert isinstance(results[1], Unreadable)
    expected = [run.classifier.predict(path) for path in good]
    assert [r.label for r in results if not isinstance(r, Unreadable)] == [e.label for e in expected]
    with pytest.raises(UnreadableImage, match="not a JPEG"):
        run.classifier.predict(bad)


def rewritten(file, change):
    """Save the file again with its description changed, as a person with an editor would."""
    weights = safetensors.torch.load_file(file)
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    document = json.loads(metadata["tellapart"])
    change(document, weights)
    file.write_bytes(safetensors.torch.save(weights, metadata | {"tellapart": json.dumps(document)}))


def test_each_defect_has_its_error(file, tmp_path, monkeypatch):
    content = file.read_bytes()
    for cut in (100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        with pytest.raises(CutClassifierFile, match="cut short"):
            load(file)
    changed = bytearray(content)
    changed[-10] ^= 1
    file.write_bytes(changed)
    with pytest.raises(EditedClassifierFile, match="checksum"):
        load(file)
    file.write_bytes(content)
    rewritten(file, lambda document, weights: document["classes"].reverse())
    with pytest.raises(EditedClassifierFile):
        load(file)
    file.write_bytes(content)
    rewritten(file, lambda document, weights: document.update(format_version=99))
    with pytest.raises(WrongVersionClassifierFile, match="version 99"):
        load(file)
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, {"other": "x"})
    with pytest.raises(BadClassifierFile, match="without a tellapart"):
        load(file)
    for junk in (b"", b"PK\x03\x04" + b"0" * 100, b"\x80\x04pickle" * 10):
        file.write_bytes(junk)
        with pytest.raises(BadClassifierFile):
            load(file)
    with pytest.raises(UnknownModel, match="no file and no published model"):
        load(tmp_path / "nothing.safetensors")
    for name in ("runs/photos", "runs/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for wrong in ("photos", "runs/phots"):
        with pytest.raises(UnknownModel, match="Did you mean 'runs/photos'"):
            load(wrong)


def forged(path, **changes):
    """Write a classifier file that says something else of itself, and the checksum that belongs to it."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as opened:
        document = json.loads(opened.metadata()["tellapart"])
    document |= changes
    document.pop("checksum")
    table, data = _parts(safetensors.torch.save(tensors), "the file")
    document["checksum"] = _checksum(document, table, data)
    path.write_bytes(safetensors.torch.save(tensors, {"tellapart": json.dumps(document)}))


HUGE = {"name": "layered", "num_classes": 3, "in_channels": 3}
CLAIMS = {
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
    "no temperature": {"temperature": 0},
    "an infinite temperature": {"temperature": float("inf")},
    "a temperature below 0": {"temperature": -1.0},
    "a temperature that is no number": {"temperature": float("nan")},
    "a temperature that is text": {"temperature": "1"},
    "a class twice": {"classes": ["a", "b", "a"]},
    "classes that are no text": {"classes": ["a", "b", 3]},
    "a class without a name": {"classes": ["a", "b", ""]},
    "classes in one text": {"classes": "abc"},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_that_claims_what_it_does_not_hold_is_refused_without_memory(file, claim):
    forged(file, **CLAIMS[claim])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadClassifierFile):
        load(file)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 200


def test_a_document_that_nests_without_end_is_refused(file):
    tensors = safetensors.torch.load_file(file)
    file.write_bytes(safetensors.torch.save(tensors, {"tellapart": "[" * 100_000}))
    with pytest.raises(BadClassifierFile):
        load(file)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"noise": float("nan")}, "finite numbers"),
        ({"variances": np.zeros(3, np.float32)}, "axes"),
        ({"noise": None}, "float"),
    ],
)
def test_a_damaged_sense_of_the_familiar_is_named(run, tmp_path, damage, reason, monkeypatch):
    path, known = tmp_path / "model.safetensors", run.classifier.familiarity
    for kind in ("tensors", "to_json"):
        whole = getattr(Familiarity, kind)(known)
        changed = whole | {key: value for key, value in damage.items() if key in whole}
        monkeypatch.setattr(Familiarity, kind, lambda self, changed=changed: changed)
    run.classifier.save(path)
    with pytest.raises(BadClassifierFile, match=reason):
        load(path)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(data=st.data())
def test_no_damage_goes_unnoticed(run, data, tmp_path_factory):
    content = bytearray((run.directory / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1)))
    content[place] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    file.write_bytes(content)
    try:
        loaded = load(file)
    except BadClassifierFile:
        return
    # Only white space of the header can differ without a difference in meaning.
    assert loaded.document() == run.classifier.document()


def test_a_full_disk_leaves_the_old_file(run, file, monkeypatch):
    before = file.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CannotSave, match="no space left on device"):
        run.classifier.save(file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load("efficientnet_lite0")


def test_lite0_names_at_least_18_of_20_imagenet_pictures(lite0):
    results = list(lite0.predict_many(PHOTOS))
    right = [r.index == int(path.stem.split("_")[-1]) for r, path in zip(results, PHOTOS, strict=True)]
    assert sum(right) >= 18


def test_batch_and_single_agree(lite0):
    single = np.concatenate([lite0.probabilities([path]) for path in PHOTOS[:4]])
    assert np.abs(single - lite0.probabilities(PHOTOS[:4])).max() < 1e-5
