"""A model in use: its classifier, what identifies it, and what is told of it."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import printable
from tellapart.inference.onnx import OnnxClassifier, from_content
from tellapart.inference.onnx_safety import read_onnx
from tellapart.serving.worker.plan import Plan


@dataclass(frozen=True)
class Loaded:
    """A classifier, the first digits of its file's SHA-256, and the state of the file when it was read."""

    classifier: OnnxClassifier
    identity: str
    state: tuple[int, int]

    def warm_up(self, plan: Plan) -> None:
        """Answer first pictures, which take longer than later ones, and take the memory that a full load needs."""
        with ThreadPoolExecutor(plan.runners) as pool:
            list(pool.map(self.classifier.outputs, [self.blank(plan.batch)] * plan.runners))

    def blank(self, count: int) -> NDArray[np.uint8]:
        """Return so many empty pictures, already resized."""
        size = self.classifier.preprocess.size
        return np.zeros((count, size, size, 3), np.uint8)

    def description(self) -> dict[str, Any]:
        """Return what clients are told of it."""
        facts, sets = self.classifier.facts, self.classifier.sets
        return {
            "model": self.identity,
            "classes": self.classifier.classes,
            "preprocess": self.classifier.preprocess.to_json(),
            "metrics": facts.get("metrics"),
            "fingerprint": facts.get("fingerprint"),
            "expected": facts.get("expected"),
            "coverage": sets.coverage if sets else None,
            "familiarity": self.classifier.limit is not None,
        }


def load(path: Path, plan: Plan) -> Loaded:
    """Read an exported file and warm it up; raises what `load_onnx` raises, and `OSError`."""
    state = state_of(path)
    content, document = read_onnx(path)
    classifier = from_content(content, document, printable(str(path)), plan.threads)
    loaded = Loaded(classifier, hashlib.sha256(content).hexdigest()[:16], state)
    loaded.warm_up(plan)
    return loaded


def state_of(path: Path) -> tuple[int, int]:
    """Return what changes when a file is replaced: its number on the disk, and when it was written."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
