"""Other programs get the right answers: Java's HttpClient, curl, and clients and browsers behind nginx with TLS."""

import getpass
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from browsers import ADD_FILES
from encoding import encode, to_base64
from servers import Server, form_body, wait_for

TOKEN = "a-long-enough-token"
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
CLIENTS, REQUESTS_PER_CLIENT = 16, 15

# Sends the requests in a file, one per line: path, content type and file of the body, which are "-" for GET.
JAVA = """
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.*;
import java.util.*;

public class Client {
  static HttpRequest parse(String address, String[] fields) throws Exception {
    var builder = HttpRequest.newBuilder(URI.create(address + fields[0]));
    if (fields[2].equals("-")) return builder.build();
    var body = HttpRequest.BodyPublishers.ofFile(Path.of(fields[2]));
    return builder.header("content-type", fields[1]).POST(body).build();
  }

  static void print(HttpResponse<String> response) {
    System.out.println(response.version() + "\\t" + response.statusCode() + "\\t" + response.body());
  }

  public static void main(String[] arguments) throws Exception {
    var requests = new ArrayList<HttpRequest>();
    for (var line : Files.readAllLines(Path.of(arguments[1]))) requests.add(parse(arguments[0], line.split("\\t")));
    var client = HttpClient.newHttpClient();
    System.out.println(client.version());
    for (var request : requests) print(client.send(request, BodyHandlers.ofString()));
    var pending = requests.stream().map(request -> client.sendAsync(request, BodyHandlers.ofString())).toList();
    for (var response : pending) print(response.join());
  }
}
"""

# /pets/: connections to the server are kept. /plain/: by default, nginx asks it with HTTP/1.0 to close each.
NGINX = """
daemon off;
user %(user)s;
worker_processes 2;
pid nginx.pid;
error_log error.log;
events {}
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  upstream tellapart { server 127.0.0.1:%(server_port)d; keepalive 4; }
  server {
    listen 127.0.0.1:%(port)d ssl http2;
    ssl_certificate certificate.pem;
    ssl_certificate_key key.pem;
    client_max_body_size 64m;
    location /pets/ {
      proxy_pass http://tellapart/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
    location /plain/ { proxy_pass http://tellapart/; }
  }
}
"""
PREFIXES = ["/pets/", "/plain/"]


def find_program(name):
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")  # which is not in every user's PATH
    if not path and "REQUIRE_ORACLES" not in os.environ:
        pytest.skip(f"{name} is not installed; scripts/test installs it")
    assert path, f"{name} is not installed; scripts/test installs it"
    return path


def check_predictions(document, expected):
    """Compare two documents; the probabilities depend on the size of a batch, in the last digits."""
    if "predictions" in expected:
        for one, other in zip(document["predictions"], expected["predictions"], strict=True):
            check_predictions(one, other)
    elif "top" in expected:
        top = [[label, pytest.approx(probability, abs=1e-5)] for label, probability in expected["top"]]
        assert document == expected | {"probability": top[0][1], "top": top}
    else:
        assert document == expected


@pytest.fixture(scope="module")
def large_image():
    """More than a megabyte: curl waits for an interim response before it sends a body of this size."""
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    return encode(Image.fromarray(pixels), "png")


@pytest.mark.slow  # only scripts/test --all installs Java
def test_java_clients_that_prefer_http2_get_right_answers(server, photos, large_image, tmp_path):
    java = find_program("java")
    first, second = (path.read_bytes() for path in photos[:2])
    form, form_type = form_body({"a.jpg": first, "b.jpg": second, "c.txt": b"text"})
    requests = [
        ("/v1/predict", "image/jpeg", first),
        ("/v1/predict?top=2", "application/octet-stream", second),
        ("/v1/models", "-", None),
        ("/v1/predict", form_type, form),
        ("/v1/predict", "image/png", large_image),
        ("/v1/predict?model=none", "image/jpeg", first),
    ]
    lines = []
    for number, (path, media_type, body) in enumerate(requests):
        file = tmp_path / f"{number}.body"
        file.write_bytes(body or b"")
        lines.append("\t".join((path, media_type, str(file) if body else "-")))
    (tmp_path / "requests").write_text("\n".join(lines))
    (tmp_path / "Client.java").write_text(JAVA)
    command = [java, "-XX:TieredStopAtLevel=1", tmp_path / "Client.java", server.address, tmp_path / "requests"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    preferred, *responses = result.stdout.splitlines()
    assert preferred == "HTTP_2"
    for line, (path, media_type, body) in zip(responses, requests * 2, strict=True):
        version, status, document = line.split("\t")
        expected_status, expected, _ = server.ask(path, body, content_type=media_type)
        assert (version, int(status)) == ("HTTP_1_1", expected_status)
        check_predictions(json.loads(document), expected)


@pytest.fixture(scope="module")
def behind_nginx(exported, tmp_path_factory):
    """A server with a token, as one that other machines reach, for nginx."""
    server = Server(tmp_path_factory.mktemp("server"), exported, token=TOKEN)
    yield server
    assert server.stop() == 0
    assert server.tracebacks() == 0


@pytest.fixture(scope="module")
def nginx(behind_nginx, tmp_path_factory):
    """nginx in front of `behind_nginx`: its port, address and certificate."""
    program, openssl, folder = find_program("nginx"), find_program("openssl"), tmp_path_factory.mktemp("nginx")
    certificate = folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:P-256", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", folder / "key.pem", "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = {"user": getpass.getuser(), "port": port, "server_port": behind_nginx.port}
    (folder / "nginx.conf").write_text(NGINX % values)
    log = folder / "error.log"
    command = [program, "-p", folder, "-e", log, "-c", folder / "nginx.conf"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: is_open(port) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield SimpleNamespace(port=port, address=f"https://localhost:{port}", certificate=certificate)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert not re.findall(r".*\[(?:error|crit|alert|emerg)\].*", log.read_text())


def is_open(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def connect(nginx):
    context = ssl.create_default_context(cafile=nginx.certificate)
    return closing(http.client.HTTPSConnection("localhost", nginx.port, timeout=30, context=context))


def send(connection, path, body=None, headers=AUTHORIZED):
    """Return the status, the content, and the headers of a response."""
    connection.request("POST" if body is not None else "GET", path, body, headers)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


@pytest.mark.parametrize("route", ["direct", "nginx"])
def test_curl_gets_right_answers_with_http2(request, server, photos, large_image, tmp_path, route):
    """Directly, curl asks to upgrade to HTTP/2, which it does not get; nginx speaks HTTP/2 with it."""
    curl, files = find_program("curl"), {"a.jpg": photos[0].read_bytes(), "b.png": large_image}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    form, form_type = form_body(files)
    requests = {
        "image": (["--data-binary", "@a.jpg"], "/v1/predict?top=2", files["a.jpg"], "image/jpeg"),
        "large image": (["--data-binary", "@b.png"], "/v1/predict", large_image, "image/png"),
        "form": (["-F", "files=@a.jpg", "-F", "files=@b.png"], "/v1/predict", form, form_type),
        "GET": ([], "/v1/models", None, ""),
    }
    target, address, options, version = server, server.address, [], "1.1"
    if route == "nginx":
        proxy, target = request.getfixturevalue("nginx"), request.getfixturevalue("behind_nginx")
        address, options, version = f"{proxy.address}/pets", ["--cacert", proxy.certificate], "2"
    command = [curl, "--http2", "-sv", *options, "-H", f"authorization: Bearer {TOKEN}"]
    command += ["-w", "\n%{http_version} %{http_code} %{num_connects}\n"]
    for arguments, path, body, media_type in requests.values():
        twice = [f"{address}{path}"] * 2  # the second time on the same connection
        result = subprocess.run([*command, *arguments, *twice], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert ("> Upgrade: h2c" in result.stderr) == (route == "direct")
        first, first_end, second, second_end = result.stdout.splitlines()
        expected = target.ask(path, body, content_type=media_type, **AUTHORIZED)[1]
        assert (first_end, second_end) == (f"{version} 200 1", f"{version} 200 0")
        for document in (first, second):
            check_predictions(json.loads(document), expected)


GET_PATHS = ["v1/models", "v1/model", "v1/status", "healthz", "readyz", "metrics", "openapi.json", "docs", "", "status"]
CHANGING = ("v1/status", "metrics")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_all_routes_work_below_a_prefix(behind_nginx, nginx, photos, prefix):
    photo = photos[0].read_bytes()
    form, form_type = form_body({"a.jpg": photo, "b.jpg": photos[1].read_bytes()})
    with connect(nginx) as connection, closing(http.client.HTTPConnection("127.0.0.1", behind_nginx.port)) as direct:
        for path in [*GET_PATHS, *(f"v1/{name}" for name in ("none", "captures"))]:
            status, content, headers = send(connection, prefix + path)
            expected_status, expected, expected_headers = send(direct, f"/{path}")
            assert (path, status) == (path, expected_status)
            assert status == (200 if path in GET_PATHS else 404)
            assert headers["content-type"] == expected_headers["content-type"]
            assert path in CHANGING or content == expected
        for body, media_type in ((photo, "image/jpeg"), (form, form_type), (b"text", "text/plain")):
            fields = AUTHORIZED | {"content-type": media_type}
            status, content, _ = send(connection, f"{prefix}v1/predict?top=2", body, fields)
            expected_status, expected, _ = send(direct, "/v1/predict?top=2", body, fields)
            assert status == expected_status
            check_predictions(json.loads(content), json.loads(expected))
        status, content, headers = send(connection, f"{prefix}v1/explain", photo)
        assert (status, headers["content-type"]) == (200, "image/png")
        pixels, expected = (Image.open(io.BytesIO(png)) for png in (content, send(direct, "/v1/explain", photo)[1]))
        assert abs(np.asarray(pixels, int) - np.asarray(expected, int)).max() <= 5
        status, content, _ = send(connection, f"{prefix}v1/predict", photo, {})
        assert (status, json.loads(content)["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("page", ["", "status", "docs"])
def test_what_pages_refer_to_is_found_below_a_prefix(nginx, page):
    with connect(nginx) as connection:
        content = send(connection, f"/pets/{page}")[1].decode()
        references = re.findall(r"\b(?:href|src)=\"([^\"]+)\"", content)
        assert len(references) >= 3
        for reference in references:
            assert not reference.startswith(("/", "http"))
            assert (reference, send(connection, f"/pets/{reference}")[0]) == (reference, 200)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_refusals_reach_clients_that_send_large_bodies(nginx, prefix):
    """The server refuses these by their heads, before their bodies have arrived."""
    large, too_large = bytes(5_000_000), bytes(40_000_000)
    cases = {
        "token": ("v1/predict", large, {}, 401),
        "model": ("v1/predict?model=none", large, AUTHORIZED, 404),
        "size": ("v1/predict", too_large, AUTHORIZED, 413),
    }
    statuses = {}
    for case, (path, body, headers, _) in cases.items():
        with connect(nginx) as connection:
            statuses[case] = send(connection, prefix + path, body, headers)[0]
    assert statuses == {case: status for case, (_, _, _, status) in cases.items()}


def open_connections(port):
    """Return how many connections to a port of this machine are established."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_concurrent_clients_get_their_own_answers(behind_nginx, nginx, photos, small_images, written_digits, prefix):
    """Among images, there are forms, and requests that the server refuses before their bodies arrive."""
    contents = [path.read_bytes() for path in (*photos, *small_images, *written_digits)]
    requests = [("v1/predict", content, "image/jpeg") for content in contents]
    for start in range(0, 60, 12):
        files = {f"{start + k}.jpg": content for k, content in enumerate(contents[start : start + 3])}
        refused = contents[start // 12]
        requests += [("v1/predict?top=2", *form_body(files)), ("v1/predict?model=none", refused, "image/jpeg")]
        requests += [("v1/predict", b"text %d" % start, "image/jpeg"), ("v1/model", None, "")]
    expected = [
        behind_nginx.ask(f"/{path}", body, content_type=media_type, **AUTHORIZED)[:2]
        for path, body, media_type in requests
    ]
    assert len({str(document) for _, document in expected[: len(contents)]}) > 0.9 * len(contents)

    def run_client(number):
        rng, answers = random.Random(number), []
        with connect(nginx) as connection:
            for index in rng.sample(range(len(requests)), REQUESTS_PER_CLIENT):
                path, body, media_type = requests[index]
                trace = f"{rng.getrandbits(128):032x}"
                headers = {"content-type": media_type, "traceparent": f"00-{trace}-00000000000000ff-00"}
                answers.append((index, trace, *send(connection, prefix + path, body, AUTHORIZED | headers)))
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [answer for answers in pool.map(run_client, range(CLIENTS)) for answer in answers]
    assert len(answers) == CLIENTS * REQUESTS_PER_CLIENT
    for index, trace, status, content, headers in answers:
        assert (headers["x-request-id"], status) == (trace, expected[index][0])
        check_predictions(json.loads(content), expected[index][1])
    assert open_connections(behind_nginx.port) > 0 or prefix == "/plain/"


def test_the_page_classifies_below_a_prefix(behind_nginx, nginx, browser, photos):
    context = browser.new_context(ignore_https_errors=True)
    page, responses, errors = context.new_page(), [], []
    page.on("response", lambda response: responses.append((response.url, response.status)))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{nginx.address}/pets/")
    page.locator("#token input[type=password]").fill(TOKEN)
    page.locator("#token button").click()
    expect(page.locator("#status[data-state=ready]")).to_be_visible()
    photo = photos[0].read_bytes()
    page.evaluate(ADD_FILES, [[["a.jpg", to_base64(photo)]], "drop"])
    expect(page.locator(".image .bars li").first).to_be_visible(timeout=20_000)
    label = behind_nginx.ask("/v1/predict", photo, **AUTHORIZED)[1]["label"]
    expect(page.locator(".image")).to_contain_text(label)
    page.goto(f"{nginx.address}/pets/status")
    expect(page.locator("#state[data-state=ready]")).to_be_visible()
    page.goto(f"{nginx.address}/pets/docs")
    expect(page.get_by_text("/v1/predict").first).to_be_visible(timeout=20_000)
    context.close()
    remote = [(url, status) for url, status in responses if not url.startswith(("blob:", "data:"))]
    assert [url for url, _ in remote if not url.startswith(f"{nginx.address}/pets/")] == []
    assert {url.rpartition("/")[2] for url, status in remote if status == 401} == {"model"}  # before the token
    assert [answer for answer in remote if answer[1] not in (200, 401)] == []
    assert errors == []
