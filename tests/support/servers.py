"""A real server in a process of its own, for tests."""

import http.client
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tellapart.progress import Event
from tellapart.serving.server import ServerSettings
from tellapart.serving.worker.plan import WorkerPlan

SCRIPT = Path(__file__).with_name("server_process.py")
PLAN = WorkerPlan(concurrent_batches=2, threads=1, max_batch_size=4, decoders=2)


class Server:
    """A server in a process of its own; settings: the fields of `ServerSettings`."""

    def __init__(self, folder, *models, **settings):
        self.output, self.log = folder / "events.jsonl", folder / "server.log"
        fields = asdict(ServerSettings(**{"port": 0, "plan": PLAN} | settings))
        command = [sys.executable, SCRIPT, json.dumps(fields), *map(str, models)]
        with self.output.open("w") as output, self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=output, stderr=log)
        try:
            wait_for(lambda: self.values(Event.SERVER_START) or self.process.poll() is not None)
            assert self.process.poll() is None, self.log.read_text()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.address = self.values(Event.SERVER_START)[0]["address"]
        self.port = int(self.address.rpartition(":")[2])

    def values(self, event):
        """Return the values of each report of an event."""
        lines = self.output.read_text().splitlines(keepends=True)
        reports = [json.loads(line) for line in lines if line.endswith("\n")]
        return [report["values"] for report in reports if report["event"] == event]

    def tracebacks(self):
        return self.log.read_text().count("Traceback")

    def ask(self, path="/v1/predict", body=None, method=None, **headers):
        """Return the status, the content (parsed if it is JSON), and the headers of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("POST" if body is not None else "GET"), path, body, fields)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        media_type = response.headers.get("content-type", "")
        is_json = content and "json" in media_type
        return response.status, json.loads(content) if is_json else content.decode(), response.headers

    def metrics(self):
        """Return the value of each metric by its name and labels."""
        families = text_string_to_metric_families(self.ask("/metrics")[1])
        return {
            (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
        }

    def images_in_progress(self):
        return self.metrics()[("tellapart_images_in_progress",)]

    def workers(self):
        """Return the process IDs of the workers."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = " ".join(task.read_text() for task in tasks).split()
        return [int(pid) for pid in children if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self):
        """Return the exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def form_body(files):
    """Return the body of a form with files, and its content type."""
    parts = [
        b'--edge\r\ncontent-disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"
