"""A real server on this machine answers as Python does, within all its bounds, and loses nothing that it let in."""

import contextlib
import http.client
import io
import os
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import tellapart
from costly_images import COSTLY
from encoding import encode
from folders import QUICK, run_cli
from servers import Server, wait_for
from tellapart.pipeline.train import train
from tellapart.progress import Progress
from tellapart.serving.model_repository import prepared


@pytest.mark.slow
def test_what_was_exported_is_not_exported_again(run, exported, tmp_path):
    assert prepared([str(run.directory)], None, tmp_path, Progress()) == {"run": exported.resolve()}
    pictures = str(run.directory.parent / "pictures")
    (asked,) = prepared([str(run.directory)], pictures, tmp_path, Progress()).values()  # to be compared on these
    assert asked.parent.parent == tmp_path
    copy = Path(shutil.copytree(run.directory, tmp_path / "copy"))
    (copy / "run.json").write_text('{"identity": "of another"}')  # as if the file were of another run
    ((name, path),) = prepared([f"new={copy}"], pictures, tmp_path, Progress()).items()
    assert (name, path.parent.parent) == ("new", tmp_path)


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("server"), exported, options="{'plan': None}")  # chosen by a trial
    assert "in a trial" in started.told()
    yield started
    assert started.end() == 0
    assert "Traceback" not in started.told()


@pytest.fixture
def started(exported, tmp_path):
    """Return a function that starts a server with options of its own."""
    servers = []

    def start(options="{}", *models):
        servers.append(Server(tmp_path, *(models or (exported,)), options=options))
        return servers[-1]

    yield start
    for each in servers:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def form(files):
    """The body of a form with files, and its content type."""
    body = b"".join(
        b'--edge\r\ncontent-disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files.items()
    )
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def test_answers_are_those_of_python(server, exported, photos, small_pictures):
    classifier = tellapart.load(exported)
    for path in (*photos[:5], *small_pictures[:5]):
        status, found, _ = server.ask(body=path.read_bytes(), content_type="image/jpeg")
        assert status == 200
        expected = classifier.predict(path).to_json()
        for name in ("label", "index", "set", "familiar"):
            assert found[name] == expected[name]
        assert dict(found["top"]) == pytest.approx(dict(expected["top"]), abs=1e-5)
    assert len(server.ask("/v1/predict?top=2", photos[0].read_bytes())[1]["top"]) == 2


def test_answers_do_not_depend_on_who_else_asks(server, exported, photos):
    classifier = tellapart.load(exported)
    expected = {path: classifier.predict(path).probability for path in photos}
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda path: (path, server.ask(body=path.read_bytes())), photos * 6))
    for path, (status, answer, _) in found:
        assert status == 200
        assert answer["probability"] == pytest.approx(expected[path], abs=1e-5)


def test_a_bad_picture_does_not_fail_those_beside_it(server, photos):
    damaged = photos[1].read_bytes()[:2000]
    body, kind = form(
        {"a.jpg": photos[0].read_bytes(), "b.jpg": damaged, "ü.txt": b"text", "d.jpg": photos[2].read_bytes()}
    )
    status, found, _ = server.ask(body=body, content_type=kind)
    assert status == 200
    first, second, third, fourth = found["predictions"]
    assert [each["path"] for each in found["predictions"]] == ["a.jpg", "b.jpg", "ü.txt", "d.jpg"]
    assert (second["status"], third["status"]) == (422, 415)
    assert "label" in first
    assert "label" in fourth


def test_costly_images_are_refused(server):
    for kind, content in COSTLY.items():
        assert (kind, server.ask(body=content)[0]) == (kind, 422)
    plain = b"P3 800 800 255\n" + b"0 " * 3 * 800 * 800
    assert server.ask(body=plain)[0] == 413
    assert server.ask(body=b"P3 80 80 255\n" + b"0 " * 3 * 80 * 80)[0] == 200


def beside(server, bombs, photo, seconds):
    """Send costly images, each from a client of its own, again and again; return the answers to a good client."""
    end = time.monotonic() + seconds
    answered = []

    def throw(bomb):
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                server.ask(body=bomb)

    with ThreadPoolExecutor(len(bombs) + 8) as pool:
        for bomb in bombs:
            pool.submit(throw, bomb)
        while time.monotonic() < end:
            answered.append(pool.submit(server.ask, body=photo))
            time.sleep(0.25)
    return [each.result()[0] for each in answered]


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_costly_images_beside_a_good_client(started, photos, seconds):
    """Two clients send progressive JPEGs of 0.8 MB and 10,000 scans."""
    server = started()
    bomb = COSTLY["progressive JPEG"]
    assert 400_000 < len(bomb) < 1_500_000
    answers = beside(server, [bomb, bomb], photos[0].read_bytes(), seconds)
    assert answers.count(200) >= 0.99 * len(answers)
    assert len(server.children()) == 1


def test_faults_are_problem_documents(server, photos):
    photo = photos[0].read_bytes()
    cases = [
        (415, "not a picture", {"body": b"some text"}),
        (415, "nothing was sent", {"body": b""}),
        (422, "cut|truncated|damaged|end", {"body": photo[:3000]}),
        (404, "no such model", {"path": "/v1/predict?model=cats", "body": photo}),
        (404, "Not Found", {"path": "/v2"}),
        (404, "--collect", {"path": "/label"}),
        (405, "Method Not Allowed", {"path": "/v1/predict"}),
        (422, "top", {"path": "/v1/predict?top=none", "body": photo}),
        (422, "Deadline-Ms", {"body": photo, "deadline_ms": "soon"}),
        (504, "deadline", {"body": photo, "deadline_ms": "0"}),
        (413, "larger than", {"body": b"\xff\xd8\xff" + bytes(33 * 2**20)}),
        (422, "form cannot be read", {"body": b"--edge nothing", "content_type": "multipart/form-data; boundary=edge"}),
        (422, "form cannot be read", {"body": b"nothing", "content_type": "multipart/form-data"}),
    ]
    for status, reason, asked in cases:
        found, problem, headers = server.ask(**asked)
        assert (found, problem["status"]) == (status, status), (asked.get("path"), problem)
        assert headers["content-type"] == "application/problem+json"
        assert re.search(reason, problem["detail"]), problem
    huge = encode(Image.new("1", (9000, 9000)), "png")
    assert server.ask(body=huge)[0] == 413


def test_the_state_is_told(server, run, photos):
    assert server.ask("/healthz")[:2] == (200, {"status": "alive"})
    assert server.ask("/readyz")[:2] == (200, {"status": "ready"})
    about = server.ask("/v1/model")[1]
    assert about["classes"] == list(run.classifier.classes)
    assert about["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]
    before = figures(server)
    server.ask(body=photos[0].read_bytes())
    server.ask(body=b"text")
    after = figures(server)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown[("tellapart_requests_total", "200")] == grown[("tellapart_requests_total", "415")] == 1
    assert grown[("tellapart_batch_pictures_count",)] == 1
    assert sum(value for name, value in grown.items() if name[0] == "tellapart_predictions_total") == 1
    assert "/v1/predict" in server.ask("/openapi.json")[1]["paths"]


def figures(server):
    families = text_string_to_metric_families(server.ask("/metrics")[1])
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_a_token_is_asked_for(started, photos):
    server = started("{'token': 'a-long-enough-token', 'origins': ('https://example.org',)}")
    photo = photos[0].read_bytes()
    assert server.ask(body=photo)[0] == 401
    assert server.ask(body=photo)[2]["www-authenticate"] == "Bearer"
    assert server.ask(body=photo, authorization="Bearer a-long-enough-tokem")[0] == 401
    assert server.ask("/v1/model")[0] == 401
    assert server.ask("/readyz")[0] == 200
    status, _, headers = server.ask(
        body=photo, authorization="Bearer a-long-enough-token", origin="https://example.org"
    )
    assert (status, headers["access-control-allow-origin"]) == (200, "https://example.org")


def test_the_slow_and_the_many_are_turned_away(started, photos):
    server = started("{'limits': Limits(pictures=2, header_seconds=1, body_seconds=2, body=10**6, bytes_held=10**7)}")
    photo = photos[0].read_bytes()
    slow_head = socket.create_connection(("127.0.0.1", server.port))
    slow_head.sendall(b"POST /v1/predict HT")
    holders = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    for holder in holders:
        holder.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n\r\nabc")
    wait_for(lambda: figures(server)[("tellapart_pictures",)] == 2)
    status, problem, headers = server.ask(body=photo)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "come again" in problem["detail"]
    for waiting in (slow_head, *holders):
        waiting.settimeout(20)
        assert waiting.recv(100).startswith(b"HTTP/1.1 408")
        waiting.close()
    wait_for(lambda: figures(server)[("tellapart_pictures",)] == 0)
    assert server.ask(body=photo)[0] == 200
    chunked = socket.create_connection(("127.0.0.1", server.port))
    chunked.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
    try:
        for _ in range(40):
            chunked.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
    except OSError:  # it has closed before all was sent
        pass
    chunked.settimeout(20)
    assert chunked.recv(100).startswith(b"HTTP/1.1 413")
    chunked.close()
    assert figures(server)[("tellapart_bytes",)] == 0
    gone = socket.create_connection(("127.0.0.1", server.port))
    gone.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n\r\nabc")
    wait_for(lambda: figures(server)[("tellapart_pictures",)] == 1)
    gone.close()
    wait_for(lambda: figures(server)[("tellapart_pictures",)] == 0, 1.5)  # before the body's time is over


def test_no_head_trailer_or_idle_connection_is_endless(started):
    server = started("{'limits': Limits(header_seconds=1)}")
    endless = [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", b"y" * 9000, b"431"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n" * 1500, b"431"),
        (b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
         b"x: y\r\n" * 1500, b"431"),
    ]  # fmt: skip
    for begin, again, status in endless:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(begin)
            with contextlib.suppress(OSError):
                for _ in range(40):
                    connection.sendall(again)
                    time.sleep(0.005)
                assert connection.recv(100).startswith(b"HTTP/1.1 " + status), begin
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b""
        while b"alive" not in answer:
            answer += idle.recv(1000)
        idle.sendall(b"\r\n")  # ends the wait for the next request, and begins none
        assert idle.recv(1000).startswith(b"HTTP/1.1 408")
    assert server.ask("/healthz")[0] == 200


def test_a_form_counts_as_many_pictures_as_it_has(started, photos):
    server = started("{'limits': Limits(pictures=3)}")
    body, kind = form({f"{number}.jpg": photos[0].read_bytes() for number in range(8)})
    assert server.ask(body=body, content_type=kind)[0] == 200  # alone it may be larger
    holder = socket.create_connection(("127.0.0.1", server.port))
    holder.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n\r\nabc")
    wait_for(lambda: figures(server)[("tellapart_pictures",)] == 1)
    assert server.ask(body=body, content_type=kind)[0] == 503
    holder.close()
    wait_for(lambda: figures(server)[("tellapart_pictures",)] == 0)


def test_other_names_and_pages_are_turned_away(server, photos):
    photo = photos[0].read_bytes()
    assert server.ask(body=photo, host="pets.example")[0] == 421
    assert server.ask(body=photo, origin="https://evil.example")[0] == 421
    assert server.ask(body=photo, origin=f"http://127.0.0.1:{server.port}")[0] == 200


def test_a_long_thin_picture_is_refused(server):
    assert server.ask(body=encode(Image.new("L", (40_000, 1)), "png"))[0] == 413


def end_under_load(server, photo):
    """Tell a server to end while eight ask it; returns what they got."""
    got, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                got.append(server.ask(body=photo)[0])
            except ConnectionRefusedError:  # it no longer listens
                return
            except (OSError, http.client.HTTPException) as error:
                got.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(got) > 20)
    assert server.end() == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert not server.told().count("Traceback")
    return got


def test_told_to_end_it_answers_what_it_let_in(started, photos):
    assert set(end_under_load(started(), photos[0].read_bytes())) == {200}


@pytest.mark.slow
def test_told_to_end_a_hundred_times_it_loses_nothing(exported, photos, tmp_path):
    got = []
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        got += end_under_load(Server(folder, exported, options="{'plan': Plan(2, 1, 4, 2)}"), photos[0].read_bytes())
    assert set(got) == {200}


def test_a_process_that_is_killed_is_replaced(started, photos):
    kill_under_load(started(), photos[0].read_bytes(), 2)


@pytest.mark.slow
def test_a_process_that_is_killed_thirty_times_is_replaced(started, photos):
    kill_under_load(started("{'processes': 2}"), photos[0].read_bytes(), 30)


def kill_under_load(server, photo, times):
    """Kill one of the processes that compute while eight ask; all are answered, few without success."""
    count = len(server.children())
    for _ in range(times):
        wait_for(
            lambda: figures(server)[("tellapart_ready",)] == count
        )  # one that starts does not stand in for another
        child = server.children()[0]
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(server.ask, body=photo) for _ in range(40)]
            time.sleep(0.05)
            os.kill(child, signal.SIGKILL)
            statuses = [future.result()[0] for future in asked]
        assert set(statuses) <= {200, 503}
        if count > 1:  # those that were with the other one are answered
            assert statuses.count(503) <= 8
        wait_for(lambda gone=child: gone not in server.children() and server.ask("/readyz")[0] == 200)
        assert server.ask(body=photo)[0] == 200
    wait_for(lambda: figures(server)[("tellapart_replaced",)] == times)


def test_a_new_model_takes_over_without_a_gap(started, run, exported, tmp_path, photos):
    served = tmp_path / "served.onnx"
    shutil.copy(exported, served)
    server = started("{}", served, exported)
    photo = photos[0].read_bytes()
    old = server.ask(body=photo)[1]["model"]
    assert server.ask("/v1/predict?model=model", photo)[1]["model"] == old
    other = train(run.directory.parent / "pictures", out=tmp_path / "run", **QUICK | {"epochs": 1})
    fresh = tellapart.export(other.directory).path
    statuses, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            statuses.append(server.ask(body=photo)[0])

    thread = threading.Thread(target=ask)
    thread.start()
    (tmp_path / "half").write_bytes(fresh.read_bytes()[:1000])
    os.replace(tmp_path / "half", served)  # damaged: the old one stays
    time.sleep(3)
    assert server.ask(body=photo)[1]["model"] == old
    os.replace(fresh, served)
    wait_for(lambda: server.ask(body=photo)[1]["model"] != old, 20)
    stop.set()
    thread.join()
    assert set(statuses) == {200}
    assert server.ask("/v1/predict?model=model", photo)[1]["model"] == old


def test_faults_of_the_user_are_told_in_a_sentence(exported, server, tmp_path, capsys):
    code, _, err = run_cli(capsys, "serve", exported, "--port", server.port)
    assert code == 1
    assert f"Cannot listen on 127.0.0.1:{server.port}" in err
    assert "Traceback" not in err
    code, _, err = run_cli(capsys, "serve", exported, exported)
    assert (code, "Two models are called model" in err) == (1, True)
    (tmp_path / "token").write_text("short\n")
    code, _, err = run_cli(capsys, "serve", exported, "--token-file", tmp_path / "token")
    assert (code, "holds no token" in err) == (1, True)
    (tmp_path / "m.onnx").write_bytes(io.BytesIO(exported.read_bytes()).read(500))
    code, _, err = run_cli(capsys, "serve", tmp_path / "m.onnx")
    assert (code, "cut short" in err) == (1, True)
