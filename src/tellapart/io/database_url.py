"""URLs of databases: SQLite on this machine, or PostgreSQL, which several machines can share."""

from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError

from tellapart.errors import printable
from tellapart.optional import require


def database_url(location: str | Path, file_name: str) -> sql.URL:
    """Return the URL of a database; location: a URL, or a folder for the SQLite file `file_name`.

    Raises `MissingExtraError` if the PostgreSQL driver is not installed.
    """
    if "://" in str(location):
        url = sql.make_url(str(location))
        if url.drivername not in ("postgresql", "postgres"):
            return url
        require("psycopg", "postgres")
        return url.set(drivername="postgresql+psycopg")
    folder = Path(location)
    folder.mkdir(parents=True, exist_ok=True)
    return sql.URL.create("sqlite", database=str(folder / file_name))


def redact_url(location: str | Path) -> str:
    """Return the location of a database without its password, for messages."""
    text = str(location)
    try:
        return printable(sql.make_url(text).render_as_string(hide_password=True) if "://" in text else text)
    except ArgumentError:
        return "this database"
