"""What took long to find out and is found out again at will: small JSON files in the cache folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tellapart.errors import CannotSave
from tellapart.io.atomic import cache_folder, write_atomic


def place(kind: str, about: bytes) -> Path:
    """Return where something is kept; about: all that it depends on."""
    return cache_folder() / kind / f"{hashlib.sha256(about).hexdigest()[:32]}.json"


def recall(path: Path) -> Any:
    """Return what is kept there, None if there is nothing or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(path: Path, value: Any) -> None:
    """Keep a value; where that cannot be, it is found out anew next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(value))
    except (OSError, CannotSave):
        return
