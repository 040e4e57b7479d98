"""Cached results as small JSON files in the cache folder; each can be computed again."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tellapart.errors import SaveError
from tellapart.io.atomic import cache_folder, write_atomic


def cache_path(kind: str, inputs: bytes) -> Path:
    """Return the path of a cached result; inputs: all that the result depends on."""
    return cache_folder() / kind / f"{hashlib.sha256(inputs).hexdigest()[:32]}.json"


def load_cached_json(path: Path) -> Any:
    """Return a cached result, or None if there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def save_cached_json(path: Path, value: Any) -> None:
    """Cache a result; does nothing if the cache folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(value))
    except (OSError, SaveError):
        return
