"""A real server in a process of its own, for tests."""

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from tellapart.progress import TerminalProgress
from tellapart.serving.limits import Limits
from tellapart.serving.worker.plan import Plan  # for the options
from tellapart.serving.server import serve
if __name__ == "__main__":
    models = {Path(path).stem: Path(path) for path in sys.argv[2:]}
    serve(models, port=0, progress=TerminalProgress(), **({"plan": Plan(1, 1, 4, 2)} | eval(sys.argv[1])))
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, folder, *models, options="{}"):
        script = folder / "server.py"
        script.write_text(SCRIPT)
        self.log = folder / "server.log"
        command = [sys.executable, script, options, *map(str, models)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: "Serving" in self.told() or self.process.poll() is not None)
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", self.told())[1])

    def told(self):
        return self.log.read_text()

    def ask(self, path="/v1/predict", body=None, method=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("POST" if body is not None else "GET"), path, body, named)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        kind = response.headers.get("content-type", "")
        return response.status, json.loads(content) if "json" in kind else content.decode(), response.headers

    def children(self):
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        listed = " ".join(task.read_text() for task in tasks).split()
        return [int(pid) for pid in listed if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def wait_for(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
