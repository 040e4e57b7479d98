"""Where something is kept: SQLite on this machine, or a database of PostgreSQL that several machines share."""

from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError

from tellapart.errors import printable
from tellapart.optional import require


def database_url(where: str | Path, name: str) -> sql.URL:
    """Return the URL of a database; `where` is one, or a folder for a file of SQLite called `name`.

    Raises `MissingExtra` where there is nothing to speak to PostgreSQL with.
    """
    if "://" in str(where):
        url = sql.make_url(str(where))
        if url.drivername not in ("postgresql", "postgres"):
            return url
        require("psycopg", "postgres")
        return url.set(drivername="postgresql+psycopg")
    folder = Path(where)
    folder.mkdir(parents=True, exist_ok=True)
    return sql.URL.create("sqlite", database=str(folder / name))


def shown(where: str | Path) -> str:
    """Return what may be printed of a place: no password."""
    text = str(where)
    try:
        return printable(sql.make_url(text).render_as_string(hide_password=True) if "://" in text else text)
    except ArgumentError:
        return "this database"
