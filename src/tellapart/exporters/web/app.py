"""The files of a web app: the page, the model, the runtime, the icons, and the service worker for offline use."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tellapart.webui.icons import GREEN, draw_icon
from tellapart.webui.page import page_templates, read_asset, render_page_files

MODEL = "model.onnx"
_OFFLINE_ASSETS = (
    "decode.js",
    "errors.js",
    "image-bytes.js",
    "install.js",
    "local.js",
    "opened-as-file.js",
    "prediction.js",
    "resize.js",
    "worker.js",
)
PRIVACY = "Your images stay on this device. The page computes all predictions itself and sends nothing."
_WHITE = "#ffffff"


def make_app_files(
    title: str, model: bytes, document: dict[str, Any], runtime: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the content of each file of a web app by name.

    title: the displayed name. model: the content of an ONNX file. document: its JSON document. runtime: the files of
    onnxruntime-web.
    """
    files = {MODEL: model, **runtime, **_make_page(title, document)}
    files["classifier.json"] = make_classifier_json(model, document)
    digests = {_cache_name(name): hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    # Includes the service worker's own text: another worker must not share this one's cache.
    version = hashlib.sha256(read_asset("service-worker.js") + json.dumps(digests).encode()).hexdigest()[:16]
    worker = page_templates().get_template("service-worker.js").render(version=version, files=digests)
    return {**files, "service-worker.js": worker.encode()}


def _cache_name(name: str) -> str:
    return "./" if name == "index.html" else name


def make_classifier_json(model: bytes, document: dict[str, Any]) -> bytes:
    """Return the file with what the page needs of the document; onnxruntime-web cannot read the model's metadata."""
    ood = document["ood"]
    return _to_json(
        {
            "sha256": hashlib.sha256(model).hexdigest(),
            "classes": document["classes"],
            "preprocess": document["preprocess"],
            "conformal": document["conformal"],
            "ood": {"threshold": ood["threshold"]} if ood else None,
        }
    )


def _make_page(title: str, document: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of the page by name."""
    files = render_page_files(title, document, "local.js", PRIVACY, offline=True)
    files |= {name: read_asset(name) for name in _OFFLINE_ASSETS}
    files |= {
        "icon-512.png": draw_icon(512),
        "icon-full.png": draw_icon(512, full=True),
        "icon-apple.png": draw_icon(180, full=True),
    }
    files["manifest.webmanifest"] = _to_json(_make_manifest(title, document["classes"]))
    return files


def _make_manifest(title: str, classes: list[str]) -> dict[str, Any]:
    """Return the manifest that makes the page installable (W3C, "Web Application Manifest")."""
    return {
        "name": title,
        "short_name": title[:12].strip(),
        "description": f"Classifies images into {len(classes)} classes on this device.",
        "id": "./",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": _WHITE,
        "theme_color": GREEN,
        "icons": [
            {"src": "icon-192.png", "sizes": "192x192", "type": "image/png", "purpose": "any"},
            {"src": "icon-512.png", "sizes": "512x512", "type": "image/png", "purpose": "any"},
            {"src": "icon-full.png", "sizes": "512x512", "type": "image/png", "purpose": "maskable"},
        ],
    }


def _to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
