"""`export_labelled(where, out)`: write the captured images that people have labelled as a folder to train with."""

import csv
import io
from pathlib import Path

from tellapart.errors import ServeError, printable
from tellapart.io.atomic import write_new_folder
from tellapart.serving.capture.store import CaptureStore

MANIFEST = "manifest.csv"


def export_labelled(where: str, out: Path) -> Path:
    """Write the labelled images of a capture store to a new folder, and return the path of its manifest.

    where: the folder or URL given to `serve --capture`. Raises `ServeError` if there are no labelled images, or the
    folder exists.
    """
    if "://" not in where and not Path(where).is_dir():
        raise ServeError(f"There is no capture store in {printable(where)}: name the value of serve --capture.")
    if out.exists():
        raise ServeError(f"{printable(str(out))} exists: name a new folder.")
    store = CaptureStore(where)
    try:
        images = {f"{key[:16]}.webp": (label, content) for key, label, content in store.iter_labelled()}
    finally:
        store.close()
    if not images:
        raise ServeError(f"No image in {printable(where)} is labelled: label some on the page /label of the server.")
    manifest = io.StringIO()
    rows = csv.writer(manifest, lineterminator="\n")
    rows.writerow(["path", "label"])
    rows.writerows([name, label] for name, (label, _) in images.items())
    files = {name: content for name, (_, content) in images.items()}
    write_new_folder(out, files | {MANIFEST: manifest.getvalue().encode()})
    return out / MANIFEST
