"""The report as a browser shows it."""

import json
import shutil

import pytest
from playwright.sync_api import sync_playwright

from folders import QUICK, digit_folder
from tellapart.pipeline import train

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=alert(1)> & $x$"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    folder = digit_folder(root / "pictures", 7, 12)
    (folder / "digit 6").rename(folder / HOSTILE)
    return train(folder, out=root / "run", **QUICK)


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    assert path, "chromium is needed: scripts/test installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_report_opens_from_disk_and_asks_for_nothing(run, browser, width, tmp_path):
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(run.report.as_uri())
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    text = page.inner_text("body")
    assert f"{run.metrics['test']['accuracy']['value']:.1%}".replace("%", "\N{NO-BREAK SPACE}%") in text
    assert HOSTILE in text
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("figure").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_metrics_file_holds_an_interval_for_every_headline(run):
    metrics = json.loads((run.directory / "metrics.json").read_text(encoding="utf-8"))
    for part in ("validation", "test"):
        figures = metrics[part]
        for name in ("accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss"):
            assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"], name
        assert HOSTILE in figures["classes"]
    assert len(metrics["test"]["confusion_matrix"]) == 7
