"""Places for capture stores."""

import pytest

from tellapart.serving.capture.store import CaptureStore


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def where(request, tmp_path):
    """A folder, or the URL of an empty PostgreSQL database."""
    if request.param == "sqlite":
        return str(tmp_path / "captured")
    url = request.getfixturevalue("postgres")
    store = CaptureStore(url)
    with store.engine.begin() as connection:
        for table in ("images", "counts", "comparisons"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    store.close()
    return url
