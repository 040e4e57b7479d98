"""Cached pixels are always those of a new decode, whatever happens to the process, the disk or the images."""

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
from tellapart.data.audit import audit_dataset
from tellapart.data.folder import load_folder
from tellapart.data.pixel_cache import open_pixels
from tellapart.errors import OptionError, UnreadableImageError
from tellapart.io import disk_cache
from tellapart.io.disk_cache import map_file, size_limit
from tellapart.progress import Event, Progress

SIZE = 24


class CountingResize:
    """A resize that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture(scope="module")
def tree(photos, faces, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for name, files in {"photo": photos, "face": faces[:30]}.items():
        (root / name).mkdir()
        for number, file in enumerate(files):
            (root / name / f"{number:03}{file.suffix}").write_bytes(file.read_bytes())
    return root


@pytest.fixture(scope="module")
def audit(tree):
    return audit_dataset(load_folder(tree))


@pytest.fixture(scope="module")
def fresh(audit):
    """Each row decoded and resized on its own, as all cached pixels must be."""
    return np.stack([CountingResize()(audit.dataset.images.read(row)) for row in range(len(audit.dataset))])


def open_counting(audit, progress=None, key="bilinear"):
    """Return the pixels of an audit, and the resize that counts how many were decoded."""
    resize = CountingResize()
    return open_pixels(audit, resize, key, SIZE, progress or Progress()), resize


def entry(folder):
    (path,) = folder.glob("*.pixels")
    return path


def release_locks():
    """Collect unreachable maps, and with them their locks."""
    gc.collect()


def test_decodes_rows_once_at_first_use_and_reuses_them_in_the_next_run(audit, fresh):
    progress = RecordingProgress()
    pixels, resize = open_counting(audit, progress)
    assert pixels.shape == fresh.shape
    assert len(pixels) == len(fresh)
    assert resize.calls == 0
    assert np.array_equal(pixels[3:7], fresh[3:7])
    assert resize.calls == 4
    assert np.array_equal(pixels[np.array([5, 5, 9, 3])], fresh[[5, 5, 9, 3]])
    assert resize.calls == 5
    assert np.array_equal(pixels[:], fresh)
    again, none = open_counting(audit, progress)
    assert np.array_equal(again[:], fresh)
    assert none.calls == 0
    assert progress.events == []


def test_returns_copies(audit, fresh):
    pixels, _ = open_counting(audit)
    first = pixels[:4]
    assert first.flags.c_contiguous
    first[:] = 0
    assert np.array_equal(pixels[:4], fresh[:4])


def test_views_share_decoded_rows(audit, fresh):
    pixels, resize = open_counting(audit)
    rows = np.array([7, 2, 11])
    view = pixels.rows(rows)
    assert view.shape == (3, SIZE, SIZE, 3)
    assert np.array_equal(view[:], fresh[rows])
    assert np.array_equal(view.rows(np.array([2, 0]))[:], fresh[[11, 7]])
    assert np.array_equal(pixels[rows], fresh[rows])
    assert resize.calls == 3


def test_other_settings_and_other_images_have_their_own_entries(audit, folder):
    open_counting(audit)[0][:2]
    open_counting(audit, key="bicubic")[0][:2]
    assert len(list(folder.glob("*.pixels"))) == 2
    digests = audit.digests.copy()
    digests[0] ^= 1
    open_counting(replace(audit, digests=digests))
    assert len(list(folder.glob("*.pixels"))) == 3


MODES = ["disk", "memory", "streamed"]


def in_mode(mode, monkeypatch, audit, progress=None):
    if mode != "disk":
        monkeypatch.setenv("TELLAPART_CACHE_LIMIT", "0")
    if mode == "streamed":
        monkeypatch.setattr(pixel_cache, "_MAX_MEMORY", 1000)
    return open_counting(audit, progress)


@pytest.mark.parametrize("mode", MODES)
def test_all_modes_give_the_same_bits(mode, audit, fresh, folder, monkeypatch):
    progress = RecordingProgress()
    pixels, resize = in_mode(mode, monkeypatch, audit, progress)
    for _ in range(2):
        assert np.array_equal(pixels[:], fresh)
    assert resize.calls == len(fresh) * (2 if mode == "streamed" else 1)
    assert folder.exists() == (mode == "disk")
    unavailable = progress.values(Event.CACHE_UNAVAILABLE)
    assert unavailable == ([{"images": len(fresh), "in_memory": False}] if mode == "streamed" else [])


@pytest.mark.parametrize("mode", MODES)
def test_any_indices_give_the_rows_of_an_array(mode, audit, fresh, monkeypatch):
    pixels, _ = in_mode(mode, monkeypatch, audit)
    count = len(fresh)
    bound = st.none() | st.integers(-count - 3, count + 3)
    slices = st.builds(slice, bound, bound, st.none() | st.integers(1, 9) | st.integers(-9, -1))
    lists = st.lists(st.integers(-count, count - 1), max_size=30).map(lambda p: np.array(p, np.int64))

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, count - 1), min_size=1, max_size=60), slices | lists)
    def check(rows, indices):
        view, plain = pixels.rows(np.array(rows)), fresh[rows]
        assert (len(view), view.shape) == (len(plain), plain.shape)
        if not isinstance(indices, slice):
            indices = indices % len(rows) - len(rows) * (indices < 0)
        assert np.array_equal(view[indices], plain[indices])
        assert view[indices].dtype == np.uint8
        with pytest.raises(IndexError):
            view[np.array([len(rows)])]

    check()


def test_arrays_are_not_cached_on_disk(small_images, folder):
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in small_images])
    pixels, resize = open_counting(audit_dataset(from_arrays(images, np.arange(20) % 2, "small")))
    expected = np.stack([CountingResize()(image) for image in images])
    assert np.array_equal(pixels[:], expected)
    assert np.array_equal(pixels[::-1], expected[::-1])
    assert resize.calls == 20
    assert not folder.exists()


def test_threads_read_concurrently(audit, fresh):
    pixels, _ = open_counting(audit)
    wrong = []

    def read(seed):
        random = np.random.default_rng(seed)
        for _ in range(30):
            indices = random.integers(0, len(fresh), 8)
            if not np.array_equal(pixels[indices], fresh[indices]):
                wrong.append(indices)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong


# The checksum of row 4 is at byte 16, and its pixels are 4 images after the first page.
DAMAGE = {"checksum": 16, "pixels": 4096 + 4 * SIZE * SIZE * 3 + 100}


@pytest.mark.parametrize("location", DAMAGE)
def test_detects_and_repairs_a_flipped_byte(location, audit, fresh, folder):
    open_counting(audit)[0][:]
    content = bytearray(entry(folder).read_bytes())
    content[DAMAGE[location]] ^= 0x40
    entry(folder).write_bytes(content)
    progress = RecordingProgress()
    pixels, resize = open_counting(audit, progress)
    assert np.array_equal(pixels[:], fresh)
    assert resize.calls == 1
    assert progress.events == [Event.CACHE_DAMAGED]
    assert progress.values(Event.CACHE_DAMAGED) == [{"name": audit.dataset.images.name(4)}]
    again, none = open_counting(audit)
    assert np.array_equal(again[:], fresh)
    assert none.calls == 0


def test_decodes_a_row_again_after_a_crash_between_pixels_and_checksum(audit, fresh, folder):
    open_counting(audit)[0][:]
    content = bytearray(entry(folder).read_bytes())
    content[16:20] = bytes(4)
    entry(folder).write_bytes(content)
    pixels, resize = open_counting(audit)
    assert np.array_equal(pixels[:], fresh)
    assert resize.calls == 1


@pytest.mark.parametrize("size", [0, 1, 4096, 50_000])
def test_fills_a_truncated_file_again(size, audit, fresh, folder):
    open_counting(audit)[0][:]
    release_locks()
    os.truncate(entry(folder), size)
    assert np.array_equal(open_counting(audit)[0][:], fresh)


IMPORTS = f"{Path(__file__).parent}:{Path(__file__).parents[1] / 'support'}"
CHILD = """
import sys, time
sys.path[:0] = sys.argv[1].split(":")
import numpy as np
import test_pixel_cache
from tellapart.data.audit import audit_dataset
from tellapart.data.folder import load_folder
audit = audit_dataset(load_folder(test_pixel_cache.Path(sys.argv[2])))
pixels, resize = test_pixel_cache.open_counting(audit)
random = np.random.default_rng(int(sys.argv[3]))
print("ready", flush=True)
for row in random.permutation(len(pixels)):
    pixels[np.array([row])]
    if sys.argv[4] == "slow":
        print(row, flush=True)
        time.sleep(0.01)
np.save(sys.argv[4], pixels[:]) if sys.argv[4] != "slow" else time.sleep(60)
"""


def start_child(tree, seed, target):
    """Start a process that reads all pixels in random order and saves them to `target`; "slow": until it is killed."""
    command = [sys.executable, "-c", CHILD, IMPORTS, str(tree), str(seed), str(target)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_and_fill_the_cache_concurrently(tree, audit, fresh, tmp_path, folder):
    saved = [tmp_path / f"{seed}.npy" for seed in range(2)]
    children = [start_child(tree, seed, path) for seed, path in enumerate(saved)]
    for process, path in zip(children, saved, strict=True):
        process.communicate(timeout=120)
        assert process.returncode == 0
        assert np.array_equal(np.load(path), fresh)
    pixels, resize = open_counting(audit)
    assert np.array_equal(pixels[:], fresh)
    assert resize.calls == 0
    assert entry(folder).is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_while_filling_leaves_a_usable_cache(tree, audit, fresh):
    process = start_child(tree, 0, "slow")
    for _ in range(12):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pixels, resize = open_counting(audit)
    assert np.array_equal(pixels[:], fresh)
    assert 0 < resize.calls <= len(fresh) - 11  # rows that the killed run finished are used


def test_an_image_that_changes_after_the_audit_is_an_error_in_every_mode(photos, faces, make_tree, monkeypatch):
    root = make_tree({"photo": photos[:3], "face": faces[:3]})
    audit = audit_dataset(load_folder(root))
    path = audit.dataset.images.path(0)
    path.write_bytes(faces[50].read_bytes())
    os.utime(path, (1, 1))  # as a copy that keeps its times
    for mode in MODES:
        pixels, _ = in_mode(mode, monkeypatch, audit)
        assert len(pixels[1:]) == 5
        with pytest.raises(UnreadableImageError) as error:
            pixels[:]
        assert error.value.name == audit.dataset.images.name(0)
    path.unlink()
    with pytest.raises(UnreadableImageError) as error:
        pixels[:1]
    assert isinstance(error.value.__cause__, FileNotFoundError)


def test_does_not_hash_images_older_than_the_audit(audit, fresh, monkeypatch):
    def never(image):
        raise AssertionError

    monkeypatch.setattr(pixel_cache, "pixel_digest", never)
    later = replace(audit, started_at=time.time() + 60)
    assert np.array_equal(open_counting(later)[0][:], fresh)


def keys(folder):
    return sorted(path.stem for path in folder.glob("*.pixels"))


def add_entry(folder, key, size, limit, used=None):
    """Create an entry and release it, last used at second `used`; return whether there was room for it."""
    fits = map_file(folder, key, size, limit) is not None
    release_locks()
    if fits and used is not None:
        os.utime(folder / f"{key}.pixels", (used, used))
    return fits


def test_removes_the_least_recently_used_entry_first(folder):
    for used, key in enumerate("abc"):
        add_entry(folder, key, 1000, 3000, used)
    add_entry(folder, "a", 1000, 3000)  # used again, so `b` is now the oldest
    assert add_entry(folder, "d", 1000, 3000)
    assert keys(folder) == ["a", "c", "d"]
    assert add_entry(folder, "e", 2500, 3000)
    assert keys(folder) == ["e"]


def test_removes_nothing_for_an_entry_that_does_not_fit(folder):
    add_entry(folder, "a", 1000, 3000)
    assert map_file(folder, "b", 3001, 3000) is None
    assert keys(folder) == ["a"]


def test_enforces_a_lower_limit(folder):
    for used, key in enumerate("abc"):
        add_entry(folder, key, 1000, 3000, used)
    assert map_file(folder, "d", 5000, 1500) is None
    assert keys(folder) == ["c"]
    assert map_file(folder, "c", 1000, 900) is None
    assert keys(folder) == []


def test_keeps_entries_in_use(folder):
    mine = map_file(folder, "a", 1000, 3000)
    os.utime(folder / "a.pixels", (0, 0))
    add_entry(folder, "b", 1000, 3000, 1)
    assert add_entry(folder, "c", 2000, 3000)
    assert keys(folder) == ["a", "c"]
    assert map_file(folder, "d", 2500, 3000) is None
    assert keys(folder) == ["a", "c"]
    mine[:] = 7
    assert map_file(folder, "a", 1000, 3000).sum() == 7000
    del mine
    assert add_entry(folder, "d", 2500, 3000)
    assert keys(folder) == ["d"]


def test_keeps_entries_that_another_process_uses_until_it_is_killed(tree, audit, folder, monkeypatch):
    process = start_child(tree, 0, "slow")
    process.stdout.readline()
    size = entry(folder).stat().st_size
    os.utime(entry(folder), (0, 0))
    assert map_file(folder, "x", size, size + 100) is None
    assert len(keys(folder)) == 1
    process.kill()
    process.communicate()
    assert map_file(folder, "x", size, size + 100) is not None
    assert keys(folder) == ["x"]


def test_leaves_half_of_the_free_disk_space(folder, monkeypatch):
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4000})())
    assert add_entry(folder, "a", 2000, 10**9)
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2000})())
    assert map_file(folder, "b", 2001, 10**9) is None
    assert add_entry(folder, "b", 2000, 10**9)
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
def test_parses_limits(text, size, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", text)
    assert size_limit() == size


@pytest.mark.parametrize("text", ["-1", "much", "5 GBit", "1e9", "GB"])
def test_refuses_invalid_limits(text, audit, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", text)
    with pytest.raises(OptionError) as error:
        open_counting(audit)
    assert "TELLAPART_CACHE_LIMIT" in str(error.value)


def test_caches_a_dataset_above_the_limit_in_memory(audit, fresh, folder, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", "10kB")
    progress = RecordingProgress()
    pixels, resize = open_counting(audit, progress)
    for _ in range(2):
        assert np.array_equal(pixels[:], fresh)
    assert resize.calls == len(fresh)
    assert progress.values(Event.CACHE_UNAVAILABLE) == [{"images": len(fresh), "in_memory": True}]
    assert keys(folder) == []


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_full_disk_is_a_warning(in_memory, audit, fresh, folder, monkeypatch):
    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    if not in_memory:
        monkeypatch.setattr(pixel_cache, "_MAX_MEMORY", 1000)
    progress = RecordingProgress()
    pixels, _ = open_counting(audit, progress)
    assert np.array_equal(pixels[:], fresh)
    assert progress.values(Event.CACHE_UNAVAILABLE) == [{"images": len(fresh), "in_memory": in_memory}]
    assert keys(folder) == []


def test_writes_zeros_on_systems_without_fallocate(audit, fresh, folder, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(disk_cache, "_BLOCK", 1000)
    assert np.array_equal(open_counting(audit)[0][:], fresh)
    assert entry(folder).stat().st_size == 4096 + fresh.nbytes


@pytest.mark.parametrize("fault", ["file", "read-only"])
def test_an_unwritable_folder_is_a_warning(fault, audit, fresh, folder, monkeypatch):
    folder.parent.mkdir()
    if fault == "file":
        folder.write_text("not a folder")
    else:

        def refuse(path):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "touch", refuse)  # root, who may run the tests, can write everywhere
    progress = RecordingProgress()
    assert np.array_equal(open_counting(audit, progress)[0][:], fresh)
    assert progress.values(Event.CACHE_UNAVAILABLE) == [{"images": len(fresh), "in_memory": True}]


def test_keeps_other_files_in_the_folder(folder):
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    add_entry(folder, "a", 1000, 1000)
    add_entry(folder, "b", 1000, 1000)
    assert (folder / "notes.txt").read_text() == "mine"
    assert keys(folder) == ["b"]
