"""The web app as one HTML file, opened from the disk."""

import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

import tellapart
from tellapart.errors import ExportError
from tellapart.progress import Progress


@pytest.fixture(scope="module")
def page_file(run):
    return tellapart.export(run.directory, "web-file", title="My <digits>", progress=Progress())


def test_the_file_works_from_the_disk(page_file, run, browser, photos):
    assert page_file.path == run.directory / "model.html"
    assert page_file.size == page_file.path.stat().st_size
    requests, problems = [], []
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.on("request", lambda request: requests.append(request.url))
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(page_file.path.as_uri())
    expect(page.locator("#status[data-state=ready]")).to_be_visible(timeout=60_000)
    assert page.title() == page.locator("h1").inner_text() == "My <digits>"
    digits = sorted((run.directory.parent / "my digits").rglob("*.png"))[:3]
    for path in (*digits, photos[0]):
        expected = run.classifier.predict(path)
        page.locator("#files").set_input_files(path)
        expect(page.locator("#status[data-state=done]")).to_be_visible(timeout=20_000)
        card = page.locator("#images > li").first
        assert card.locator("h2").inner_text() == expected.label
        shown = float(re.search(r"([\d.]+)%", card.locator(".bars li").first.inner_text())[1]) / 100
        assert np.isclose(shown, expected.probability, atol=0.006)
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []
    assert problems == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert Axe().run(page).violations_count == 0
    context.close()


def test_a_title_is_for_web_apps_alone(run, tmp_path):
    with pytest.raises(ExportError) as error:
        tellapart.export(run.directory, "onnx", title="Digits", out=tmp_path / "model.onnx")
    assert "--title" in str(error.value)
