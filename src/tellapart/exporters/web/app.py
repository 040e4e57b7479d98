"""The folder of a web app: the page and its parts, the model, the runtime, icons, and what makes it work offline."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tellapart.webui.icons import GREEN, icon
from tellapart.webui.page import asset, page_files, templates

MODEL = "model.onnx"
_OFFLINE = ("answers.js", "decode.js", "files.js", "install.js", "local.js", "resize.js", "worker.js")
_PROMISE = "Your pictures stay on this device: all is computed in this page, and nothing is sent."
_PAPER = "#ffffff"


def app_files(title: str, model: bytes, document: dict[str, Any], runtime: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a classifier as the files of a folder to serve, by their names.

    title: the name people see. model: the content of an ONNX file. document: its JSON document. runtime: the files of
    onnxruntime-web.
    """
    files = {MODEL: model, **runtime, **_parts(title, hashlib.sha256(model).hexdigest(), document)}
    parts = {"./" if name == "index.html" else name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    # The worker's own text counts too: another worker must not share the cache of this one.
    version = hashlib.sha256(asset("service-worker.js") + json.dumps(parts).encode()).hexdigest()[:16]
    worker = templates().get_template("service-worker.js").render(version=version, parts=parts)
    return {**files, "service-worker.js": worker.encode()}


def _parts(title: str, checksum: str, document: dict[str, Any]) -> dict[str, bytes]:
    """Return the page and all that belongs to it, by their names."""
    files = page_files(title, document, "local.js", _PROMISE, offline=True)
    files |= {name: asset(name) for name in _OFFLINE}
    files |= {"icon-512.png": icon(512), "icon-full.png": icon(512, full=True), "icon-apple.png": icon(180, full=True)}
    files["classifier.json"] = _json(_about(checksum, document))
    files["manifest.webmanifest"] = _json(_manifest(title, document["classes"]))
    return files


def _about(checksum: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the document that the page needs, as runtimes for browsers do not give it out."""
    known = document["familiarity"]
    return {
        "sha256": checksum,
        "classes": document["classes"],
        "preprocess": document["preprocess"],
        "sets": document["sets"],
        "familiarity": {"limit": known["limit"]} if known else None,
    }


def _manifest(title: str, classes: list[str]) -> dict[str, Any]:
    """Return what makes the page installable (W3C, "Web Application Manifest")."""
    return {
        "name": title,
        "short_name": title[:12].strip(),
        "description": f"Tells apart {len(classes)} kinds of pictures, on this device.",
        "id": "./",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": _PAPER,
        "theme_color": GREEN,
        "icons": [
            {"src": "icon-192.png", "sizes": "192x192", "type": "image/png", "purpose": "any"},
            {"src": "icon-512.png", "sizes": "512x512", "type": "image/png", "purpose": "any"},
            {"src": "icon-full.png", "sizes": "512x512", "type": "image/png", "purpose": "maskable"},
        ],
    }


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
