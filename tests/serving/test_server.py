"""A server starts, reloads models, replaces workers, and shuts down without losing a request."""

import hashlib
import http.client
import os
import shutil
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tellapart
from encoding import encode
from folders import QUICK, digit_folder, run_cli
from recording import RecordingProgress
from servers import PLAN, Server, wait_for
from tellapart.errors import ServeError
from tellapart.pipeline.train import train
from tellapart.progress import Event
from tellapart.serving.model_repository import prepare_models
from tellapart.serving.server import read_token


def test_the_plan_is_chosen_by_a_trial(start_server, photos):
    server = start_server(plan=None)
    (trial,) = server.values(Event.SERVER_SPEED)
    assert trial["images_per_second"] > 0
    assert server.ask(body=photos[0].read_bytes())[0] == 200
    assert server.stop() == 0
    assert len(server.values(Event.SERVER_DRAINING)) == 1


def test_a_server_for_other_machines_without_a_token_warns(start_server):
    server = start_server(host="0.0.0.0")
    assert server.values(Event.SERVER_OPEN) == [{"host": "0.0.0.0"}]
    (started,) = server.values(Event.SERVER_START)
    for address in filter(None, (started["address"], started["network_address"])):  # can be opened
        assert urllib.request.urlopen(f"{address}/healthz", timeout=20).status == 200
        assert "0.0.0.0" not in address
    server = start_server(host="0.0.0.0", token="a-long-enough-token")
    assert server.values(Event.SERVER_OPEN) == []


def test_a_token_is_required(start_server, photos):
    server = start_server(token="a-long-enough-token", cors_origins=("https://example.org",))
    photo = photos[0].read_bytes()
    status, problem, headers = server.ask(body=photo)
    assert (status, problem["code"], headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
    assert server.ask(body=photo, authorization="Bearer a-long-enough-tokem")[0] == 401
    assert server.ask("/v1/model")[0] == 401
    assert server.ask("/readyz")[0] == 200
    status, _, headers = server.ask(
        body=photo, authorization="Bearer a-long-enough-token", origin="https://example.org"
    )
    assert (status, headers["access-control-allow-origin"]) == (200, "https://example.org")


@pytest.mark.parametrize("content", ["short\n", "a long enough token\n", "\n", "a-long-enough-t\u00f6ken"])
def test_an_invalid_token_file_is_an_error(tmp_path, content):
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(ServeError) as error:
        read_token(tmp_path / "token")
    assert str(tmp_path / "token") in str(error.value)


def test_a_token_file_is_read(tmp_path):
    (tmp_path / "token").write_text("a-long-enough-token\n")
    assert read_token(tmp_path / "token") == "a-long-enough-token"
    with pytest.raises(ServeError):
        read_token(tmp_path / "missing")


def test_errors_of_the_command_have_exit_code_1_and_no_traceback(server, exported, tmp_path, capsys):
    (tmp_path / "token").write_text("short\n")
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes()[:500])
    cases = [
        ([exported, "--port", server.port], f"127.0.0.1:{server.port}"),
        ([exported, exported], exported.stem),
        ([exported, "--token-file", tmp_path / "token"], str(tmp_path / "token")),
        ([tmp_path / "m.onnx"], str(tmp_path / "m.onnx")),
    ]
    for arguments, subject in cases:
        code, out, err = run_cli(capsys, "serve", *arguments)
        assert (code, out) == (1, "")
        assert subject in err
        assert "Traceback" not in err


def shut_down_under_load(server, photo):
    """Stop a server while eight clients send requests; return their statuses or errors."""
    results, stop = [], threading.Event()

    def ask_repeatedly():
        while not stop.is_set():
            try:
                results.append(server.ask(body=photo)[0])
            except ConnectionRefusedError:  # it no longer listens
                return
            except (OSError, http.client.HTTPException) as error:
                results.append(repr(error))

    threads = [threading.Thread(target=ask_repeatedly) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(results) > 20)
    assert server.stop() == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert server.tracebacks() == 0
    return results


def test_requests_in_progress_are_completed_at_shutdown(start_server, photos):
    assert set(shut_down_under_load(start_server(), photos[0].read_bytes())) == {200}


@pytest.mark.slow
def test_a_hundred_shutdowns_lose_no_request(exported, photos, tmp_path):
    results = []
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        results += shut_down_under_load(Server(folder, exported, plan=PLAN), photos[0].read_bytes())
    assert set(results) == {200}


def test_a_killed_worker_is_replaced(start_server, photos):
    kill_workers_under_load(start_server(), photos[0].read_bytes(), 2)


@pytest.mark.slow
def test_a_worker_that_is_killed_thirty_times_is_replaced(start_server, photos):
    kill_workers_under_load(start_server(workers=2), photos[0].read_bytes(), 30)


def kill_workers_under_load(server, photo, times):
    """Kill a worker while eight clients send requests; all get a response, few of them 503."""
    count = len(server.workers())
    for _ in range(times):
        wait_for(lambda: server.metrics()[("tellapart_workers_ready",)] == count)  # not one that is still starting
        victim = server.workers()[0]
        with ThreadPoolExecutor(8) as pool:
            responses = [pool.submit(server.ask, body=photo) for _ in range(40)]
            time.sleep(0.05)
            os.kill(victim, signal.SIGKILL)
            statuses = [response.result()[0] for response in responses]
        assert set(statuses) <= {200, 503}
        if count > 1:  # requests at the other worker succeed
            assert statuses.count(503) <= 8
        wait_for(lambda victim=victim: victim not in server.workers() and server.ask("/readyz")[0] == 200)
        assert server.ask(body=photo)[0] == 200
    wait_for(lambda: server.metrics()[("tellapart_worker_restarts_total",)] == times)


@contextmanager
def inherited(number, handler):
    """Let processes that are started inside inherit how a signal is handled."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_the_end_of_the_terminal_drains_the_server(start_server):
    with inherited(signal.SIGHUP, signal.SIG_DFL):  # these tests may run under nohup
        server = start_server()
    server.process.send_signal(signal.SIGHUP)
    assert server.process.wait(30) == 0
    assert len(server.values(Event.SERVER_DRAINING)) == 1


def test_nohup_keeps_the_server_running(exported, tmp_path, photos):
    with inherited(signal.SIGHUP, signal.SIG_IGN):
        server = Server(tmp_path, exported)
    server.process.send_signal(signal.SIGHUP)
    assert server.ask(body=photos[0].read_bytes())[0] == 200
    assert server.stop() == 0


def test_a_worker_that_hangs_is_replaced(start_server, photos):
    server = start_server()
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    start = time.monotonic()
    assert server.ask("/v1/model")[0] == 200
    assert time.monotonic() - start < 5
    wait_for(lambda: worker not in server.workers() and server.ask("/readyz")[0] == 200, 40)
    assert server.ask(body=photos[0].read_bytes())[0] == 200
    assert "replaced" in server.log.read_text()


def test_an_image_that_takes_long_ends_its_decoder_alone(start_server, photos):
    """Twelve images whose decoding takes longer than their deadline, beside others that get their predictions."""
    server = start_server()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 70, 4), np.uint8))
    photo, slow = photos[0].read_bytes(), encode(noise.resize((7000, 7000), Image.Resampling.NEAREST), "png")
    (worker,) = server.workers()
    with ThreadPoolExecutor(20) as pool:
        late = [pool.submit(server.ask, body=slow, deadline_ms="700") for _ in range(12)]
        quick = [pool.submit(server.ask, body=photo) for _ in range(40)]
    assert {response.result()[0] for response in quick} == {200}
    assert {response.result()[0] for response in late} == {504}
    assert server.workers() == [worker]
    wait_for(lambda: "deadline" in server.log.read_text(), 5)


def test_an_image_that_crashes_the_decoder_ends_nothing_else(start_server, photos):
    server = start_server()
    (worker,) = server.workers()
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    threads = [Path(task, "children").read_text().split() for task in Path(f"/proc/{worker}/task").iterdir()]
    decoders = {int(pid) for pids in (children, *threads) for pid in pids}
    assert len(decoders) == PLAN.decoders + 1
    for pid in decoders:
        os.kill(pid, signal.SIGKILL)
    statuses = [server.ask(body=photo.read_bytes())[0] for photo in photos[:8]]
    assert set(statuses) <= {200, 503}  # to try again
    assert statuses[-4:] == [200] * 4
    assert server.workers() == [worker]


def test_a_worker_starts_with_the_old_model_while_the_changed_file_is_broken(start_server, exported, tmp_path, photos):
    served = Path(shutil.copy(exported, tmp_path / "served.onnx"))
    server = start_server(served)
    photo = photos[0].read_bytes()
    before = server.ask(body=photo)[1]
    (tmp_path / "broken").write_bytes(b"no model")
    os.replace(tmp_path / "broken", served)
    wait_for(lambda: server.ask("/readyz")[1]["outdated_models"] == 1, 10)
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: worker not in server.workers() and server.ask(body=photo)[0] == 200, 40)
    assert server.ask(body=photo)[1] == before
    assert server.ask("/readyz")[1]["outdated_models"] == 1
    assert len(server.values(Event.MODEL_NOT_REPLACED)) == 1
    shutil.copy(exported, tmp_path / "good")
    os.replace(tmp_path / "good", served)
    wait_for(lambda: server.ask("/readyz")[1]["outdated_models"] == 0, 10)


def test_a_model_follows_its_symbolic_link(start_server, exported, other_export, tmp_path, photos):
    """As Kubernetes replaces a ConfigMap: the link to a folder changes, and the old folder goes."""
    releases = {"first": exported, "second": other_export, "third": exported}
    link = tmp_path / "current"
    for name, path in releases.items():
        (tmp_path / name).mkdir()
        shutil.copy(path, tmp_path / name / "model.onnx")
    link.symlink_to("first")
    (served,) = prepare_models([str(link / "model.onnx")], None, tmp_path, RecordingProgress()).values()
    server = start_server(served, capture=str(tmp_path / "captured"))
    photo, identities = photos[0].read_bytes(), []
    for name in releases:
        (tmp_path / "new").symlink_to(name)
        os.replace(tmp_path / "new", link)
        expected = hashlib.sha256(releases[name].read_bytes()).hexdigest()[:16]
        wait_for(lambda expected=expected: server.ask("/v1/model")[1]["model"] == expected, 10)
        identities.append(server.ask(body=photo)[1]["model"])
        classes = server.ask("/v1/model")[1]["classes"]
        assert all(name in server.ask("/")[1] for name in classes)
        assert server.ask("/v1/captures")[1]["classes"] == {"model": classes}
        assert set(server.ask("/v1/status")[1]["predicted_classes"]) <= set(classes)
    assert identities[0] == identities[2] != identities[1]
    assert len(server.values(Event.MODEL_REPLACED)) == 2
    shutil.rmtree(tmp_path / "third")
    wait_for(lambda: server.ask("/readyz")[1]["outdated_models"] == 1, 10)
    assert server.metrics()[("tellapart_model_outdated", "model")] == 1
    assert server.ask(body=photo)[0] == 200
    shutil.copytree(tmp_path / "first", tmp_path / "third")
    wait_for(lambda: server.ask("/readyz")[1]["outdated_models"] == 0, 10)
    assert len(server.values(Event.MODEL_NOT_REPLACED)) == 1


@pytest.fixture
def other_export(tmp_path):
    """The ONNX file of a classifier with other classes."""
    other = train(digit_folder(tmp_path / "letters", 2, 20, "letter"), out=tmp_path / "other", **QUICK | {"epochs": 1})
    return tellapart.export(other.directory).path


def test_a_replaced_model_file_is_loaded_without_a_failed_request(start_server, run, exported, tmp_path, photos):
    served = tmp_path / "served.onnx"
    shutil.copy(exported, served)
    server = start_server(served, exported)
    photo = photos[0].read_bytes()
    old = server.ask(body=photo)[1]["model"]
    assert server.ask("/v1/predict?model=model", photo)[1]["model"] == old
    other = train(run.directory.parent / "images", out=tmp_path / "run", **QUICK | {"epochs": 1})
    new_file = tellapart.export(other.directory).path
    statuses, stop = [], threading.Event()

    def ask_repeatedly():
        while not stop.is_set():
            statuses.append(server.ask(body=photo)[0])

    thread = threading.Thread(target=ask_repeatedly)
    thread.start()
    (tmp_path / "damaged").write_bytes(new_file.read_bytes()[:1000])
    os.replace(tmp_path / "damaged", served)  # the old model stays in use
    time.sleep(3)
    assert server.ask(body=photo)[1]["model"] == old
    os.replace(new_file, served)
    wait_for(lambda: server.ask(body=photo)[1]["model"] != old, 20)
    stop.set()
    thread.join()
    assert set(statuses) == {200}
    assert server.ask("/v1/predict?model=model", photo)[1]["model"] == old
