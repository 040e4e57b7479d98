"""The pages of the server in a browser: classify images, see the status, label captured images."""

import csv
import io
import json
import re
import time
import urllib.request

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

import tellapart
from browsers import ADD_FILES, HOSTILE
from encoding import encode, to_base64
from folders import QUICK, digit_folder
from tellapart.data.image import decode
from tellapart.pipeline.train import train
from tellapart.serving.worker.occlusion import occluded_copies, render_occlusion_map

EXPECTED_CONSOLE = re.compile(r"status of (401|422)")  # Chromium logs failed requests, which the tests provoke
SIZES = {"desktop": {"width": 1100, "height": 900}, "phone": {"width": 390, "height": 800}}
TOKEN = "a-long-enough-token"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    folder = digit_folder(root / "my digits", 4, 30)
    (folder / "digit 3").rename(folder / HOSTILE)
    return train(folder, out=root / "run", **QUICK)


@pytest.fixture(scope="module")
def exported(run):
    return tellapart.export(run.directory).path


@pytest.fixture
def start(start_server):
    """Return a function that starts a server; at the end it stops without an error in its log."""
    servers = []

    def start(**settings):
        servers.append(start_server(**settings))
        return servers[-1]

    yield start
    for server in servers:
        assert server.stop() == 0
        assert server.tracebacks() == 0


@pytest.fixture
def visit(browser):
    """Return a function that opens a page; at the end the console is empty, and no other host was contacted."""
    contexts, problems = [], []

    def visit(server, path="", **options):
        address = f"{server.address}/"
        context = browser.new_context(**options)
        contexts.append(context)
        allowed = (address, f"blob:{address}")
        context.on("request", lambda request: request.url.startswith(allowed) or problems.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: EXPECTED_CONSOLE.search(message.text) or problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address + path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert problems == []


def check_accessibility(page):
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def drop_files(page, files):
    page.evaluate(ADD_FILES, [[[name, to_base64(content)] for name, content in files.items()], "drop"])


def digit_files(run):
    return sorted((run.directory.parent / "my digits").rglob("*.png"))


def check_table(rows, files, classifier, path):
    """Compare the rows of a CSV file with the predictions of a classifier; path: for a temporary file."""
    assert [row["path"].removeprefix("'") for row in rows] == list(files)
    for row, (name, content) in zip(rows, files.items(), strict=True):
        if name == "broken.jpg":
            assert (row["code"], row["label"]) == ("unreadable_image", "")
            continue
        path.write_bytes(content)
        expected = classifier.predict(path)
        assert row["label"] == expected.label.lstrip() or row["label"] == f"'{expected.label}"
        assert float(row["probability"]) == pytest.approx(expected.probability, abs=1e-5)
        assert row["in_distribution"] == str(expected.in_distribution).lower()
        assert row["prediction_set"] == " | ".join(expected.prediction_set)


@pytest.mark.parametrize("size", SIZES)
def test_twenty_images_are_classified_and_saved(start, visit, exported, run, photos, tmp_path, size):
    page = visit(start(), viewport=SIZES[size], accept_downloads=True)
    expect(page.locator("#status[data-state=ready]")).to_be_visible()
    check_accessibility(page)
    digits = digit_files(run)[:14]
    files = {f"{number} {path.name}": path.read_bytes() for number, path in enumerate([*digits, *photos[:4]])}
    files |= {'=cmd, "odd".png': files[f"0 {digits[0].name}"], "broken.jpg": photos[0].read_bytes()[:900]}
    assert len(files) == 20
    drop_files(page, files)
    expect(page.locator("[aria-busy]")).to_have_count(0, timeout=60_000)
    expect(page.locator(".image")).to_have_count(20)
    with page.expect_download() as download:
        page.locator("#save").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classifier = tellapart.load(exported)
    check_table(rows, files, classifier, tmp_path / "image")
    assert rows[18]["path"].startswith("'=")  # no spreadsheet evaluates it
    check_accessibility(page)
    card = page.locator(".image").first
    card.locator(".why button").click()
    explanation = card.locator(".why img")
    expect(explanation).to_be_visible(timeout=30_000)
    assert explanation.evaluate("image => image.naturalWidth") == classifier.preprocess.size
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_explanations_equal_those_of_python(start, exported, run):
    server, classifier = start(), tellapart.load(exported)
    content = digit_files(run)[0].read_bytes()

    def explain(query=""):
        request = urllib.request.Request(f"{server.address}/v1/explain{query}", content, {"content-type": "image/png"})
        return np.asarray(Image.open(io.BytesIO(urllib.request.urlopen(request).read())), int)

    pixels = classifier.resize(decode(content))
    unoccluded = classifier.compute_outputs(pixels[None])[0][0]
    occluded = np.concatenate([classifier.compute_outputs(image[None])[0] for image in occluded_copies(pixels)])
    top = int(unoccluded.argmax())
    for index in (top, (top + 1) % len(unoccluded)):
        png = render_occlusion_map(pixels, float(unoccluded[index]), occluded[:, index])
        expected = np.asarray(Image.open(io.BytesIO(png)), int)
        assert abs(explain(f"?index={index}") - expected).max() <= 5
    assert (explain() == explain(f"?index={top}")).all()  # the most probable class by default
    assert server.ask("/v1/explain?index=9", content)[0] == 422


def test_the_status_page_shows_recent_activity(start, visit, photos):
    server = start()
    page = visit(server, "status")
    expect(page.locator("#state[data-state=ready]")).to_be_visible()
    for _ in range(5):
        prediction = server.ask(body=photos[0].read_bytes())[1]
    server.ask(body=b"text")
    expect(page.locator("#classes li")).to_have_count(1, timeout=10_000)
    expect(page.locator("#classes")).to_contain_text(prediction["label"].strip())
    expect(page.locator("#failed")).to_have_text("1")
    expect(page.locator("#p50")).to_have_text(re.compile(r"\d"))
    check_accessibility(page)


def test_the_page_asks_for_the_token(start, visit, photos):
    server = start(token=TOKEN)
    page = visit(server)
    token, submit = page.locator("#token input[type=password]"), page.locator("#token button")
    token.fill("wrong")
    submit.click()
    token.fill(TOKEN)
    check_accessibility(page)
    submit.click()
    expect(page.locator("#token")).to_have_count(0)
    drop_files(page, {"a.jpg": photos[0].read_bytes()})
    expect(page.locator(".image .bars li").first).to_be_visible(timeout=20_000)
    assert "digit" not in server.ask("/")[1]  # without the token, the page names no class


def test_captured_images_are_labelled(start, visit, tmp_path):
    server = start(capture=str(tmp_path / "captured"))
    for seed in range(12):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        server.ask(body=encode(Image.fromarray(noise), "png"))
        time.sleep(0.6)
        if server.ask("/v1/captures")[1]["unlabelled"] == 3:
            break
    page = visit(server, "label", viewport=SIZES["phone"])

    def expect_counts(unlabelled, labelled):
        expect(page.locator(f'#state[data-unlabelled="{unlabelled}"][data-labelled="{labelled}"]')).to_be_visible()

    expect_counts(3, 0)
    expect(page.locator("img#image")).to_be_visible()
    check_accessibility(page)
    page.locator("#label").fill("noise")
    page.locator("#form button").click()
    expect_counts(2, 1)
    page.locator("#choices").get_by_role("button", name="digit 1").click()
    expect_counts(1, 2)
    page.locator("#delete").click()
    expect_counts(0, 2)
    expect(page.locator("#card")).to_be_hidden()
    assert server.ask("/v1/captures")[1]["unlabelled"] == 0


def test_skipped_images_stay_unlabelled(start, visit, tmp_path):
    server = start(capture=str(tmp_path / "captured"))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    server.ask(body=encode(Image.fromarray(noise), "png"))
    time.sleep(0.6)
    page = visit(server, "label")
    page.locator("#skip").click()
    expect(page.locator("#card")).to_be_hidden()
    assert server.ask("/v1/captures")[1]["unlabelled"] == 1


def test_the_api_documentation_loads_nothing_from_other_hosts(start, visit):
    server = start()
    page = visit(server, "docs")
    expect(page.get_by_text("/v1/predict").first).to_be_visible(timeout=20_000)
    addresses = re.findall(r"(?:href|src|url)[=:] ?[\"']([^\"']+)", server.ask("/docs")[1])
    assert len(addresses) >= 4
    assert not any(address.startswith(("/", "http")) for address in addresses)  # a proxy may serve it below a prefix


def test_the_table_of_predictions_is_csv(start, visit):
    page = visit(start())
    rows = [
        ["a\r\nb", {"label": 'x"y', "probability": 0.25, "prediction_set": ["p", "q"], "in_distribution": None}],
        ["+1", {"error": "no, \n"}],
    ]
    text = page.evaluate("async (rows) => (await import('./table.js')).toCsv(rows)", json.loads(json.dumps(rows)))
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert (first["path"], first["label"], first["prediction_set"]) == ("a\r\nb", 'x"y', "p | q")
    assert first["in_distribution"] == ""
    assert (second["path"], second["error"], second["probability"]) == ("'+1", "no, \n", "")
