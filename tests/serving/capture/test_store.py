"""The capture store, in SQLite and in PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tellapart.errors import ServeError
from tellapart.serving.capture.store import CapturedPrediction, CaptureStore, Disagreement, StoreLimits

OUT_OF_DISTRIBUTION = CapturedPrediction("pets", "a1", "cat", 0.5, "out_of_distribution")
UNCERTAIN = CapturedPrediction("pets", "a1", "d\u00f6g", 0.5, "uncertain")


def test_images_are_stored_labelled_and_deleted(where):
    store = CaptureStore(where)
    assert store.add(b"first", OUT_OF_DISTRIBUTION)
    assert store.add(b"second", UNCERTAIN)
    assert not store.add(b"first", OUT_OF_DISTRIBUTION)  # a duplicate
    second, first = store.list_unlabelled(10)  # the newest first
    assert (first["predicted_label"], second["predicted_label"]) == ("cat", "d\u00f6g")
    assert (first["reason"], second["reason"]) == ("out_of_distribution", "uncertain")
    assert store.read_image(first["id"]) == b"first"
    assert store.set_label(first["id"], "l'\u00e9t\u00e9 \u2713")
    assert not store.set_label("0" * 64, "cat")
    assert store.count_images() == {"labelled": 1, "unlabelled": 1}
    store.close()
    reopened = CaptureStore(where)  # as another server would
    assert [(label, content) for _, label, content in reopened.iter_labelled()] == [
        ("l'\u00e9t\u00e9 \u2713", b"first")
    ]
    assert reopened.delete(second["id"])
    assert not reopened.delete(second["id"])
    assert reopened.read_image(second["id"]) is None
    reopened.close()


def test_labelled_images_of_a_model(where):
    store = CaptureStore(where)
    for content, prediction in ((b"first", OUT_OF_DISTRIBUTION), (b"second", UNCERTAIN), (b"third", UNCERTAIN)):
        store.add(content, prediction)
    ids = {image["id"]: store.read_image(image["id"]) for image in store.list_unlabelled(10)}
    labels = {b"first": "cat", b"second": "cat"}
    for image_id, content in ids.items():
        if content in labels:
            store.set_label(image_id, labels[content])
    expected = {("out_of_distribution", 0.5, True), ("uncertain", 0.5, False)}
    assert set(store.list_labelled_predictions("a1")) == expected
    assert store.list_labelled_predictions("b2") == []
    disagreement = Disagreement("a1", "c3", "d\u00f6g", "cat")
    for content in (b"second", b"second", b"third", b"not stored"):
        store.add_disagreement(content, disagreement)
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM comparisons").scalar() == 2
    store.delete(next(image_id for image_id, content in ids.items() if content == b"third"))
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM comparisons").scalar() == 1
    assert store.list_labelled_disagreements("a1", "c3") == [("cat", "d\u00f6g", "cat")]
    assert store.list_labelled_disagreements("a1", "d4") == []
    store.close()


def test_the_oldest_unlabelled_image_makes_room(where):
    store = CaptureStore(where, StoreLimits(images=3, total_bytes=100))
    for number in range(3):
        assert store.add(bytes([number]) * 10, OUT_OF_DISTRIBUTION)
    oldest = store.list_unlabelled(3)[-1]["id"]
    store.set_label(oldest, "cat")
    assert store.add(b"new" * 4, OUT_OF_DISTRIBUTION)
    assert store.read_image(oldest) == bytes(10)  # labelled
    assert store.count_images() == {"labelled": 1, "unlabelled": 2}
    assert store.add(b"x" * 85, OUT_OF_DISTRIBUTION)  # room by bytes
    assert store.count_images() == {"labelled": 1, "unlabelled": 1}
    assert not store.add(b"x" * 101, OUT_OF_DISTRIBUTION)
    assert not store.add(b"y" * 95, OUT_OF_DISTRIBUTION)  # labelled images are never deleted
    assert store.read_image(oldest) == bytes(10)
    store.close()


def test_counts_of_several_servers_add_up(where):
    stores = [CaptureStore(where) for _ in range(4)]

    def add_counts(store):
        for _ in range(10):
            store.add_counts({(100, "pets", "class", "cat"): 1, (101, "pets", "class", "dog"): 2})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_counts, stores))
    assert stores[0].sum_counts("pets", "class", 0) == {"cat": 40, "dog": 80}
    assert stores[0].sum_counts("pets", "class", 101) == {"dog": 80}
    assert stores[0].sum_counts("birds", "class", 0) == {}
    stores[0].delete_counts("class", 101)
    stores[0].delete_counts("distance", 200)
    assert stores[1].sum_counts("pets", "class", 0) == {"dog": 80}
    for store in stores:
        store.close()


@pytest.mark.parametrize("where", ["file", "postgresql://nobody:secret@127.0.0.1:1/none", "oracle://x", "http://"])
def test_a_store_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ServeError) as error:
        CaptureStore(where)
    assert "secret" not in str(error.value)


def test_a_damaged_database_is_an_error(tmp_path):
    (tmp_path / "captures.sqlite").write_text("this is no database, but it is long enough to look at" * 50)
    with pytest.raises(ServeError) as error:
        CaptureStore(str(tmp_path))
    assert str(tmp_path) in str(error.value)
