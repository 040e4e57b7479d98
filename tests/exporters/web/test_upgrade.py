"""The web app upgraded part by part on a static host, with visits in between: never a mix of two versions."""

import functools
import http.server
import itertools
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import tellapart
from browsers import IN_PAGE
from encoding import to_base64
from folders import QUICK, digit_folder
from servers import wait_for
from tellapart.data.image import decode
from tellapart.progress import Progress
from tellapart.webui import page as page_module

PARTS = ("page", "service worker", "scripts", "data")
ORDERS = list(itertools.permutations(PARTS))
QUICK_ORDERS = [ORDERS[0], ORDERS[23]]
STATES = [parts for count in (1, 2, 3) for parts in itertools.combinations(PARTS, count)]
UNUSED = {"bootstrap.js", "service-worker.js"}  # bootstrap.js is for the app in one file
WAIT = "wait"

PREDICT = f"""async (data) => {{ {IN_PAGE} const {{ predict }} = await import("./local.js");
return predict(new Blob([bytes(data)])); }}"""
STYLE = "getComputedStyle(document.documentElement).getPropertyValue('--version').trim()"
REGISTRATION = "navigator.serviceWorker.getRegistration('/app/')"


def hosts(values, quick):
    """Return a decorator that runs a test for each value and kind of host; all but the `quick` values are slow."""
    cases = [
        pytest.param(caching, value, id=f"{caching}: {', '.join(value)}", marks=[] if is_quick else pytest.mark.slow)
        for caching in ("no-cache", "max-age=600")
        for value in values
        for is_quick in [caching != "no-cache" and value in quick]
    ]
    return pytest.mark.parametrize(("caching", "parts"), cases)


@pytest.fixture(scope="module")
def versions(run, tmp_path_factory):
    """Return two versions of an app by name, with other classes, models, titles, scripts and styles."""
    root = tmp_path_factory.mktemp("versions")
    other = tellapart.train(digit_folder(root / "images", 5, 12, "number"), out=root / "run", **QUICK)
    return {"old": export_version("old", run, root), "new": export_version("new", other, root)}


def export_version(name, run, root):
    assets = shutil.copytree(page_module._FOLDER, root / f"{name} assets")
    for script in set(assets.glob("*.js")) - {assets / unused for unused in UNUSED}:
        append(script, f'(globalThis.versions ??= {{}})["{script.name}"] = "{name}";')
    append(assets / "style.css", f":root {{ --version: {name}; }}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "_FOLDER", assets)
        exported = tellapart.export(run.directory, "web", out=root / name, title=name, progress=Progress())
    return SimpleNamespace(folder=exported.path, golden=exported.golden, classifier=tellapart.load(run.directory))


def append(path, line):
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def image(versions):
    """Return an image file, and its prediction by each version."""
    content = sorted(versions["old"].golden.glob("*.png"))[0].read_bytes()
    pixels = decode(content)
    return content, {name: version.classifier.predict(pixels).to_json() for name, version in versions.items()}


def part_of(name):
    special = {"index.html": "page", "service-worker.js": "service worker"}
    return special.get(name) or ("scripts" if name.endswith((".js", ".css")) else "data")


def test_the_versions_differ_in_each_part(versions, image):
    names = changed_files(versions)
    assert {part_of(name) for name in names} == set(PARTS)
    assert {"model.onnx", "classifier.json", "manifest.webmanifest", "page.js", "worker.js", "style.css"} <= names
    assert image[1]["old"]["label"] != image[1]["new"]["label"]


def changed_files(versions):
    old, new = ({path.name: path.read_bytes() for path in version.folder.iterdir()} for version in versions.values())
    assert old.keys() == new.keys()
    return {name for name in old if old[name] != new[name]}


class Host:
    """A static host with the old version in the folder `app`, and a page outside it."""

    def __init__(self, root, versions, caching):
        self.versions, self.app = versions, root / "app"
        shutil.copytree(versions["old"].folder, self.app)
        (root / "outside.html").write_text("<title>outside</title>")
        for path in root.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        self.update_checks = 0
        handler = functools.partial(Handler, directory=root, caching=caching, host=self)
        self.server = Server(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def upload(self, part):
        """Replace the files of a part by the new ones; their time differs by more than the seconds of HTTP dates."""
        for name in changed_files(self.versions):
            if part_of(name) == part:
                shutil.copyfile(self.versions["new"].folder / name, self.app / name)
                os.utime(self.app / name, (1_100_000_000, 1_100_000_000))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # a connection beyond the queue would wait for minutes

    def handle_error(self, *_):
        """Ignore disconnects: the tests close pages during responses."""


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as static hosts do

    def __init__(self, *arguments, caching, host, **options):
        self.caching, self.host = caching, host
        super().__init__(*arguments, **options)

    def end_headers(self):
        self.host.update_checks += self.path.endswith("/service-worker.js")
        self.send_header("cache-control", self.caching)
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def host(versions, caching, tmp_path):
    host = Host(tmp_path / "host", versions, caching)
    yield host
    host.close()


@pytest.fixture
def new_profile(browser, host, image):
    """Return a function that returns a new browser profile."""
    profiles = []

    def make():
        profiles.append(Profile(browser.new_context(), host, image))
        return profiles[-1]

    yield make
    for profile in profiles:
        profile.context.close()


class Profile:
    """A browser profile, with a tab outside the app that sees what its service worker does."""

    def __init__(self, context, host, image):
        self.context, self.host, self.image = context, host, image
        self.outside = context.new_page()
        self.outside.goto(host.address + "outside.html")

    def visit(self):
        """Open the app, return the versions of what it shows, and close it once the browser has checked for updates."""
        checks = self.host.update_checks
        page = self.open()
        wait_for(lambda: self.host.update_checks > checks)
        return self.close(page)

    def visit_offline(self):
        self.context.set_offline(True)
        shown = self.close(self.open())
        self.context.set_offline(False)
        return shown

    def open(self):
        page = self.context.new_page()
        page.goto(self.host.address + "app/")
        page.locator("#status:is([data-state=ready], [data-state=failed])").wait_for(timeout=60_000)
        return page

    def close(self, page):
        """Close the app, and wait until no new version is being installed, or waits for the app to be closed."""
        shown = read_versions(page, *self.image)
        page.close()
        wait_for(lambda: self.outside.evaluate(f"{REGISTRATION}.then((r) => !r?.installing && !r?.waiting)"))
        return shown


def read_versions(page, content, predictions):
    """Return the versions of all that a page shows, one if it is whole, or WAIT if it asks to wait."""
    status = page.locator("#status")
    if status.get_attribute("data-state") == "failed":
        assert status.get_attribute("data-code")
        assert page.locator(".bars li").count() == 0
        return {WAIT}
    scripts = [realm.evaluate("Object.entries(globalThis.versions)") for realm in (page, *page.workers)]
    pairs = {tuple(pair) for realm in scripts for pair in realm}
    assert {script for script, _ in pairs} == marked_scripts()
    prediction = page.evaluate(PREDICT, to_base64(content))
    return {page.title(), page.evaluate(STYLE), *(version for _, version in pairs), recognize(prediction, predictions)}


def marked_scripts():
    return {path.name for path in Path(page_module._FOLDER).glob("*.js")} - UNUSED


def recognize(prediction, predictions):
    """Return the version that gives a prediction, or "none"."""
    same = [name for name, expected in predictions.items() if agree(prediction, expected)]
    return same[0] if same else "none"


def agree(prediction, expected):
    keys = ("label", "index", "prediction_set", "in_distribution")
    close = dict(prediction["top"]) == pytest.approx(dict(expected["top"]), abs=1e-5)
    return close and all(prediction[key] == expected[key] for key in keys)


def check_new(profile):
    """Check that the app becomes the new version, online and offline, after at most three visits."""
    shown = [profile.visit() for _ in range(3)]
    assert all(version in ({"old"}, {"new"}) for version in shown), shown
    assert shown[-1] == {"new"}, shown
    assert profile.visit_offline() == {"new"}


@hosts(ORDERS, QUICK_ORDERS)
def test_an_installed_app_stays_whole_during_an_upload_in_any_order(host, new_profile, parts):
    profile = new_profile()
    assert profile.visit() == {"old"}
    for part in parts[:-1]:
        host.upload(part)
        assert profile.visit() == {"old"}, part
    host.upload(parts[-1])
    check_new(profile)


@hosts(ORDERS, QUICK_ORDERS)
def test_a_visitor_who_comes_during_an_upload_never_sees_a_mix(host, new_profile, parts):
    profile = new_profile()
    for part in parts[:-1]:
        host.upload(part)
        assert profile.visit() in ({"old"}, {WAIT}, {"new"}), part
    host.upload(parts[-1])
    check_new(profile)


@hosts(STATES, STATES[3:5])
def test_a_first_visit_during_an_upload_never_shows_a_mix(host, new_profile, parts):
    for part in parts:
        host.upload(part)
    assert new_profile().visit() in ({"old"}, {WAIT}, {"new"})
