"""The report, as a browser shows it and as JSON."""

import json
import subprocess
import sys

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

import tellapart
from browsers import HOSTILE
from folders import QUICK, digit_folder
from tellapart.data.arrays import from_arrays
from tellapart.data.builtin import load_digits
from tellapart.data.dataset import ArrayImages, dataset_from_labels
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    folder = digit_folder(root / "images", 7, 12)
    (folder / "digit 6").rename(folder / HOSTILE)
    return train(folder, out=root / "run", **QUICK)


@pytest.fixture(scope="module")
def large_run(tmp_path_factory):
    """200 classes, each a noisy pattern, hard enough for misclassified images."""
    random = np.random.default_rng(0)
    labels = np.arange(200).repeat(7)
    patterns = random.integers(0, 256, (200, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = (0.5 * patterns[labels] + random.normal(64, 60, (1400, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    names = np.array([f"kind {number:03d} of a rather long name" for number in range(200)])
    out = tmp_path_factory.mktemp("large") / "run"
    return train(from_arrays(images, names[labels], "patterns"), out=out, **(QUICK | {"epochs": 3}))


@pytest.fixture(params=["run", "large_run"])
def any_run(request):
    return request.getfixturevalue(request.param)


def open_page(browser, path, **options):
    """Return a page, with the console messages and errors, and the addresses that it requested."""
    page = browser.new_page(**options)
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    return page, problems, requests


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_report_opens_from_disk_without_requests(any_run, browser, width, scheme):
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    page, problems, requests = open_page(browser, any_run.report, **options)
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert any_run.report.stat().st_size < 10_000_000
    accuracy = f"{100 * any_run.metrics['test']['accuracy']['value']:.1f}%"
    assert accuracy in page.inner_text("body")
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("[role=img]:not([aria-label])").count() == 0
    assert page.locator("figure").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    result = Axe().run(page)
    assert result.violations_count == 0, result.generate_report()
    page.close()


@pytest.mark.parametrize("model", ["run", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)])
def test_report_of_other_images(run, browser, tmp_path, photos, make_tree, model):
    if model == "run":
        folder, source = digit_folder(tmp_path / "some", 3, 20), tmp_path / "scanned.csv"
        files = sorted(folder.rglob("*.png"))
        rows = [f"{path},{path.parent.name},{HOSTILE if n % 2 else 'B'}" for n, path in enumerate(files)]
        source.write_text("\n".join(["path,label,scanner", *rows]))
        model = run.directory
    else:
        source = make_tree({"tabby cat": photos[:3], "goldfish": photos[3:6]})
    tellapart.evaluate(model, source, report=tmp_path / "page.html")
    page, problems, _ = open_page(browser, tmp_path / "page.html")
    run_page, _, _ = open_page(browser, run.report)
    assert problems == []
    assert page.locator("svg").count() == run_page.locator("svg").count() - 1  # no training curves
    tables = " ".join(page.locator("table").all_inner_texts())
    assert ("scanner" in tables) == (HOSTILE in tables) == source.is_file()
    assert Axe().run(page).violations_count == 0
    page.close()
    run_page.close()


def test_class_names_are_escaped(run, browser):
    page, _, _ = open_page(browser, run.report)
    assert HOSTILE in page.inner_text("body")
    assert page.locator("img[src=x]").count() == 0
    page.close()


def test_class_table_sorts_by_number(large_run, browser):
    page, _, _ = open_page(browser, large_run.report)
    table = page.locator("table", has=page.locator("th button"))
    recall = [metrics["recall"]["value"] for metrics in large_run.metrics["test"]["classes"].values()]
    assert len(set(recall)) > 2
    heading = table.locator("th").nth(3)
    for order, expected in (("ascending", sorted(recall)), ("descending", sorted(recall, reverse=True))):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == order
        cells = table.locator("tbody tr td:nth-child(4)")
        shown = [float(value) for value in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]
        assert shown == pytest.approx(expected)
    assert table.locator("tfoot tr").count() == 2
    page.close()


@pytest.mark.parametrize("kind", ["group", "duplicates", "image"])
def test_report_says_what_counts_as_independent(browser, tmp_path, kind):
    digits = load_digits()
    rows = [row for row in range(600) if digits.labels[row] < 3]
    rows += rows[: 60 * (kind == "duplicates")]
    groups = [f"patient {number % 30}" for number in range(len(rows))] if kind == "group" else None
    images = ArrayImages(np.stack([digits.images.read(row) for row in rows]), "digits")
    dataset = dataset_from_labels("digits", images, [digits.label_name(row) for row in rows], groups=groups)
    run = train(dataset, out=tmp_path / "run", **QUICK | {"epochs": 1})
    test = run.metrics["test"]
    assert test["unit"] == kind
    assert sum(row["images"] for row in test["classes"].values()) == test["images"]
    page, problems, _ = open_page(browser, run.report)
    section = page.locator("h2#independent ~ p").first
    if kind == "image":
        assert all(row["units"] == row["images"] for row in test["classes"].values())
        assert page.locator("#independent").count() == 0
    else:
        assert test["units"] < test["images"]
        assert str(test["units"]) in section.locator("strong").inner_text()
        cells = page.locator("[aria-label='Independent units by class'] tbody td:last-child").all_inner_texts()
        assert cells == [str(row["units"]) for row in test["classes"].values()]
    assert problems == []
    page.close()


def test_page_prints(run, browser, tmp_path):
    page, _, _ = open_page(browser, run.report)
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
    page.close()


def test_report_json_has_the_content_of_the_page(any_run):
    content = json.loads((any_run.directory / "report.json").read_text(encoding="utf-8"))
    test = content["metrics"]["test"]
    assert content["metrics"] == any_run.metrics
    assert content["n_misclassified"] == round((1 - test["accuracy"]["value"]) * content["split"]["test"])
    assert len(content["misclassified"]) == min(24, content["n_misclassified"])
    matrix = np.array(test["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    assert [pair["count"] for pair in content["confusions"]] == sorted(matrix[matrix > 0], reverse=True)[:6]
    assert content["prediction_sets"]["nominal_coverage"] == 0.8
    assert sum(content["prediction_sets"]["sizes"].values()) == content["split"]["test"]
    assert 0 <= content["out_of_distribution"]["value"] <= 1
    assert {result["corruption"] for result in content["robustness"]} >= {"noise", "blur", "rotation"}
    assert {result["column"] for result in content["slices"]} >= {"brightness", "sharpness"}


def test_metrics_file_has_an_interval_for_every_headline_metric(run):
    metrics = json.loads((run.directory / "metrics.json").read_text(encoding="utf-8"))
    names = ("accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss", "brier", "kappa")
    for split in ("validation", "test"):
        for name in names:
            estimate = metrics[split][name]
            assert estimate["low"] <= estimate["value"] <= estimate["high"], name
        assert HOSTILE in metrics[split]["classes"]
    assert len(metrics["test"]["confusion_matrix"]) == 7


DRAW = """
import sys
import numpy as np
import matplotlib
CHOOSE
backend = matplotlib.rcParams._get_backend_or_none()
from tellapart.evaluation.report import plots
assert "<svg" in plots.confusion(np.eye(3, dtype=int), ("a", "b", "c"))
assert "<svg" in plots.importances({"a": 0.7, "b": 0.3})
assert matplotlib.rcParams._get_backend_or_none() == backend, backend
assert matplotlib.rcParams["svg.fonttype"] == matplotlib.rcParamsDefault["svg.fonttype"]
assert ("matplotlib.pyplot" in sys.modules) == PYPLOT
"""


@pytest.mark.parametrize("uses_pyplot", [True, False])
def test_plots_leave_the_matplotlib_backend_alone(uses_pyplot):
    choose = "matplotlib.use('pdf'); import matplotlib.pyplot" if uses_pyplot else ""
    code = DRAW.replace("CHOOSE", choose).replace("PYPLOT", str(uses_pyplot))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("settings", "named", "unnamed"),
    [
        ({}, ["augmentation", "label smoothing"], []),
        ({"augment": None}, ["label smoothing"], ["with augmentation"]),
        ({"augment": None, "label_smoothing": 0.0}, [], ["with augmentation", "label smoothing"]),
    ],
)
def test_notes_on_the_curves_name_what_training_used(tmp_path, settings, named, unnamed):
    run = train(digit_folder(tmp_path / "images", 2, 8), out=tmp_path / "run", **QUICK | settings)
    page = run.report.read_text()
    assert all(words in page for words in named)
    assert not any(words in page for words in unnamed)
