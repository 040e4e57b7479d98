"""A run on digits exported to a web app, and Chromium pages of it."""

import functools
import http.server
import threading

import pytest
from playwright.sync_api import expect

import tellapart
from browsers import HOSTILE
from folders import QUICK, digit_folder
from tellapart.pipeline.train import train
from tellapart.progress import Progress


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("web")
    folder = digit_folder(root / "my digits", 7, 12)
    (folder / "digit 6").rename(folder / HOSTILE)
    return train(folder, out=root / "run", **QUICK)


@pytest.fixture(scope="session")
def exported(run):
    return tellapart.export(run.directory, "web", progress=Progress())


@pytest.fixture(scope="module")
def serve_folder():
    """Return a function that serves a folder as a static host, and returns its address."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # a connection beyond the queue would wait for minutes

        def handle_error(self, *_):
            """Ignore disconnects: the tests close pages during responses."""

    def serve(folder):
        servers.append(Server(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)))
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
    """Return a function that opens the app; at the end, checks for console messages and requests to other hosts."""
    problems, contexts = [], []

    def open_page(path="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.on("request", lambda request: _is_own(request.url) or problems.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address + path)
        expect(page.locator("#status[data-state=ready]")).to_be_visible(timeout=60_000)
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
