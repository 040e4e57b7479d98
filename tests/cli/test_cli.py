"""The command line as a person meets it: good runs, and one clear sentence for every kind of bad input."""

import csv
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import tellapart
from folders import checksums, digit_folder, package, run_cli
from recording import RecordingProgress
from tellapart.data.builtin import load_digits
from tellapart.io.atomic import write_atomic
from tellapart.progress import Event
from tellapart.recipe.recipe import load_recipe

QUICK = ["--epochs", "1", "--set", "preprocess.size=16"]
SUPPORTED = ["--set", "evaluation.coverage=0.8", "--set", "evaluation.ood_false_positive_rate=0.2"]  # by 9 images


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of images, and a run trained on it by the command line in a process of its own."""
    root = tmp_path_factory.mktemp("cli")
    digit_folder(root / "images", 3, 12)
    command = [sys.executable, "-W", "error", "-m", "tellapart", "train", "images", "--json", *QUICK, *SUPPORTED]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return root, json.loads(result.stdout), result.stderr


def test_train_writes_the_run_and_reports_on_stderr(trained):
    root, printed, messages = trained
    run = root / "runs" / "images"
    expected = (
        "checkpoint excluded.csv history.jsonl metrics.json model.safetensors recipe.toml report.html report.json"
    )
    assert sorted(p.name for p in run.iterdir()) == [*expected.split(), "run.json", "split.csv"]
    assert printed["metrics"] == json.loads((run / "metrics.json").read_text())
    assert {"value", "low", "high"} == printed["metrics"]["test"]["accuracy"].keys()
    assert "small_resnet" in messages
    recipe = load_recipe(run / "recipe.toml")
    assert (recipe.model.name, recipe.optimizer.name, recipe.preprocess.size) == ("small_resnet", "muon", 16)
    with open(run / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert all((run / row["path"]).is_file() for row in rows)


def test_the_saved_split_trains_again(trained, tmp_path, capsys):
    root, printed, messages = trained
    code, out, err = run_cli(
        capsys, "train", root / "runs/images/split.csv", "--out", tmp_path / "again", "--json", *QUICK
    )
    assert code == 0, err
    assert json.loads(out)["metrics"]["test"]["confusion_matrix"] == printed["metrics"]["test"]["confusion_matrix"]
    few = re.compile(r"\b19\b[^:]*\b6\b")  # required and available: for prediction sets, and for other images
    assert not few.search(messages)
    assert len(few.findall(err)) == 2
    assert len(few.findall((tmp_path / "again/report.html").read_text(encoding="utf-8"))) == 2
    code, out, _ = run_cli(capsys, "predict", tmp_path / "again", root / "images/digit 1", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {(line["prediction_set"], line["in_distribution"]) for line in lines} == {(None, None)}


def test_predict_prints_json_csv_and_a_table(trained, tmp_path, capsys):
    root, _, _ = trained
    model = root / "runs/images/model.safetensors"
    folder = shutil.copytree(root / "images" / "digit 1", tmp_path / "some <b> images")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    code, out, err = run_cli(capsys, "predict", model, folder, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert err
    assert len(lines) == 13
    assert [(line["path"], line["code"]) for line in lines if "error" in line] == [
        (str(folder / "broken.png"), "unreadable_image")
    ]
    good = next(line for line in lines if "label" in line)
    assert good.keys() == {"path", "label", "index", "probability", "top", "prediction_set", "in_distribution"}
    assert good["label"] in good["prediction_set"]
    assert isinstance(good["in_distribution"], bool)
    assert good["top"][0] == [good["label"], good["probability"]]
    code, out, _ = run_cli(capsys, "predict", model, str(folder / "0*.png"), "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert len(rows) == 12
    assert rows[0]["label"].startswith("digit ")
    assert rows[0]["label"] in rows[0]["prediction_set"].split(" | ")
    assert rows[0]["in_distribution"] in ("True", "False")
    assert 0 < float(rows[0]["probability"]) <= 1
    assert not any(column.startswith("label_") for column in rows[0])
    code, out, _ = run_cli(capsys, "predict", model, str(folder / "0*.png"), "--csv", "--top", "2")
    row = next(csv.DictReader(io.StringIO(out)))
    assert row["label_2"].startswith("digit ")
    assert float(row["probability_2"]) <= float(row["probability"])
    assert "label_3" not in row
    code, out, _ = run_cli(capsys, "predict", model, folder / "broken.png", next(folder.glob("0*.png")))
    assert code == 1
    assert "broken.png" in out
    assert "digit" in out


def test_predict_shows_prediction_sets_and_ood(trained, tmp_path, capsys):
    root, _, _ = trained
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    code, out, _ = run_cli(capsys, "predict", root / "runs/images", tmp_path / "noise.png", "--json")
    prediction = json.loads(out)
    assert len(prediction["prediction_set"]) > 1
    assert prediction["in_distribution"] is False
    code, out, _ = run_cli(capsys, "predict", root / "runs/images", tmp_path / "noise.png", "--top", "1")
    assert code == 0
    assert all(name in out for name in prediction["prediction_set"])  # named where --top does not list them
    assert "out of distribution" in out


def test_an_accuracy_of_the_majority_class_gets_a_warning(trained, tmp_path, capsys):
    root, _, _ = trained
    names = [f"digit {number}" for number in range(3)]
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        shutil.copytree(root / "images" / name, tmp_path / "images" / other)  # all labels wrong
    for path in (tmp_path / "images").rglob("*.png"):
        ImageOps.mirror(Image.open(path)).save(path)  # so that the classifier has not seen them
    page = tmp_path / "page.html"
    code, out, _ = run_cli(capsys, "evaluate", root / "runs/images", tmp_path / "images", "--report", page, "--json")
    assert code == 0
    warnings = json.loads(out)["warnings"]
    assert any("digit 0" in warning and "33.3%" in warning for warning in warnings)
    assert any(warning in page.read_text() for warning in warnings)


def test_set_reaches_every_key_and_top_lists_as_many(tmp_path, capsys):
    settings = [
        "--set",
        "seed=7",
        "--set",
        "model.name=simple_cnn",
        "--set",
        "schedule.epochs=1",
        "--set",
        "preprocess.size=18",
    ]
    code, _, err = run_cli(capsys, "train", digit_folder(tmp_path / "p", 7, 8), "--out", tmp_path / "run", *settings)
    assert code == 0, err
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert (recipe.seed, recipe.model.name, recipe.preprocess.size) == (7, "simple_cnn", 18)
    image = next((tmp_path / "p").rglob("*.png"))
    code, out, _ = run_cli(capsys, "predict", tmp_path / "run", image, "--json", "--top", "7")
    assert len(json.loads(out)["top"]) == 7


def test_imagenet_names_without_training(capsys):
    photos = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
    code, out, _ = run_cli(capsys, "predict", "efficientnet_lite0", "--json", *photos)
    lines = [json.loads(line) for line in out.splitlines()]
    right = [line["index"] == int(p.stem.split("_")[-1]) for line, p in zip(lines, photos, strict=True)]
    assert code == 0
    assert sum(right) >= 18
    assert {(line["prediction_set"], line["in_distribution"]) for line in lines} == {(None, None)}


def test_audit_for_people_and_programs(tmp_path, capsys):
    digit_folder(tmp_path, 2, 5)
    first = sorted((tmp_path / "digit 0").iterdir())[0]
    for path in sorted((tmp_path / "digit 1").iterdir())[2:]:
        path.unlink()
    shutil.copy(first, tmp_path / "digit 1" / "copy.png")
    (tmp_path / "digit 1" / "notes.txt").write_text("hello")
    (tmp_path / "digit 1" / "empty.jpg").touch()
    code, out, _ = run_cli(capsys, "audit", tmp_path)
    assert code == 1  # since training would fail
    assert all(name in out for name in ("digit 1/copy.png", "notes.txt", "empty.jpg"))
    code, out, _ = run_cli(capsys, "audit", tmp_path, "--json")
    result = json.loads(out)
    assert result["classes"] == {"digit 0": 5, "digit 1": 3}
    assert result["obstacle"]["code"] == "cannot_split"
    assert "'digit 1'" in result["obstacle"]["message"]
    assert result["label_conflicts"] == [[f"digit 0/{first.name}", "digit 1/copy.png"]]
    assert [each["path"] for each in result["skipped"]] == ["digit 1/notes.txt"]
    assert [each["path"] for each in result["unreadable"]] == ["digit 1/empty.jpg"]


def no_such_folder(root):
    return [root / "nothing"], "invalid_source", ("nothing",)


def empty_folder(root):
    (root / "empty").mkdir()
    return [root / "empty"], "invalid_source", ("empty",)


def one_class(root):
    return [digit_folder(root / "one", 1, 9)], "invalid_source", ("'digit 0'",)


def too_few(root):
    folder = digit_folder(root / "few", 3, 9)
    for path in sorted((folder / "digit 2").iterdir())[2:]:
        path.unlink()
    return [folder], "cannot_split", ("'digit 2'",)


def class_only_in_validation(root):
    digit_folder(root / "tree" / "train", 2, 6)
    digit_folder(root / "tree" / "val", 3, 6)
    return [root / "tree"], "invalid_source", ("'digit 2'",)


def manifest(root, text):
    digit_folder(root / "m", 2, 8)
    rows = [f"digit {k}/{p.name},digit {k}" for k in (0, 1) for p in sorted((root / "m" / f"digit {k}").iterdir())]
    (root / "m" / "list.csv").write_text(text.replace("ROWS", "\n".join(rows)))
    return root / "m" / "list.csv"


def manifest_without_column(root):
    return [manifest(root, "file,label\nROWS\n")], "invalid_manifest", ("'path'",)


def manifest_missing_file(root):
    return [manifest(root, "path,label\nROWS\ngone.png,digit 0\n")], "invalid_manifest", ("18", "gone.png")


def manifest_duplicate(root):
    path = manifest(root, "path,label\nROWS\n")
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace("digit 0/", "./digit 0/") + "\n")
    return [path], "invalid_manifest", ("digit 0/",)


def manifest_unknown_split(root):
    path = manifest(root, "path,label\nROWS\n")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",split"] + [line + ",tran" for line in lines[1:]]))
    return [path], "invalid_manifest", ("'tran'", "'train'")


def too_many_unreadable(root):
    folder = digit_folder(root / "bad", 2, 10)
    for number in range(2):
        (folder / f"digit {number}" / "zero.png").touch()
    return [folder], "too_many_unreadable", ("2 of 22", "9.1%")


def header_of_60000_pixels(root):
    folder = digit_folder(root / "bomb", 2, 10)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (folder / "digit 0" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""))
    return [folder, "--set", "data.max_unreadable_fraction=0"], "too_many_unreadable", ("bomb.png", "89,000,000")


def misspelt_key(root):
    (root / "recipe.toml").write_text("[schedule]\nepoch = 3\n")
    return (
        [digit_folder(root / "p", 2, 6), "--recipe", root / "recipe.toml"],
        "invalid_recipe",
        ("schedule.epoch", "'epochs'"),
    )


def misspelt_setting(root):
    return (
        [digit_folder(root / "p", 2, 6), "--set", "optimizer.nam=adam"],
        "invalid_recipe",
        ("optimizer.nam", "'optimizer.name'"),
    )


def bad_max_time(root):
    return [digit_folder(root / "p", 2, 6), "--max-time", "soon"], "invalid_recipe", ("soon", "90s")


def unknown_model(root):
    return [digit_folder(root / "p", 2, 6), "--model", "resnet81"], "unknown_model", ("resnet81", "'resnet18'")


def leaked_test_image(root):
    """A photograph, and a smaller, recompressed, slightly cropped and brightened copy of it in the test part."""
    photos = sorted(package("foolbox").glob("data/imagenet_*.jpg"))
    for number, path in enumerate(photos):
        part = ("train", "train", "val", "test")[number // 2 % 4]
        target = root / "leak" / part / "ab"[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    image = Image.open(photos[0]).convert("RGB")
    width, height = image.size
    copy = image.crop((int(0.02 * width), 0, width, int(0.97 * height))).resize((300, 300))
    copy.point(lambda v: min(255, int(v * 1.1))).save(root / "leak/test/a/another name.jpg", quality=70)
    return [root / "leak"], "leakage", ("test/a/another name.jpg", f"train/a/{photos[0].name}")


def parts_with_other_names(root):
    digit_folder(root / "k" / "part_1", 2, 6)
    digit_folder(root / "k" / "part_2", 2, 6)
    return [root / "k"], "invalid_source", ("digit 0", "digit 1", "val")


def empty_class_folder(root):
    (digit_folder(root / "p", 2, 6) / "bird").mkdir()
    return [root / "p"], "invalid_source", ("'bird'",)


def run_inside_the_images(root):
    return [digit_folder(root / "p", 2, 6), "--out", root / "p" / "run"], "invalid_recipe", ("p/run",)


def epochs_and_max_time(root):
    return (
        [digit_folder(root / "p", 2, 6), "--epochs", "2", "--max-time", "5s"],
        "invalid_recipe",
        ("epochs", "max_time"),
    )


def two_channels(root):
    return (
        [digit_folder(root / "p", 2, 6), "--set", "preprocess.channels=2"],
        "invalid_recipe",
        ("preprocess.channels", "2"),
    )


def name_too_long(root):
    return ["x" * 300], "invalid_source", ("xxx",)


BAD = [
    parts_with_other_names,
    empty_class_folder,
    run_inside_the_images,
    epochs_and_max_time,
    two_channels,
    name_too_long,
    no_such_folder,
    empty_folder,
    one_class,
    too_few,
    class_only_in_validation,
    manifest_without_column,
    manifest_missing_file,
    manifest_duplicate,
    manifest_unknown_split,
    too_many_unreadable,
    header_of_60000_pixels,
    misspelt_key,
    misspelt_setting,
    bad_max_time,
    unknown_model,
    leaked_test_image,
]


@pytest.mark.parametrize("make", BAD, ids=lambda f: f.__name__)
def test_bad_input_gives_one_sentence_and_changes_nothing(make, tmp_path, capsys, monkeypatch):
    arguments, expected, names = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = checksums(tmp_path)
    code, out, err = run_cli(capsys, "train", *arguments, "--json")
    assert code == 1
    error = json.loads(out)["error"]
    assert error["code"] == expected
    assert all(name in error["message"] for name in names)
    assert err.splitlines()[-1] == f"Error: {error['message']}"
    assert "Traceback" not in err
    assert checksums(tmp_path) == before
    code, out, again = run_cli(capsys, "train", *arguments)
    assert (code, out, again.splitlines()[-1]) == (1, "", err.splitlines()[-1])


def test_odd_but_good_images_are_used(tmp_path, capsys):
    """CMYK, 16-bit, palette, alpha, animated, rotated, 1 x 1 and misnamed images all train."""
    folder = digit_folder(tmp_path / "odd", 2, 12)
    image = Image.fromarray(load_digits().images.read(0)).resize((16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert("CMYK").save(folder / "digit 0" / "cmyk.jpg")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "digit 0" / "deep.png")
    image.quantize().save(folder / "digit 0" / "palette.png")
    image.convert("RGBA").save(folder / "digit 0" / "alpha.webp", lossless=True)
    image.save(folder / "digit 0" / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(folder / "digit 0" / "turned.jpg", exif=exif)
    image.save(folder / "digit 0" / "really a png.jpg", "PNG")
    Image.new("RGB", (1, 1)).save(folder / "digit 1" / "dot.png")
    before = checksums(folder)
    code, out, err = run_cli(capsys, "train", folder, "--out", tmp_path / "run", "--json", *QUICK)
    assert code == 0, err
    assert json.loads(out)["metrics"]["test"]["images"] > 0
    assert (tmp_path / "run" / "excluded.csv").read_text() == "path,reason\n"
    assert checksums(folder) == before


def test_networks_are_listed_with_the_state_of_their_weights(capsys):
    code, out, _ = run_cli(capsys, "models", "--json")
    assert code == 0
    weights = {each["name"]: each["weights"] for each in json.loads(out)}
    assert weights["efficientnet_lite0"] == "available"  # in a package that the tests need
    assert weights["simple_cnn"] is None
    assert set(weights.values()) <= {"available", "download", None}


def test_an_unfinished_run_and_a_misspelt_name_are_different_errors(trained, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    shutil.copy(trained[0] / "runs" / "images" / "recipe.toml", tmp_path / "run")
    errors = []
    for name in ("run", "rum"):
        code, out, _ = run_cli(capsys, "predict", tmp_path / name, tmp_path, "--json")
        assert code == 1
        errors.append(json.loads(out)["error"])
    assert str(tmp_path / "run") in errors[0]["message"]
    assert ["--resume" in error["message"] for error in errors] == [True, False]


def test_excluded_files_are_listed_with_reasons(tmp_path, capsys):
    folder = digit_folder(tmp_path / "images", 2, 12)
    (folder / "digit 0" / 'zero, "quoted".png').touch()
    (folder / os.fsdecode(b"digit 1/not utf-8 \xff.png")).write_bytes(b"junk")
    (folder / "stray.png").touch()
    code, _, err = run_cli(
        capsys, "train", folder, "--out", tmp_path / "run", *QUICK, "--set", "data.max_unreadable_fraction=0.2"
    )
    assert code == 0, err
    with open(tmp_path / "run" / "excluded.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rows) == {"stray.png", 'digit 0/zero, "quoted".png', "digit 1/not utf-8 \\udcff.png"}
    assert len(set(rows.values())) == 3


def test_a_full_disk_while_saving_is_one_sentence(tmp_path, capsys, monkeypatch):
    folder = digit_folder(tmp_path / "images", 2, 12)

    def full(path, content):
        if path.name == "report.html":
            monkeypatch.setattr(
                "os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            )
        return write_atomic(path, content)

    monkeypatch.setattr("tellapart.pipeline.finish.write_atomic", full)
    code, _, err = run_cli(capsys, "train", folder, "--out", tmp_path / "run", *QUICK)
    assert code == 1
    assert "report.html" in err.splitlines()[-1]
    monkeypatch.undo()
    progress = RecordingProgress()
    tellapart.train(folder, out=tmp_path / "run", resume=True, epochs=1, size=16, progress=progress)
    assert Event.TRAINING_RESUMED in progress.events


def test_wrong_usage_has_exit_code_2(capsys):
    assert run_cli(capsys, "train")[0] == 2
    assert run_cli(capsys, "train", "digits", "--epochs", "0")[0] == 2
    assert run_cli(capsys, "--help")[0] == 0


def test_interrupting_names_the_way_to_resume(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for function, command, is_resumable in (("train", "train", True), ("load_dataset", "audit", False)):
        monkeypatch.setattr(f"tellapart.{function}", interrupted)
        code, _, err = run_cli(capsys, command, "digits")
        assert (code, err.count("\n")) == (130, 1)
        assert ("--resume" in err) == is_resumable


def test_importing_tellapart_brings_no_torch():
    code = (
        "import sys, tellapart; tellapart.audit_dataset; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def bad_files(folder: Path, random: np.random.Generator) -> int:
    """Mix random bad files into a folder of images; return how many."""
    good = sorted(folder.rglob("*.png"))
    count = int(random.integers(1, 5))
    for number in range(count):
        target = random.choice(good).parent / f"bad {number}"
        data = bytearray(random.choice(good).read_bytes())
        kind = random.integers(0, 8)
        if kind == 0:
            target.with_suffix(".jpg").touch()
        elif kind == 1:
            target.with_suffix(".png").write_bytes(data[: random.integers(0, len(data))])
        elif kind == 2:
            data[random.integers(0, len(data))] ^= int(random.integers(1, 256))
            target.with_suffix(".png").write_bytes(data)
        elif kind == 3:
            target.with_suffix(".webp").write_bytes(random.bytes(500))
        elif kind == 4:
            target.with_suffix(".png").mkdir()
        elif kind == 5:
            target.with_suffix(".png").symlink_to("nowhere")
        elif kind == 6:
            os.mkfifo(target.with_suffix(".png"))
        else:
            (target.parent / f"new\nline {number} <script>.png").write_bytes(b"<script>")
    return count


def train_with_bad_files(seed, root, capsys):
    random = np.random.default_rng(seed)
    folder = digit_folder(root / "images", 2, 10)
    bad_files(folder, random)
    before = checksums(folder)
    allowed = random.choice(["0.01", "0.5"])
    code, _, err = run_cli(
        capsys, "train", folder, "--out", root / "run", *QUICK, "--set", f"data.max_unreadable_fraction={allowed}"
    )
    assert "Traceback" not in err
    assert code in (0, 1)
    if code:
        assert err.splitlines()[-1].startswith("Error: ")
        assert not (root / "run").exists()
    else:
        assert (root / "run" / "report.html").is_file()
    assert checksums(folder) == before
    shutil.rmtree(root)


@pytest.mark.parametrize("seed", range(10))
def test_random_bad_files(seed, tmp_path, capsys):
    train_with_bad_files(seed, tmp_path / "x", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 100))
def test_more_random_bad_files(seed, tmp_path, capsys):
    train_with_bad_files(seed, tmp_path / "x", capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "IMAGES", "--out", "n" * 300),
        ("train", "n" * 300),
        ("train", "LOOP"),
        ("audit", "LOOP/below"),
        ("audit", "IMAGES", "--out", "n" * 300 + ".csv"),
        ("predict", "n" * 300, "x.png"),
        ("predict", "efficientnet_lite0", "n" * 300 + ".png"),
        ("evaluate", "LOOP", "IMAGES"),
        ("compare", "n" * 300, "n" * 300),
        ("runs", "n" * 300),
        ("export", "n" * 300, "--to", "onnx"),
        ("tune", "IMAGES", "--out", "LOOP/below"),
        ("label-issues", "IMAGES", "--out", "LOOP/below.csv"),
    ],
)
def test_paths_that_cannot_be_used_are_told_in_a_sentence(tmp_path, arguments):
    digit_folder(tmp_path / "IMAGES", 2, 12)
    (tmp_path / "LOOP").symlink_to("LOOP")
    command = [sys.executable, "-m", "tellapart", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()
    assert len(result.stderr) < 2000


@pytest.mark.parametrize(("redirection", "code"), [("> /dev/full", 1), (">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)])
@pytest.mark.parametrize("command", ["audit digits", "audit digits --json"])
def test_a_closed_or_full_output_is_no_traceback(redirection, code, command):
    line = f"{sys.executable} -m tellapart {command} {redirection}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
