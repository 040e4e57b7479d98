"""`collected(where, out)`: the pictures that people labelled, as a folder and a manifest to train with."""

import csv
import io
from pathlib import Path

from tellapart.errors import CannotServe, printable
from tellapart.io.atomic import write_folder
from tellapart.serving.capture.store import Collection

MANIFEST = "manifest.csv"


def collected(where: str, out: Path) -> Path:
    """Write the labelled pictures of a collection into a new folder, with a manifest that `train` takes; return it.

    where: the folder or URL that the server was given by --collect. Raises `CannotServe` if there is nothing, or the
    folder is there already.
    """
    if "://" not in where and not Path(where).is_dir():
        raise CannotServe(f"There is no collection in {printable(where)}: name what --collect was given.")
    if out.exists():
        raise CannotServe(f"{printable(str(out))} is there already: name a new folder.")
    collection = Collection(where)
    try:
        files = {f"{identity[:16]}.webp": (label, content) for identity, label, content in collection.labelled()}
    finally:
        collection.close()
    if not files:
        raise CannotServe(f"No picture in {printable(where)} has a label yet: give some on the server's page /label.")
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["path", "label"])
    rows.writerows([name, label] for name, (label, _) in files.items())
    write_folder(out, {name: content for name, (_, content) in files.items()} | {MANIFEST: table.getvalue().encode()})
    return out / MANIFEST
