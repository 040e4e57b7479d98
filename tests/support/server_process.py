"""Runs a server for a test: `python server_process.py SETTINGS MODEL...`; prints its events, one JSON object per line.

SETTINGS: the fields of `ServerSettings` as JSON.
"""

import json
import sys
from pathlib import Path

from tellapart.progress import Progress
from tellapart.serving.limits import Limits
from tellapart.serving.server import ServerSettings, serve
from tellapart.serving.worker.plan import WorkerPlan


class PrintingProgress(Progress):
    """Prints the name and the values of each event."""

    def _emit(self, level, event, message, values):
        print(json.dumps({"event": event, "values": values}), flush=True)


def main(settings, *models):
    fields = json.loads(settings)
    fields["limits"] = Limits(**fields["limits"])
    fields["plan"] = fields["plan"] and WorkerPlan(**fields["plan"])
    fields["cors_origins"] = tuple(fields["cors_origins"])
    serve({Path(path).stem: Path(path) for path in models}, ServerSettings(**fields), PrintingProgress())


if __name__ == "__main__":
    main(*sys.argv[1:])
