"""The server's pages as a browser runs them: for people with pictures, for those who watch, for those who label."""

import base64
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
from browsers import GIVE, HOSTILE
from encoding import encode
from folders import QUICK, digit_folder
from servers import Server
from tellapart.data.image import decode
from tellapart.pipeline.train import train
from tellapart.serving.worker.occlusion import covered, spotlight

ASKED = re.compile(r"status of (401|422)")  # what the tests ask for: Chromium notes every one of them
SIZES = {"desktop": {"width": 1100, "height": 900}, "phone": {"width": 390, "height": 800}}


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
def start(exported, tmp_path):
    servers = []

    def started(options):
        servers.append(Server(tmp_path, exported, options=repr(options)))
        return servers[-1]

    yield started
    for server in servers:
        assert server.end() == 0
        assert "Traceback" not in server.told()


@pytest.fixture
def visit(browser):
    """Return a function that opens a page; at the end nothing was complained of, and no other host was asked."""
    contexts, problems = [], []

    def opened(server, path="", **options):
        address = f"http://127.0.0.1:{server.port}/"
        context = browser.new_context(**options)
        contexts.append(context)
        own = (address, f"blob:{address}")
        context.on("request", lambda request: request.url.startswith(own) or problems.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: ASKED.search(message.text) or problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def clean(page):
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def give(page, files):
    page.evaluate(GIVE, [[[name, base64.b64encode(content).decode()] for name, content in files.items()], "drop"])


@pytest.mark.parametrize("size", SIZES)
def test_twenty_pictures_are_labelled_and_saved(start, visit, exported, run, photos, tmp_path, size):
    server = start({})
    page = visit(server, viewport=SIZES[size], accept_downloads=True)
    expect(page.get_by_text("Ready.", exact=True)).to_be_visible()
    clean(page)
    digits = sorted((run.directory.parent / "my digits").rglob("*.png"))[:14]
    files = {f"{number} {path.name}": path.read_bytes() for number, path in enumerate([*digits, *photos[:4]])}
    files |= {'=cmd, "odd".png': files[f"0 {digits[0].name}"], "broken.jpg": photos[0].read_bytes()[:900]}
    assert len(files) == 20
    give(page, files)
    expect(page.locator("[aria-busy]")).to_have_count(0, timeout=60_000)
    expect(page.locator(".picture")).to_have_count(20)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classifier = tellapart.load(exported)
    assert [row["path"].removeprefix("'") for row in rows] == list(files)
    assert rows[18]["path"].startswith("'=")  # no spreadsheet computes it
    for row, (name, content) in zip(rows, files.items(), strict=True):
        if name == "broken.jpg":
            assert row["error"]
            assert not row["label"]
            continue
        (tmp_path / "one").write_bytes(content)
        expected = classifier.predict(tmp_path / "one")
        assert row["label"] == expected.label.lstrip() or row["label"] == f"'{expected.label}"
        assert float(row["probability"]) == pytest.approx(expected.probability, abs=1e-5)
        assert row["familiar"] == str(expected.familiar).lower()
        assert row["set"] == " | ".join(expected.set)
    clean(page)
    card = page.locator(".picture").first
    card.get_by_role("button", name="Which parts count").click()
    shown = card.locator(".why img")
    expect(shown).to_be_visible(timeout=30_000)
    assert shown.evaluate("image => image.naturalWidth") == classifier.preprocess.size
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_what_counts_is_found_from_the_answers(start, exported, run):
    """The server covers parts of a picture, as Python does here, and shows the same."""
    server, classifier = start({}), tellapart.load(exported)
    content = sorted((run.directory.parent / "my digits").rglob("*.png"))[0].read_bytes()

    def explained(query=""):
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/v1/explain{query}", content, {"content-type": "image/png"}
        )
        return np.asarray(Image.open(io.BytesIO(urllib.request.urlopen(request).read())), int)

    pixels = classifier.resize(decode(content))
    whole = classifier.outputs(pixels[None])[0][0]
    parts = np.concatenate([classifier.outputs(each[None])[0] for each in covered(pixels)])
    top = int(whole.argmax())
    for index in (top, (top + 1) % len(whole)):
        expected = np.asarray(Image.open(io.BytesIO(spotlight(pixels, float(whole[index]), parts[:, index]))), int)
        assert abs(explained(f"?index={index}") - expected).max() <= 5
    assert (explained() == explained(f"?index={top}")).all()  # the most probable, if none is named
    assert server.ask("/v1/explain?index=9", content)[0] == 422


def test_the_live_view_shows_what_happens(start, visit, photos):
    server = start({})
    page = visit(server, "live")
    expect(page.get_by_text("Ready.", exact=True)).to_be_visible()
    for _ in range(5):
        answer = server.ask(body=photos[0].read_bytes())[1]
    server.ask(body=b"text")
    expect(page.locator("#classes li")).to_have_count(1, timeout=10_000)
    expect(page.locator("#classes")).to_contain_text(answer["label"].strip())
    expect(page.locator("#refused")).to_have_text("1")
    expect(page.locator("#p50")).to_contain_text("ms")
    clean(page)


def test_a_token_is_asked_for_and_kept(start, visit, photos):
    server = start({"token": "a-long-enough-token"})
    page = visit(server)
    page.get_by_label("This server asks for a token.").fill("wrong")
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("This server asks for a token.").fill("a-long-enough-token")
    clean(page)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("Ready.", exact=True)).to_be_visible()
    give(page, {"a.jpg": photos[0].read_bytes()})
    expect(page.locator(".picture .bars li").first).to_be_visible(timeout=20_000)
    assert "digit" not in server.ask("/")[1]  # the page tells nothing to those without it


def test_kept_pictures_are_labelled(start, visit, tmp_path):
    server = start({"collect": str(tmp_path / "kept")})
    for seed in range(12):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        server.ask(body=encode(Image.fromarray(noise), "png"))
        time.sleep(0.6)
        found = server.ask("/v1/collected")[1]
        if found["unlabelled"] == 3:
            break
    assert found["unlabelled"] == 3
    page = visit(server, "label", viewport=SIZES["phone"])
    expect(page.get_by_text("3 to go, 0 labelled so far.")).to_be_visible()
    clean(page)
    page.get_by_label("Its class").fill("noise")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("2 to go, 1 labelled so far.")).to_be_visible()
    page.get_by_role("button", name="digit 1").click()
    expect(page.get_by_text("1 to go, 2 labelled so far.")).to_be_visible()
    page.get_by_role("button", name="Do not keep it").click()
    expect(page.get_by_text("There is nothing to label. 2 labelled so far.")).to_be_visible()
    assert server.ask("/v1/collected")[1]["unlabelled"] == 0


def test_the_description_needs_no_other_host(start, visit):
    page = visit(start({}), "docs")
    expect(page.get_by_text("/v1/predict").first).to_be_visible(timeout=20_000)


def test_the_answers_as_a_table_are_csv(start, visit):
    page = visit(start({}))
    rows = [
        ["a\r\nb", {"label": 'x"y', "probability": 0.25, "set": ["p", "q"], "familiar": None}],
        ["+1", {"error": "no, \n"}],
    ]
    text = page.evaluate("async (rows) => (await import('./table.js')).table(rows)", json.loads(json.dumps(rows)))
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert (first["path"], first["label"], first["set"], first["familiar"]) == ("a\r\nb", 'x"y', "p | q", "")
    assert (second["path"], second["error"], second["probability"]) == ("'+1", "no, \n", "")
