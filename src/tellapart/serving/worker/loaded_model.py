"""A model in use: its classifier, the identity of its file, and its description for clients."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.errors import printable
from tellapart.inference.onnx import OnnxClassifier, load_onnx_bytes
from tellapart.inference.onnx_safety import read_onnx
from tellapart.serving.worker.plan import WorkerPlan

IDENTITY_DIGITS = 16  # of the SHA-256 of a file
FileVersion = tuple[int, int, int, int, int]  # device, inode, size, and when content and status last changed


@dataclass(frozen=True)
class LoadedModel:
    """A classifier, the first digits of the SHA-256 of its file, the version of the file, and its JSON document."""

    classifier: OnnxClassifier
    identity: str
    version: FileVersion
    document: dict[str, Any]

    def warm_up(self, plan: WorkerPlan) -> None:
        """Classify blank images: the first ones take longer, and reserve the memory of a full load."""
        size = self.classifier.preprocess.size
        blank = np.zeros((plan.max_batch_size, size, size, 3), np.uint8)
        with ThreadPoolExecutor(plan.concurrent_batches) as pool:
            list(pool.map(self.classifier.compute_outputs, [blank] * plan.concurrent_batches))

    def description(self) -> dict[str, Any]:
        """Return the description for clients, as in `ModelDescription`."""
        metadata, conformal = self.classifier.metadata, self.classifier.conformal
        return {
            "model": self.identity,
            "classes": self.classifier.classes,
            "preprocess": self.classifier.preprocess.to_json(),
            "metrics": metadata.get("metrics"),
            "fingerprint": metadata.get("fingerprint"),
            "expected": metadata.get("expected"),
            "coverage": conformal.coverage if conformal else None,
            "ood_detector": self.classifier.ood_threshold is not None,
        }


def load_model(path: Path, plan: WorkerPlan) -> LoadedModel:
    """Read an exported file and warm it up; raises what `load_onnx` raises, and `OSError`."""
    version = file_version(path)
    content, document = read_onnx(path)
    classifier = load_onnx_bytes(content, document, printable(str(path)), plan.threads)
    model = LoadedModel(classifier, hashlib.sha256(content).hexdigest()[:IDENTITY_DIGITS], version, document)
    model.warm_up(plan)
    return model


def file_version(path: Path) -> FileVersion:
    """Return what changes when a file is replaced, or the target of a link."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
