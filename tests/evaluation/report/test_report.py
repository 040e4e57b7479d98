"""The report as a browser shows it."""

import json

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

import tellapart
from browsers import HOSTILE
from folders import QUICK, digit_folder
from tellapart.data.arrays import from_arrays
from tellapart.pipeline.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    folder = digit_folder(root / "pictures", 7, 12)
    (folder / "digit 6").rename(folder / HOSTILE)
    return train(folder, out=root / "run", **QUICK)


@pytest.fixture(scope="module")
def large_run(tmp_path_factory):
    """200 classes, each a pattern of its own with noise on it, hard enough that there are mistakes."""
    random = np.random.default_rng(0)
    labels = np.arange(200).repeat(10)
    patterns = random.integers(0, 256, (200, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = (0.5 * patterns[labels] + random.normal(64, 60, (2000, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    names = np.array([f"kind {number:03d} of a rather long name" for number in range(200)])
    out = tmp_path_factory.mktemp("large") / "run"
    return train(from_arrays(images, names[labels], "patterns"), out=out, **(QUICK | {"epochs": 3}))


@pytest.fixture(params=["run", "large_run"])
def any_run(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_report_opens_from_disk_and_asks_for_nothing(any_run, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(any_run.report.as_uri())
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert any_run.report.stat().st_size < 10_000_000
    text = page.inner_text("body")
    assert f"{any_run.metrics['test']['accuracy']['value']:.1%}".replace("%", "\N{NO-BREAK SPACE}%") in text
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("[role=img]:not([aria-label])").count() == 0
    assert page.locator("figure").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


@pytest.mark.parametrize("model", ["run", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)])
def test_report_of_other_pictures(run, browser, tmp_path, photos, make_tree, model):
    if model == "run":
        folder, source = digit_folder(tmp_path / "some", 3, 20), tmp_path / "scanned.csv"
        files = sorted(folder.rglob("*.png"))
        rows = [f"{path},{path.parent.name},{HOSTILE if n % 2 else 'B'}" for n, path in enumerate(files)]
        source.write_text("\n".join(["path,label,scanner", *rows]))
        model = run.directory
    else:
        source = make_tree({"tabby cat": photos[:3], "goldfish": photos[3:6]})
    tellapart.evaluate_on(model, source, report=tmp_path / "page.html")
    page = browser.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert problems == []
    text = page.inner_text("body")
    assert "given for this test" in text
    assert "Learning curves" not in text
    kinds = page.get_by_role("region", name="Accuracy by kinds of pictures").inner_text()
    assert ("scanner" in kinds) == (HOSTILE in kinds) == source.is_file()
    assert Axe().run(page).violations_count == 0
    page.close()


def test_names_of_classes_are_text_and_nothing_else(run, browser):
    page = browser.new_page()
    page.goto(run.report.as_uri())
    assert HOSTILE in page.inner_text("body")
    assert page.locator("img[src=x]").count() == 0
    page.close()


def test_table_of_classes_sorts_by_number(large_run, browser):
    page = browser.new_page()
    page.goto(large_run.report.as_uri())
    table = page.get_by_role("region", name="Figures of each class")
    recall = [figures["recall"]["value"] for figures in large_run.metrics["test"]["classes"].values()]
    assert len(set(recall)) > 2
    for order, expected in (("ascending", sorted(recall)), ("descending", sorted(recall, reverse=True))):
        table.get_by_role("button", name="Recall").click()
        assert table.locator("th", has_text="Recall").get_attribute("aria-sort") == order
        cells = table.locator("tbody tr td:nth-child(4)")
        shown = [float(value) for value in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]
        assert shown == pytest.approx(expected)
    assert table.locator("tfoot tr").count() == 2
    page.close()


def test_page_prints(run, browser, tmp_path):
    page = browser.new_page()
    page.goto(run.report.as_uri())
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
    page.close()


def test_report_json_says_what_the_page_shows(any_run):
    found = json.loads((any_run.directory / "report.json").read_text(encoding="utf-8"))
    assert found["metrics"] == any_run.metrics
    assert found["wrong"] == round((1 - found["metrics"]["test"]["accuracy"]["value"]) * found["split"]["test"])
    assert len(found["mistakes"]) == min(24, found["wrong"])
    matrix = np.array(found["metrics"]["test"]["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    assert [pair["times"] for pair in found["confused"]] == sorted(matrix[matrix > 0], reverse=True)[:6]
    assert found["sets"]["coverage"] == 0.95
    assert sum(found["sets"]["sizes"].values()) == found["split"]["test"]
    assert {each["kind"] for each in found["robustness"]} >= {"noise", "blur", "rotation"}
    assert {each["column"] for each in found["slices"]} >= {"brightness", "sharpness"}


def test_metrics_file_holds_an_interval_for_every_headline(run):
    metrics = json.loads((run.directory / "metrics.json").read_text(encoding="utf-8"))
    for part in ("validation", "test"):
        figures = metrics[part]
        for name in (
            "accuracy",
            "top5_accuracy",
            "balanced_accuracy",
            "macro_f1",
            "weighted_f1",
            "log_loss",
            "brier",
            "kappa",
        ):
            assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"], name
        assert HOSTILE in figures["classes"]
    assert len(metrics["test"]["confusion_matrix"]) == 7
