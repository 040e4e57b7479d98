"""What is kept for labelling, in SQLite and in PostgreSQL: bounded, without metadata, and back into training."""

import csv
import io
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

import tellapart
from encoding import encode
from folders import run_cli
from servers import Server, wait_for
from tellapart.data.image import decode
from tellapart.data.sources import load_source
from tellapart.errors import CannotServe
from tellapart.serving.capture.capture import reason_to_keep
from tellapart.serving.capture.drift import drift
from tellapart.serving.capture.store import Bounds, Collection
from tellapart.serving.worker.untrusted_image import stripped


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "kept")
    url = request.getfixturevalue("postgres")
    collection = Collection(url)
    with collection.engine.begin() as connection:
        for table in ("pictures", "seen"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    collection.close()
    return url


def about(guess="cat", reason="unfamiliar"):
    return "pets", guess, 0.5, reason


def test_pictures_are_kept_labelled_and_dropped(where):
    collection = Collection(where)
    assert collection.keep(b"first", *about())
    assert collection.keep(b"second", *about("d\u00f6g", "uncertain"))
    assert not collection.keep(b"first", *about())  # it is there
    second, first = collection.unlabelled(10)  # the newest first
    assert (first["guess"], second["guess"], second["reason"]) == ("cat", "d\u00f6g", "uncertain")
    assert collection.content(first["id"]) == b"first"
    assert collection.label(first["id"], "l'\u00e9t\u00e9 \u2713")
    assert not collection.label("0" * 64, "cat")
    assert collection.totals() == {"labelled": 1, "unlabelled": 1}
    collection.close()
    again = Collection(where)  # as another server would
    assert [(label, content) for _, label, content in again.labelled()] == [("l'\u00e9t\u00e9 \u2713", b"first")]
    assert again.drop(second["id"])
    assert not again.drop(second["id"])
    assert again.content(second["id"]) is None
    again.close()


def test_the_oldest_without_a_label_makes_room(where):
    collection = Collection(where, Bounds(pictures=3, bytes_kept=100))
    for number in range(3):
        assert collection.keep(bytes([number]) * 10, *about())
    oldest = collection.unlabelled(3)[-1]["id"]
    collection.label(oldest, "cat")
    assert collection.keep(b"new" * 4, *about())
    assert collection.content(oldest) == bytes(10)  # it has a label
    assert collection.totals() == {"labelled": 1, "unlabelled": 2}
    assert collection.keep(b"x" * 85, *about())  # by bytes
    assert collection.totals() == {"labelled": 1, "unlabelled": 1}
    assert not collection.keep(b"x" * 101, *about())
    assert not collection.keep(b"y" * 95, *about())  # a label is never dropped for it
    assert collection.content(oldest) == bytes(10)
    collection.close()


def test_counts_of_many_servers_add_up(where):
    collections = [Collection(where) for _ in range(4)]

    def add(collection):
        for _ in range(10):
            collection.add_seen({(100, "pets", "class", "cat"): 1, (101, "pets", "class", "dog"): 2})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, collections))
    assert collections[0].seen("pets", "class", 0) == {"cat": 40, "dog": 80}
    assert collections[0].seen("pets", "class", 101) == {"dog": 80}
    assert collections[0].seen("birds", "class", 0) == {}
    for each in collections:
        each.close()


def test_what_cannot_be_opened_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "postgresql://nobody:secret@127.0.0.1:1/none", "oracle://x", "http://"):
        with pytest.raises(CannotServe, match="Cannot keep pictures in") as caught:
            Collection(str(place))
        assert "secret" not in str(caught.value)
    (tmp_path / "collection.sqlite").write_text("this is no database, but it is long enough to look at" * 50)
    with pytest.raises(CannotServe, match="not a database"):
        Collection(str(tmp_path))


def test_a_kept_picture_tells_nothing_but_its_pixels(photos):
    picture = Image.open(photos[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6  # who made it, and how it was held
    exif.get_ifd(0x8825)[2] = (47.0, 0.0, 0.0)  # where
    content = encode(picture, "jpeg", exif=exif, comment=b"a comment")
    kept = stripped(decode(content))
    assert (decode(kept) == decode(content)).all()  # upright, and the same pixels
    with Image.open(io.BytesIO(kept)) as image:
        assert not dict(image.getexif())
        assert not image.info.keys() & {"exif", "comment", "xmp", "icc_profile"}
    assert b"camera" not in kept
    large = stripped(np.zeros((2000, 3000, 3), np.uint8))
    assert decode(large).shape == (683, 1024, 3)


def test_reasons():
    sure = {"familiar": True, "set": ["cat"], "probability": 0.6}
    assert reason_to_keep(sure) is None
    assert reason_to_keep(sure | {"set": ["cat", "dog"]}) == "uncertain"
    assert reason_to_keep(sure | {"familiar": False}) == "unfamiliar"
    assert reason_to_keep(sure | {"set": None, "familiar": None}) == "uncertain"


@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([100, 300, 3000]))
@settings(max_examples=60, deadline=None)
def test_drift_is_zero_for_equal_shares_and_symmetric(seed, bins, count):
    rng = np.random.default_rng(seed)
    then = rng.multinomial(count, rng.dirichlet(np.ones(bins))).tolist()
    same = drift(then, then)
    assert same.index == pytest.approx(0, abs=1e-9)
    assert not same.alarm
    now = rng.permutation(then).tolist()
    enough = [count for count in zip(then, now, strict=True) if min(count) >= 5]  # none is counted with others
    if len(enough) > 1:
        one, other = ([pair[i] for pair in enough] for i in (0, 1))
        assert drift(one, other).index == pytest.approx(drift(other, one).index, rel=1e-9)


@pytest.mark.parametrize(("bins", "then", "now"), [(3, 60, 100), (10, 600, 200), (10, 60, 5000), (100, 1000, 300)])
def test_drift_alarms_at_a_shift_and_not_by_chance(bins, then, now):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(bins, 3.0))
    chance = [drift(rng.multinomial(then, shares), rng.multinomial(now, shares)) for _ in range(2000)]
    assert sum(each.alarm for each in chance) <= 12  # of 2,000; by the theory 2
    other = np.roll(np.sort(shares), bins // 2)
    shifted = [drift(rng.multinomial(then, np.sort(shares)), rng.multinomial(now, other)).alarm for _ in range(200)]
    assert sum(shifted) >= (190 if then >= 600 else 20)  # little is sure from 60 pictures
    assert drift(rng.multinomial(then, shares), [0] * bins).alarm is False  # nothing was seen yet


def test_the_chance_is_that_of_a_chi_square():
    counts = [1000] * 10
    assert drift(counts, counts).chance == pytest.approx(stats.chi2.ppf(0.999, 9) * 2 / 10_000, rel=0.01)


def test_what_is_unfamiliar_comes_back_as_training_pictures(run, exported, where, photos, tmp_path, capsys):
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, exported, options=repr({"collect": where}))
    digit = sorted((run.directory.parent / "pictures").rglob("*.png"))[0].read_bytes()
    noise = [
        encode(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)), "png")
        for seed in range(8)
    ]
    strange = [content for content in noise if server.ask(body=content)[1]["familiar"] is False]
    assert strange
    assert len(strange) > 2
    for content in strange:
        server.ask(body=content)
        time.sleep(0.6)
    wait_for(lambda: server.ask("/v1/collected")[1]["unlabelled"] > 1)
    server.ask(body=digit)
    found = server.ask("/v1/collected")[1]
    assert {each["reason"] for each in found["pictures"]} <= {"unfamiliar", "uncertain"}
    assert found["classes"] == {"model": list(run.classifier.classes)}
    found["pictures"].sort(key=lambda each: each["reason"] != "unfamiliar")
    first = found["pictures"][0]["id"]
    body = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/collected/{first}").read()
    assert any(np.array_equal(decode(body), decode(content)) for content in strange)
    for label, status in (("noise", 204), ("", 422), ("a\nb", 422), ("x" * 201, 422)):
        answered = server.ask(f"/v1/collected/{first}", f'{{"label": {json.dumps(label)}}}', "PUT")
        assert answered[0] == status
    assert server.ask(f"/v1/collected/{'0' * 64}", '{"label": "noise"}', "PUT")[0] == 404
    assert server.ask("/v1/collected/nothing", method="DELETE")[0] == 422
    assert server.ask(f"/v1/collected/{first}", b"{" * 5000, "PUT")[0] == 413
    second = found["pictures"][1]["id"]
    assert server.ask(f"/v1/collected/{second}", '{"label": " 7 "}', "PUT")[0] == 204
    for each in found["pictures"][2:]:
        assert server.ask(f"/v1/collected/{each['id']}", method="DELETE")[0] == 204
    assert server.ask("/v1/collected")[1]["labelled"] == 2
    assert server.end() == 0
    collection = Collection(where)
    assert sum(collection.seen("model", "class", 0).values()) >= len(noise)
    assert sum(collection.seen("model", "distance", 0).values()) >= len(noise)
    collection.close()
    code, out, _ = run_cli(capsys, "collected", where, tmp_path / "new")
    assert (code, out.strip()) == (0, str(tmp_path / "new" / "manifest.csv"))
    with open(tmp_path / "new" / "manifest.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["7", "noise"]
    samples = load_source(tmp_path / "new" / "manifest.csv")
    assert samples.classes == ("7", "noise")
    code, _, err = run_cli(capsys, "collected", where, tmp_path / "new")
    assert (code, "is there already" in err) == (1, True)


def test_an_exported_file_says_what_to_expect(run, exported):
    expected = tellapart.load(exported).facts["expected"]
    assert sum(expected["classes"]) == expected["pictures"] == run.metrics["validation"]["pictures"]
    assert len(expected["deciles"]) == 9
    assert expected["deciles"] == sorted(expected["deciles"])
