"""The web app as a browser runs it: the same answers as in Python, on the device alone, offline too, for everyone."""

import base64
import functools
import hashlib
import http.server
import io
import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import expect

import tellapart
from browsers import GIVE, HOSTILE, IN_PAGE
from encoding import encode
from folders import QUICK, digit_folder, run_cli
from servers import wait_for
from tellapart.data.image import decode
from tellapart.errors import BadRuntime, CannotExport, DownloadFailed
from tellapart.exporters.web import onnxruntime_web
from tellapart.exporters.web.app import app_files
from tellapart.inference.load import load
from tellapart.inference.onnx_safety import read_onnx
from tellapart.inference.prediction import Answers
from tellapart.pipeline.train import train
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Progress
from tellapart.uncertainty.conformal import SetRule

ANSWER = f"""async (data) => {{ {IN_PAGE} const {{ answer }} = await import("./local.js");
return answer(new Blob([bytes(data)])); }}"""
RESIZE = f"""async ([data, height, width, settings]) => {{ {IN_PAGE} const {{ resize }} = await import("./resize.js");
const all = bytes(data);
const read = (left, top, w, h) => {{ const part = new Uint8Array(w * h * 4); for (let y = 0; y < h; y++)
  part.set(all.subarray(((top + y) * width + left) * 4).subarray(0, w * 4), y * w * 4); return part; }};
return text(resize(read, height, width, settings)); }}"""
ANSWER_OF = """async ([probabilities, distance, about]) => { const { answerOf } = await import("./answers.js");
return answerOf(new Float32Array(probabilities), distance, about); }"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("web")
    folder = digit_folder(root / "my digits", 7, 12)
    (folder / "digit 6").rename(folder / HOSTILE)
    return train(folder, out=root / "run", **QUICK)


@pytest.fixture(scope="module")
def exported(run):
    return tellapart.export(run.directory, "web", progress=Progress())


@pytest.fixture(scope="module")
def serve_folder():
    """Return a function that serves a folder as any host of files would, and returns its address."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    class Patient(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            """Say nothing of a browser that goes while it is being answered: pages are closed in these tests."""

    def serve(folder):
        servers.append(Patient(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def address(exported, serve_folder):
    return serve_folder(exported.path)


@pytest.fixture
def visit(browser, address):
    """Return a function that opens the app; at the end, nothing was complained of, and no other host was asked."""
    problems, contexts = [], []

    def open_page(path="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.on("request", lambda request: _is_own(request.url) or problems.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address + path)
        expect(page.get_by_text("Ready.", exact=True)).to_be_visible(timeout=60_000)
        return page

    def _is_own(url):
        return url.startswith((address, f"blob:{address}"))

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(visit):
    return visit()


def as_text(data):
    return base64.b64encode(data).decode()


def files(photos, small_pictures, rounds=1):
    """Return real pictures of many sizes, in the formats that browsers decode, with all EXIF orientations."""
    found = {}
    for number, path in enumerate(photos * rounds):
        found[path.name] = path.read_bytes()
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((97 + 31 * number % 600, 411 - 17 * number % 400))
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        see_through = image.copy()
        see_through.putalpha(image.convert("L"))
        options = {"quality": 70 + number % 30, "subsampling": number % 3, "exif": exif.tobytes()}
        found[f"{number}.jpg"] = encode(image, "jpeg", **options)
        found[f"{number}.webp"] = encode(see_through, "webp", lossless=True, exif=exif.tobytes())
        found[f"{number}.png"] = encode(see_through, "png", exif=exif.tobytes())
        found[f"{number}.gif"] = encode(image, "gif")
        found[f"{number}.bmp"] = encode(image, "bmp")
        found[f"grey {number}.png"] = encode(image.convert("L"), "png")
        found[f"progressive {number}.jpg"] = encode(image, "jpeg", progressive=True)
        found[f"lossy {number}.webp"] = encode(image, "webp", quality=60)
    return found | {path.name: path.read_bytes() for path in small_pictures}


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_answers_are_those_of_python(exported, page, run, photos, small_pictures, rounds):
    """Chromium 156 decodes all of these to the same levels as the decode policy; other browsers may not."""
    original = tellapart.load(run.directory)
    pictures = files(photos, small_pictures, rounds)
    pictures |= {path.name: path.read_bytes() for path in sorted(exported.golden.glob("*.png"))}
    assert len(pictures) > (180 if rounds == 1 else 500)
    strange = []
    for name, data in pictures.items():
        expected, found = original.predict(decode(data)), page.evaluate(ANSWER, as_text(data))
        assert found["label"] == expected.label, name
        assert dict(found["top"]) == pytest.approx(dict(expected.top), abs=1e-5), name
        assert (found["set"], found["familiar"]) == (list(expected.set), expected.familiar), name
        strange.append(not expected.familiar)
    assert 0 < sum(strange) < len(strange)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", pytest.param("bicubic", marks=pytest.mark.slow)])
def test_resize_is_that_of_python_to_the_bit(page, photo, resize, interpolation):
    chosen = PreprocessSettings(resize, 24, 3, (0.5,) * 3, (0.5,) * 3, interpolation, 0.875)
    for height, width in ((1, 1), (1, 61), (24, 24), (24, 60), (25, 49), (61, 97), (11, 7), (300, 1100), (2101, 999)):
        picture = np.asarray(Image.fromarray(photo).resize((width, height)))
        opaque = np.dstack([picture, np.full((height, width), 255, np.uint8)])
        given = [as_text(opaque.tobytes()), height, width, chosen.to_json()]
        found = np.frombuffer(base64.b64decode(page.evaluate(RESIZE, given)), np.uint8).reshape(24, 24, 3)
        assert (found == Preprocess(chosen).resize(picture)).all(), (height, width)


def test_sets_are_those_of_python(page):
    random = np.random.default_rng(0)
    names = tuple(f"class {k}" for k in range(12))

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=60, deadline=None)
    def check(seed):
        random = np.random.default_rng(seed)
        parts = random.integers(0, 9, 12) + (np.arange(12) == 3)  # small numbers: many are equal
        row = (parts / parts.sum()).astype(np.float32)
        rule = SetRule(0.9, tuple(np.where(random.random(12) < 0.1, np.inf, random.random(12))))
        told = Answers(row[None], rule.members(row[None])).prediction(0, "", names, 5)
        about = {"classes": names, "sets": rule.to_json(), "familiarity": None}
        found = page.evaluate(ANSWER_OF, [row.tolist(), None, about])
        assert (found["label"], found["set"]) == (told.label, list(told.set))
        assert found["top"] == [[name, share] for name, share in told.top]

    check()
    about = {"classes": names, "sets": None, "familiarity": {"limit": 0.1}}
    row = random.dirichlet(np.ones(12)).astype(np.float32).tolist()
    for distance in (0.0, float(np.float32(0.1)), float(np.nextafter(np.float32(0.1), np.float32(1)))):
        expected = bool((np.array([distance], np.float32) <= 0.1)[0])
        assert page.evaluate(ANSWER_OF, [row, distance, about]) | {"top": 0} == {
            "label": names[int(np.argmax(row))],
            "probability": max(row),
            "top": 0,
            "set": None,
            "familiar": expected,
        }


def test_folder_holds_what_it_needs_and_no_pictures_of_the_user(exported, run):
    names = {path.name for path in exported.path.iterdir()}
    assert exported.size == sum(path.stat().st_size for path in exported.path.iterdir())
    assert exported.path == run.directory / "model.web"
    assert {name for name in names if name.endswith((".png", ".jpg"))} == {
        "icon-192.png",
        "icon-512.png",
        "icon-apple.png",
        "icon-full.png",
    }
    worker = (exported.path / "service-worker.js").read_text()
    kept = json.loads(worker.split("const PARTS = ")[1].split(";")[0])
    assert set(kept) == names - {"index.html", "service-worker.js"} | {"./"}
    about = json.loads((exported.path / "classifier.json").read_text(encoding="utf-8"))
    assert about["sha256"] == hashlib.sha256((exported.path / "model.onnx").read_bytes()).hexdigest()
    assert list(load(exported.path / "model.onnx").classes) == about["classes"]
    golden = json.loads((exported.golden / "cases.json").read_text(encoding="utf-8"))
    assert (exported.golden / golden["model"]).is_file()


def test_manifest_makes_it_installable(exported, page):
    manifest = json.loads((exported.path / "manifest.webmanifest").read_text(encoding="utf-8"))
    assert manifest["name"] == "my digits"
    assert {manifest[key] for key in ("id", "start_url", "scope")} == {"./"}
    assert manifest["display"] == "standalone"
    for each in manifest["icons"]:
        with Image.open(exported.path / each["src"]) as image:
            assert f"{image.width}x{image.height}" == each["sizes"]
    assert {each["purpose"] for each in manifest["icons"]} == {"any", "maskable"}
    session = page.context.new_cdp_session(page)
    assert session.send("Page.getAppManifest")["errors"] == []
    reasons = [error["errorId"] for error in session.send("Page.getInstallabilityErrors")["installabilityErrors"]]
    assert set(reasons) <= {"in-incognito"}  # as each context of a test is


def test_works_offline_after_the_first_visit(visit, photos):
    page = visit()
    page.get_by_text("It works without a network from now on.").wait_for(timeout=60_000)
    page.context.set_offline(True)
    for path in ("", "index.html?from=home"):
        page.goto(page.url.split("index")[0] + path)
        expect(page.get_by_text("Ready.", exact=True)).to_be_visible(timeout=60_000)
        page.set_input_files("#files", photos[0])
        expect(page.locator(".bars li")).to_have_count(5)


@pytest.fixture
def host(exported, tmp_path):
    """A newer version of the app, and the folder of a host that serves the old one: (new, root)."""
    old, new, root = exported.path, tmp_path / "new", tmp_path / "host"
    document = json.loads((old / "classifier.json").read_text(encoding="utf-8"))
    runtime = {name: (old / name).read_bytes() for name in onnxruntime_web._FILES}
    _, whole = read_onnx(old / "model.onnx")
    new.mkdir()
    for name, content in app_files("another name", (old / "model.onnx").read_bytes(), whole, runtime).items():
        (new / name).write_bytes(content)
    assert document["classes"] == whole["classes"]
    shutil.copytree(old, root)
    return new, root


def test_an_upload_that_is_not_done_leaves_the_old_version_whole(serve_folder, browser, host):
    new, root = host
    address = serve_folder(root)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.get_by_text("It works without a network from now on.").wait_for(timeout=60_000)
    # The worker of the new version is there, and only some of the parts: a visit now must not mix them.
    shutil.copy(new / "service-worker.js", root)
    shutil.copy(new / "classifier.json", root)
    registration = "navigator.serviceWorker.getRegistration()"
    page.evaluate(f"{registration}.then((r) => r.update().catch(String))")
    wait_for(lambda: page.evaluate(f"{registration}.then((r) => !r.installing)"))
    assert page.evaluate(f"{registration}.then((r) => r.waiting === null)")
    page.reload()
    expect(page.get_by_text("Ready.", exact=True)).to_be_visible(timeout=60_000)
    assert page.title().startswith("my digits")
    assert len(page.evaluate("caches.keys()")) == 1
    shutil.copytree(new, root, dirs_exist_ok=True)
    page.evaluate(f"{registration}.then((r) => r.update())")
    wait_for(lambda: page.evaluate(f"{registration}.then((r) => r.waiting !== null)"))
    page.close()  # a new version takes over when nobody looks at the old one
    page = context.new_page()
    page.goto(address)
    expect(page.get_by_text("Ready.", exact=True)).to_be_visible(timeout=60_000)
    assert page.title().startswith("another name")
    context.close()


def test_pages_beside_and_below_the_app_are_their_own(serve_folder, browser, exported, tmp_path):
    root = shutil.copytree(exported.path, tmp_path / "host" / "app").parent
    (root / "app" / "below").mkdir()
    for place in (root, root / "app" / "below"):
        (place / "index.html").write_text("<title>another page</title>")
    (root / "app" / "other.html").write_text("<title>another page</title>")
    address = serve_folder(root)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address + "app/")
    page.get_by_text("It works without a network from now on.").wait_for(timeout=60_000)
    for path in ("", "app/below/", "app/other.html"):
        page.goto(address + path)
        assert page.title() == "another page"
    assert page.goto(address + "app/none.html").status == 404
    context.set_offline(True)
    for path in ("app/", "app/index.html?x#y"):
        page.goto(address + path)
        expect(page.get_by_text("Ready.", exact=True)).to_be_visible(timeout=60_000)
    context.close()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_for_everyone(visit, photos, written_digits, tmp_path, width, height, scheme):
    page = visit(viewport={"width": width, "height": height}, color_scheme=scheme)
    (tmp_path / "broken.jpg").write_bytes(photos[2].read_bytes()[:5000])
    page.set_input_files("#files", [photos[0], written_digits[0], tmp_path / "broken.jpg"])
    expect(page.locator("[aria-busy]")).to_have_count(0)
    assert Axe().run(page).violations_count == 0, Axe().run(page).generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_several_pictures_by_file_drop_and_paste(page, photos):
    page.set_input_files("#files", photos[:3])
    expect(page.locator(".bars")).to_have_count(3)
    shown = page.locator(".name").all_inner_texts()
    assert shown == [path.name for path in photos[:3]]  # in their order
    for number, kind in enumerate(("drop", "paste")):
        given = [(path.name, as_text(path.read_bytes())) for path in photos[3 + number : 4 + number]]
        page.evaluate(GIVE, [given, kind])
        expect(page.locator(".bars li")).to_have_count(5 * (4 + number))
        assert page.locator(".name").first.inner_text() == photos[3 + number].name  # above the others
    page.evaluate(GIVE, [[], "paste"])
    expect(page.get_by_role("status")).to_have_text("There was no picture in that.")
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".picture")).to_have_count(0)


def test_camera(page):
    page.get_by_role("button", name="Camera").click()
    page.wait_for_selector("#viewfinder[open]")
    expect(page.locator("video")).to_have_js_property("paused", False)
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator(".bars li")).to_have_count(5)
    assert page.locator(".name").inner_text() == "camera.png"
    expect(page.locator("#viewfinder")).not_to_be_visible()
    assert page.evaluate("document.querySelector('video').srcObject") is None  # the camera is off


def test_keyboard_alone_is_enough(page, photos):
    page.on("filechooser", lambda _: None)  # early, so that the browser's own window never opens
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([photos[0], photos[1]])
    expect(page.locator(".bars li")).to_have_count(10)
    expect(page.get_by_role("status")).to_contain_text(photos[1].name)
    seen = []
    for _ in range(6):
        seen.append(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"))
        page.keyboard.press("Tab")
    assert seen == ["files", "camera", "save", "clear", f"Remove {photos[0].name}", f"Remove {photos[1].name}"]
    page.get_by_role("button", name=f"Remove {photos[0].name}").press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Remove {photos[1].name}"
    page.keyboard.press("Enter")
    expect(page.locator(".picture")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "files"


def test_pictures_that_cannot_be_read_are_told_in_a_sentence(page, photos, tmp_path):
    whole = photos[0].read_bytes()
    broken = {
        "cut.jpg": whole[:9000],
        "no picture.png": b"hello",
        "empty.gif": b"",
        "cut.webp": b"RIFF\xff\xff\0\0WEBP",
    }
    broken["cut.png"] = encode(Image.open(photos[0]), "png")[:-30]
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    page.set_input_files("#files", [*(tmp_path / name for name in broken), photos[1]])
    expect(page.locator(".bars li")).to_have_count(5)  # the one good picture
    expect(page.locator(".refused")).to_have_count(len(broken))
    text = page.inner_text("#pictures")
    for name in broken:
        assert f"Cannot read {name}: " in text
    assert "Cannot read cut.jpg: the file is cut short." in text
    assert "Cannot read empty.gif: the file is empty." in text


def test_names_are_text_and_nothing_else(page, photos):
    content = photos[0].read_bytes()
    page.evaluate(GIVE, [[[HOSTILE, as_text(content)]], "drop"])
    expect(page.locator(".bars li")).to_have_count(5)
    text = page.inner_text("body")
    assert text.count(HOSTILE) >= 2  # of the class and of the file
    assert page.locator("img[src=x]").count() == 0


def _fulfil(reply, route):
    route.fulfill(**reply)


def test_page_says_when_a_part_is_missing_or_foreign(browser, address):
    for part, body, expected in (
        ("model.onnx", None, "model.onnx cannot be fetched (404)"),
        ("model.onnx", b"other", "model.onnx is not the one that classifier.json describes"),
        ("answers.js", None, "a part of this page cannot be fetched"),
    ):
        context = browser.new_context(service_workers="block")
        page = context.new_page()
        reply = {"status": 404} if body is None else {"body": body}
        context.route(f"**/{part}", functools.partial(_fulfil, reply))
        page.goto(address)
        expect(page.get_by_role("status")).to_contain_text(f"The classifier cannot be loaded: {expected}")
        context.close()


def test_refusals(run, exported, tmp_path, capsys, monkeypatch):
    code, _, err = run_cli(capsys, "export", run.directory, "--to", "web")
    assert (code, err.count("\n")) == (1, 1)
    assert "there is such a folder" in err
    with pytest.raises(CannotExport, match="--to web"):
        tellapart.export(run.directory, "onnx", runtime=tmp_path)
    with pytest.raises(BadRuntime, match=r"expected the folder `dist` of the npm package onnxruntime-web@"):
        tellapart.export(run.directory, "web", out=tmp_path / "a.web", runtime=tmp_path)
    (tmp_path / "ort.wasm.bundle.min.mjs").write_text("another version")
    with pytest.raises(BadRuntime, match="is not that of onnxruntime-web@"):
        tellapart.export(run.directory, "web", out=tmp_path / "a.web", runtime=tmp_path)
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    failed = SimpleNamespace(returncode=1, stderr="npm error code ENOTFOUND\nnpm error network request failed\n")
    monkeypatch.setattr(onnxruntime_web, "require", lambda *_: SimpleNamespace(npm=lambda *_, **__: failed))
    with pytest.raises(DownloadFailed, match=r"\(code ENOTFOUND network request failed\).*--runtime\.$"):
        tellapart.export(run.directory, "web", out=tmp_path / "a.web", progress=Progress())
    assert not (tmp_path / "a.web").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_local_copy_of_the_runtime(run, exported, tmp_path):
    for name, (original, _) in onnxruntime_web._FILES.items():
        shutil.copy(exported.path / name, tmp_path / original)
    found = tellapart.export(run.directory, "web", out=tmp_path / "site", runtime=tmp_path)
    assert found.golden == tmp_path / "site.golden"
    for path in exported.path.iterdir():
        assert (found.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_icons_are_drawn_with_room_around(exported):
    content = io.BytesIO((exported.path / "icon-full.png").read_bytes())
    with Image.open(content) as image:
        assert image.mode == "RGB"
        edge = np.asarray(image)[[0, -1]]
    assert (edge == edge[0, 0]).all()  # systems cut it into a shape of their own
