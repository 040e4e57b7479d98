"""Kept pixels: always those of a fresh decode, whatever happens to the process, the disk or the pictures."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from recording import RecordingProgress
from tellapart.data import pixel_cache
from tellapart.data.arrays import from_arrays
from tellapart.data.audit import audit
from tellapart.data.folder import load_folder
from tellapart.data.pixel_cache import open_pixels
from tellapart.errors import BadSetting, UnreadableImage
from tellapart.io import disk_cache
from tellapart.io.disk_cache import map_file, size_limit
from tellapart.progress import Progress

SIZE = 24


class Counted:
    """A resize that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, picture):
        self.calls += 1
        return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture(scope="module")
def tree(photos, faces, tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name, files in {"photo": photos, "face": faces[:30]}.items():
        (root / name).mkdir()
        for number, file in enumerate(files):
            (root / name / f"{number:03}{file.suffix}").write_bytes(file.read_bytes())
    return root


@pytest.fixture(scope="module")
def found(tree):
    return audit(load_folder(tree))


@pytest.fixture(scope="module")
def fresh(found):
    """Every row decoded and resized by itself: what all kept pixels must be."""
    return np.stack([Counted()(found.samples.pictures.picture(row)) for row in range(len(found.samples))])


def opened(found, progress=None, key="bilinear"):
    resize = Counted()
    return open_pixels(found, resize, key, SIZE, progress or Progress()), resize


def entry(folder):
    (path,) = folder.glob("*.pixels")
    return path


def released():
    """Let go of maps that only garbage still refers to, and of their locks."""
    gc.collect()


def test_rows_are_decoded_at_first_use_once_and_found_by_the_next_process(found, fresh):
    heard = RecordingProgress()
    pixels, resize = opened(found, heard)
    assert pixels.shape == fresh.shape
    assert len(pixels) == len(fresh)
    assert resize.calls == 0
    assert np.array_equal(pixels[3:7], fresh[3:7])
    assert resize.calls == 4
    assert np.array_equal(pixels[np.array([5, 5, 9, 3])], fresh[[5, 5, 9, 3]])
    assert resize.calls == 5
    assert np.array_equal(pixels[:], fresh)
    again, none = opened(found, heard)
    assert np.array_equal(again[:], fresh)
    assert none.calls == 0
    assert heard.messages == []


def test_what_is_returned_is_ones_own(found, fresh):
    pixels, _ = opened(found)
    first = pixels[:4]
    assert first.flags.c_contiguous
    first[:] = 0
    assert np.array_equal(pixels[:4], fresh[:4])


def test_views_share_what_they_decoded(found, fresh):
    pixels, resize = opened(found)
    rows = np.array([7, 2, 11])
    view = pixels.rows(rows)
    assert view.shape == (3, SIZE, SIZE, 3)
    assert np.array_equal(view[:], fresh[rows])
    assert np.array_equal(view.rows(np.array([2, 0]))[:], fresh[[11, 7]])
    assert np.array_equal(pixels[rows], fresh[rows])
    assert resize.calls == 3


def test_other_settings_and_other_pictures_have_pixels_of_their_own(found, folder):
    opened(found)[0][:2]
    opened(found, key="bicubic")[0][:2]
    assert len(list(folder.glob("*.pixels"))) == 2
    digests = found.digests.copy()
    digests[0] ^= 1
    opened(replace(found, digests=digests))
    assert len(list(folder.glob("*.pixels"))) == 3


MODES = ["disk", "memory", "streamed"]


def in_mode(mode, monkeypatch, found, progress=None):
    if mode != "disk":
        monkeypatch.setenv("TELLAPART_CACHE_LIMIT", "0")
    if mode == "streamed":
        monkeypatch.setattr(pixel_cache, "_IN_MEMORY", 1000)
    return opened(found, progress)


@pytest.mark.parametrize("mode", MODES)
def test_all_modes_give_the_same_bits(mode, found, fresh, folder, monkeypatch):
    heard = RecordingProgress()
    pixels, resize = in_mode(mode, monkeypatch, found, heard)
    for _ in range(2):
        assert np.array_equal(pixels[:], fresh)
    assert resize.calls == len(fresh) * (2 if mode == "streamed" else 1)
    assert folder.exists() == (mode == "disk")
    assert len(heard.messages) == (mode == "streamed")
    assert all("decoded anew at each use" in message for message in heard.messages)


@pytest.mark.parametrize("mode", MODES)
def test_any_places_are_those_of_an_array(mode, found, fresh, monkeypatch):
    pixels, _ = in_mode(mode, monkeypatch, found)
    count = len(fresh)
    bound = st.none() | st.integers(-count - 3, count + 3)
    slices = st.builds(slice, bound, bound, st.none() | st.integers(1, 9) | st.integers(-9, -1))
    lists = st.lists(st.integers(-count, count - 1), max_size=30).map(lambda p: np.array(p, np.int64))

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, count - 1), min_size=1, max_size=60), slices | lists)
    def check(rows, places):
        view, plain = pixels.rows(np.array(rows)), fresh[rows]
        assert (len(view), view.shape) == (len(plain), plain.shape)
        if not isinstance(places, slice):
            places = places % len(rows) - len(rows) * (places < 0)
        assert np.array_equal(view[places], plain[places])
        assert view[places].dtype == np.uint8
        with pytest.raises(IndexError):
            view[np.array([len(rows)])]

    check()


def test_arrays_need_no_file(small_pictures, folder):
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in small_pictures])
    pixels, resize = opened(audit(from_arrays(images, np.arange(20) % 2, "small")))
    expected = np.stack([Counted()(image) for image in images])
    assert np.array_equal(pixels[:], expected)
    assert np.array_equal(pixels[::-1], expected[::-1])
    assert resize.calls == 20
    assert not folder.exists()


def test_threads_may_read_at_once(found, fresh):
    pixels, _ = opened(found)
    wrong = []

    def read(seed):
        random = np.random.default_rng(seed)
        for _ in range(30):
            places = random.integers(0, len(fresh), 8)
            if not np.array_equal(pixels[places], fresh[places]):
                wrong.append(places)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong


# Damage: row 4's checksum stands at byte 16, and its pixels 4 pictures after the first page.
DAMAGE = {"checksum": 16, "pixels": 4096 + 4 * SIZE * SIZE * 3 + 100}


@pytest.mark.parametrize("where", DAMAGE)
def test_a_flipped_byte_is_noticed_and_mended(where, found, fresh, folder):
    opened(found)[0][:]
    content = bytearray(entry(folder).read_bytes())
    content[DAMAGE[where]] ^= 0x40
    entry(folder).write_bytes(content)
    heard = RecordingProgress()
    pixels, resize = opened(found, heard)
    assert np.array_equal(pixels[:], fresh)
    assert resize.calls == 1
    assert "did not match their checksum" in heard.messages[0]
    again, none = opened(found)
    assert np.array_equal(again[:], fresh)
    assert none.calls == 0


def test_a_crash_between_pixels_and_checksum_costs_one_more_decode(found, fresh, folder):
    opened(found)[0][:]
    content = bytearray(entry(folder).read_bytes())
    content[16:20] = bytes(4)
    entry(folder).write_bytes(content)
    pixels, resize = opened(found)
    assert np.array_equal(pixels[:], fresh)
    assert resize.calls == 1


@pytest.mark.parametrize("size", [0, 1, 4096, 50_000])
def test_a_file_cut_short_is_filled_again(size, found, fresh, folder):
    opened(found)[0][:]
    released()
    os.truncate(entry(folder), size)
    assert np.array_equal(opened(found)[0][:], fresh)


HERE = f"{Path(__file__).parent}:{Path(__file__).parents[1] / 'support'}"
CHILD = """
import sys, time
sys.path[:0] = sys.argv[1].split(":")
import numpy as np
import test_pixel_cache
from tellapart.data.audit import audit
from tellapart.data.folder import load_folder
found = audit(load_folder(test_pixel_cache.Path(sys.argv[2])))
pixels, resize = test_pixel_cache.opened(found)
random = np.random.default_rng(int(sys.argv[3]))
print("ready", flush=True)
for place in random.permutation(len(pixels)):
    pixels[np.array([place])]
    if sys.argv[4] == "slow":
        print(place, flush=True)
        time.sleep(0.01)
np.save(sys.argv[4], pixels[:]) if sys.argv[4] != "slow" else time.sleep(60)
"""


def child(tree, seed, how):
    command = [
        sys.executable,
        "-c",
        CHILD,
        HERE,
        str(tree),
        str(seed),
        str(how),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_and_fill_at_once(tree, found, fresh, tmp_path, folder):
    saved = [tmp_path / f"{seed}.npy" for seed in range(2)]
    children = [child(tree, seed, path) for seed, path in enumerate(saved)]
    for process, path in zip(children, saved, strict=True):
        process.communicate(timeout=120)
        assert process.returncode == 0
        assert np.array_equal(np.load(path), fresh)
    pixels, resize = opened(found)
    assert np.array_equal(pixels[:], fresh)
    assert resize.calls == 0
    assert entry(folder).is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_while_filling_leaves_a_cache_that_can_be_used(tree, found, fresh):
    process = child(tree, 0, "slow")
    for _ in range(12):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pixels, resize = opened(found)
    assert np.array_equal(pixels[:], fresh)
    assert 0 < resize.calls <= len(fresh) - 11  # what the killed run had finished is used


def test_a_picture_changed_after_the_audit_is_an_error_in_every_mode(photos, faces, make_tree, monkeypatch):
    root = make_tree({"photo": photos[:3], "face": faces[:3]})
    found = audit(load_folder(root))
    name = found.samples.pictures.path(0)
    name.write_bytes(faces[50].read_bytes())
    os.utime(name, (1, 1))  # as a copy that keeps its times
    for mode in MODES:
        pixels, _ = in_mode(mode, monkeypatch, found)
        assert len(pixels[1:]) == 5
        with pytest.raises(UnreadableImage, match="it was changed while this run read it"):
            pixels[:]
    name.unlink()
    with pytest.raises(UnreadableImage, match="there is no such file"):
        pixels[:1]


def test_pictures_older_than_the_audit_are_not_hashed_again(found, fresh, monkeypatch):
    def never(picture):
        raise AssertionError

    monkeypatch.setattr(pixel_cache, "pixel_digest", never)
    later = replace(found, began=time.time() + 60)
    assert np.array_equal(opened(later)[0][:], fresh)


def keys(folder):
    return sorted(path.stem for path in folder.glob("*.pixels"))


def filled(folder, key, size, limit, used=None):
    """Make an entry and let go of it; its last use was at second `used`."""
    made = map_file(folder, key, size, limit) is not None
    released()
    if made and used is not None:
        os.utime(folder / f"{key}.pixels", (used, used))
    return made


def test_the_least_recently_used_goes_first(folder):
    for used, key in enumerate("abc"):
        filled(folder, key, 1000, 3000, used)
    filled(folder, "a", 1000, 3000)  # used again, so `b` is now the oldest
    assert filled(folder, "d", 1000, 3000)
    assert keys(folder) == ["a", "c", "d"]
    assert filled(folder, "e", 2500, 3000)
    assert keys(folder) == ["e"]


def test_nothing_goes_for_what_does_not_fit_anyway(folder):
    filled(folder, "a", 1000, 3000)
    assert map_file(folder, "b", 3001, 3000) is None
    assert keys(folder) == ["a"]


def test_a_lower_limit_is_kept_to(folder):
    for used, key in enumerate("abc"):
        filled(folder, key, 1000, 3000, used)
    assert map_file(folder, "d", 5000, 1500) is None
    assert keys(folder) == ["c"]
    assert map_file(folder, "c", 1000, 900) is None
    assert keys(folder) == []


def test_what_a_process_uses_stays(folder):
    mine = map_file(folder, "a", 1000, 3000)
    os.utime(folder / "a.pixels", (0, 0))
    filled(folder, "b", 1000, 3000, 1)
    assert filled(folder, "c", 2000, 3000)
    assert keys(folder) == ["a", "c"]
    assert map_file(folder, "d", 2500, 3000) is None
    assert keys(folder) == ["a", "c"]
    mine[:] = 7
    assert map_file(folder, "a", 1000, 3000).sum() == 7000
    del mine
    assert filled(folder, "d", 2500, 3000)
    assert keys(folder) == ["d"]


def test_what_another_process_uses_stays_until_it_is_killed(tree, found, folder, monkeypatch):
    process = child(tree, 0, "slow")
    process.stdout.readline()
    size = entry(folder).stat().st_size
    os.utime(entry(folder), (0, 0))
    assert map_file(folder, "x", size, size + 100) is None
    assert len(keys(folder)) == 1
    process.kill()
    process.communicate()
    assert map_file(folder, "x", size, size + 100) is not None
    assert keys(folder) == ["x"]


def test_half_of_the_free_disk_is_left(folder, monkeypatch):
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4000})())
    assert filled(folder, "a", 2000, 10**9)
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2000})())
    assert map_file(folder, "b", 2001, 10**9) is None
    assert filled(folder, "b", 2000, 10**9)
    assert keys(folder) == ["b"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("5GB", 5 * 10**9),
        ("1.5 kb", 1500),
        ("2MiB", 2 << 20),
        ("1t", 10**12),
        ("", 20 * 10**9),
    ],
)
def test_limits(text, size, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", text)
    assert size_limit() == size


@pytest.mark.parametrize("text", ["-1", "much", "5 GBit", "1e9", "GB"])
def test_limits_that_are_none(text, found, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", text)
    with pytest.raises(BadSetting, match="TELLAPART_CACHE_LIMIT must be"):
        opened(found)


def test_a_set_above_the_limit_is_kept_in_memory(found, fresh, folder, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", "10kB")
    heard = RecordingProgress()
    pixels, resize = opened(found, heard)
    for _ in range(2):
        assert np.array_equal(pixels[:], fresh)
    assert resize.calls == len(fresh)
    assert ["kept in memory" in message for message in heard.messages] == [True]
    assert keys(folder) == []


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_full_disk_is_said_and_worked_around(in_memory, found, fresh, folder, monkeypatch):
    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    if not in_memory:
        monkeypatch.setattr(pixel_cache, "_IN_MEMORY", 1000)
    heard = RecordingProgress()
    pixels, _ = opened(found, heard)
    assert np.array_equal(pixels[:], fresh)
    (said,) = heard.messages
    assert "no space left on device" in said
    assert ("kept in memory" if in_memory else "decoded anew at each use") in said
    assert keys(folder) == []


def test_systems_without_fallocate_write_zeros(found, fresh, folder, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(disk_cache, "_BLOCK", 1000)
    assert np.array_equal(opened(found)[0][:], fresh)
    assert entry(folder).stat().st_size == 4096 + fresh.nbytes


@pytest.mark.parametrize("fault", ["file", "read-only"])
def test_a_folder_that_cannot_be_written_is_said_and_worked_around(fault, found, fresh, folder, monkeypatch):
    folder.parent.mkdir()
    if fault == "file":
        folder.write_text("not a folder")
    else:

        def refuse(path):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "touch", refuse)  # tests may run as root, who may write everywhere
    heard = RecordingProgress()
    assert np.array_equal(opened(found, heard)[0][:], fresh)
    (said,) = heard.messages
    assert "cannot be used" in said
    assert "kept in memory" in said


def test_files_of_others_in_the_folder_stay(folder):
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    filled(folder, "a", 1000, 1000)
    filled(folder, "b", 1000, 1000)
    assert (folder / "notes.txt").read_text() == "mine"
    assert keys(folder) == ["b"]
