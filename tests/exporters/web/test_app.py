"""The folder of the web app: its files, installation, offline use and updates, and errors of the export."""

import functools
import hashlib
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import tellapart
from folders import run_cli
from servers import wait_for
from tellapart.errors import DownloadError, RuntimeVersionError, SaveError
from tellapart.exporters.web import onnxruntime_web
from tellapart.exporters.web.app import make_app_files
from tellapart.inference.load_predictor import load
from tellapart.inference.onnx_safety import read_onnx
from tellapart.progress import Progress


def test_the_folder_has_all_files_and_no_images_of_the_user(exported, run):
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
    cached = json.loads(worker.split("const FILES = ")[1].split(";")[0])
    assert set(cached) == names - {"index.html", "service-worker.js"} | {"./"}
    document = json.loads((exported.path / "classifier.json").read_text(encoding="utf-8"))
    assert document["sha256"] == hashlib.sha256((exported.path / "model.onnx").read_bytes()).hexdigest()
    assert list(load(exported.path / "model.onnx").classes) == document["classes"]
    golden = json.loads((exported.golden / "cases.json").read_text(encoding="utf-8"))
    assert (exported.golden / golden["model"]).is_file()


def test_the_app_is_installable(exported, page):
    manifest = json.loads((exported.path / "manifest.webmanifest").read_text(encoding="utf-8"))
    assert manifest["name"] == "my digits"
    assert {manifest[key] for key in ("id", "start_url", "scope")} == {"./"}
    assert manifest["display"] == "standalone"
    for entry in manifest["icons"]:
        with Image.open(exported.path / entry["src"]) as image:
            assert f"{image.width}x{image.height}" == entry["sizes"]
    assert {entry["purpose"] for entry in manifest["icons"]} == {"any", "maskable"}
    session = page.context.new_cdp_session(page)
    assert session.send("Page.getAppManifest")["errors"] == []
    reasons = [error["errorId"] for error in session.send("Page.getInstallabilityErrors")["installabilityErrors"]]
    assert set(reasons) <= {"in-incognito"}  # the contexts of tests are incognito


def test_the_app_works_offline_after_the_first_visit(visit, photos):
    page = visit()
    page.locator("#offline").wait_for(timeout=60_000)
    page.context.set_offline(True)
    for path in ("", "index.html?from=home"):
        page.goto(page.url.split("index")[0] + path)
        expect(page.locator("#status[data-state=ready]")).to_be_visible(timeout=60_000)
        page.set_input_files("#files", photos[0])
        expect(page.locator(".bars li")).to_have_count(5)


@pytest.fixture
def host(exported, tmp_path):
    """Return the folder of a newer version of the app, and the folder of a host that serves the old one."""
    old, new, root = exported.path, tmp_path / "new", tmp_path / "host"
    document = json.loads((old / "classifier.json").read_text(encoding="utf-8"))
    runtime = {name: (old / name).read_bytes() for name in onnxruntime_web.FILES}
    _, full_document = read_onnx(old / "model.onnx")
    new.mkdir()
    for name, content in make_app_files(
        "another name", (old / "model.onnx").read_bytes(), full_document, runtime
    ).items():
        (new / name).write_bytes(content)
    assert document["classes"] == full_document["classes"]
    shutil.copytree(old, root)
    return new, root


def test_an_unfinished_upload_leaves_the_old_version_intact(serve_folder, browser, host):
    new, root = host
    address = serve_folder(root)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.locator("#offline").wait_for(timeout=60_000)
    # The new service worker is uploaded, but only some of the files: a visit must not mix the versions.
    shutil.copy(new / "service-worker.js", root)
    shutil.copy(new / "classifier.json", root)
    registration = "navigator.serviceWorker.getRegistration()"
    page.evaluate(f"{registration}.then((r) => r.update().catch(String))")
    wait_for(lambda: page.evaluate(f"{registration}.then((r) => !r.installing)"))
    assert page.evaluate(f"{registration}.then((r) => r.waiting === null)")
    page.reload()
    expect(page.locator("#status[data-state=ready]")).to_be_visible(timeout=60_000)
    assert page.title().startswith("my digits")
    assert len(page.evaluate("caches.keys()")) == 1
    shutil.copytree(new, root, dirs_exist_ok=True)
    page.evaluate(f"{registration}.then((r) => r.update())")
    wait_for(lambda: page.evaluate(f"{registration}.then((r) => r.waiting !== null)"))
    page.close()  # a new version takes over when no page of the old one is open
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#status[data-state=ready]")).to_be_visible(timeout=60_000)
    assert page.title().startswith("another name")
    context.close()


def test_other_pages_beside_and_below_the_app_are_not_cached(serve_folder, browser, exported, tmp_path):
    root = shutil.copytree(exported.path, tmp_path / "host" / "app").parent
    (root / "app" / "below").mkdir()
    for folder in (root, root / "app" / "below"):
        (folder / "index.html").write_text("<title>another page</title>")
    (root / "app" / "other.html").write_text("<title>another page</title>")
    address = serve_folder(root)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address + "app/")
    page.locator("#offline").wait_for(timeout=60_000)
    for path in ("", "app/below/", "app/other.html"):
        page.goto(address + path)
        assert page.title() == "another page"
    assert page.goto(address + "app/none.html").status == 404
    context.set_offline(True)
    for path in ("app/", "app/index.html?x#y"):
        page.goto(address + path)
        expect(page.locator("#status[data-state=ready]")).to_be_visible(timeout=60_000)
    context.close()


def _fulfill(reply, route):
    route.fulfill(**reply)


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("model.onnx", None, "missing_file"),
        ("model.onnx", b"other", "checksum_mismatch"),
        ("prediction.js", None, "missing_file"),
    ],
)
def test_the_page_reports_a_missing_or_modified_file(browser, address, name, body, code):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    reply = {"status": 404} if body is None else {"body": body}
    context.route(f"**/{name}", functools.partial(_fulfill, reply))
    page.goto(address)
    expect(page.locator(f"#status[data-state=failed][data-code={code}]")).to_be_visible()
    context.close()


def test_invalid_arguments_raise_named_errors(run, exported, tmp_path, capsys, monkeypatch):
    code, out, _ = run_cli(capsys, "export", run.directory, "--to", "web", "--json")
    assert code == 1
    assert json.loads(out)["error"]["code"] == SaveError.code  # the folder exists
    with pytest.raises(RuntimeVersionError) as error:
        tellapart.export(run.directory, "web", out=tmp_path / "a.web", runtime=tmp_path)
    assert str(tmp_path) in str(error.value)
    (tmp_path / "ort.wasm.bundle.min.mjs").write_text("another version")
    with pytest.raises(RuntimeVersionError) as error:
        tellapart.export(run.directory, "web", out=tmp_path / "a.web", runtime=tmp_path)
    assert "ort.wasm.bundle.min.mjs" in str(error.value)
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    failed = SimpleNamespace(returncode=1, stderr="npm error code ENOTFOUND\nnpm error network request failed\n")
    monkeypatch.setattr(onnxruntime_web, "require", lambda *_: SimpleNamespace(npm=lambda *_, **__: failed))
    with pytest.raises(DownloadError) as error:
        tellapart.export(run.directory, "web", out=tmp_path / "a.web", progress=Progress())
    assert "code ENOTFOUND network request failed" in str(error.value)
    assert "--runtime" in str(error.value)
    assert not (tmp_path / "a.web").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_a_local_copy_of_the_runtime_gives_the_same_files(run, exported, tmp_path):
    for name, (original, _) in onnxruntime_web.FILES.items():
        shutil.copy(exported.path / name, tmp_path / original)
    result = tellapart.export(run.directory, "web", out=tmp_path / "site", runtime=tmp_path)
    assert result.golden == tmp_path / "site.golden"
    for path in exported.path.iterdir():
        assert (result.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_maskable_icon_has_a_margin(exported):
    content = io.BytesIO((exported.path / "icon-full.png").read_bytes())
    with Image.open(content) as image:
        assert image.mode == "RGB"
        edge = np.asarray(image)[[0, -1]]
    assert (edge == edge[0, 0]).all()  # systems mask it with their own shape


def test_the_page_opened_as_a_file_says_what_to_do(exported, browser):
    page = browser.new_page()
    page.goto((exported.path / "index.html").as_uri())
    expect(page.locator("#status[data-state=failed]")).to_be_visible(timeout=3000)
    assert "http.server" in page.locator("#status").inner_text()
    page.close()
