"""Named sets fetched from a real server on this machine; archives that try to write elsewhere."""

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from array_files import DIGITS, GREY, idx, write_cifar
from download_server import running_server
from recording import RecordingProgress
from tellapart.data import builtin
from tellapart.data.builtin import NamedSet
from tellapart.data.sources import load_source
from tellapart.errors import DownloadFailed, UnsafeArchive
from tellapart.io.atomic import cache_folder
from tellapart.io.download import RemoteFile, extract, fetch
from tellapart.progress import Progress

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture
def server():
    with running_server() as running:
        yield running


def test_a_file_is_announced_fetched_once_and_then_taken_from_the_cache(server, tmp_path):
    remote, progress = server.remote("a.bin", CONTENT), RecordingProgress()
    assert fetch(remote, tmp_path / "new" / "folder", progress).read_bytes() == CONTENT
    assert len(progress.messages) == 1
    assert remote.url in progress.messages[0]
    assert "1.0 MB" in progress.messages[0]
    assert fetch(remote, tmp_path / "new" / "folder", progress).name == "a.bin"
    assert (server.ranges, len(progress.messages)) == ([None], 1)
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("ignores", [False, True])
def test_a_cut_connection_is_resumed(server, tmp_path, ignores):
    remote, server.cuts, server.ignores_ranges = server.remote("a.bin", CONTENT), [300_000, 400_000], ignores
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=400000-" if ignores else "bytes=700000-"]


def test_what_an_earlier_run_left_is_completed(server, tmp_path):
    remote = server.remote("a.bin", CONTENT)
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match=r"broke off 4 times, at 100,000 of 1,000,000 bytes"):
        fetch(remote, tmp_path, Progress())
    assert not (tmp_path / "a.bin").exists()
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


def test_a_complete_part_left_by_a_killed_run_is_used(server, tmp_path):
    remote = server.remote("a.bin", CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    remote, server.statuses = server.remote("a.bin", CONTENT), [503, 500]
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_other_content_is_refused_and_deleted(server, tmp_path, served):
    remote = server.remote("a.bin", CONTENT)
    server.files["a.bin"] = served
    with pytest.raises(DownloadFailed, match="does not match its published checksum"):
        fetch(remote, tmp_path, Progress())
    assert list(tmp_path.iterdir()) == []
    server.files["a.bin"] = CONTENT
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT


def test_a_missing_file_is_told_at_once(server, tmp_path):
    remote = server.remote("a.bin", CONTENT)
    server.files.clear()
    with pytest.raises(DownloadFailed, match=r"Cannot download http.*Not Found.*or put the file at .*a\.bin yourself"):
        fetch(remote, tmp_path, Progress())
    assert len(server.ranges) == 1


def test_no_server_and_no_https_are_told(tmp_path):
    with pytest.raises(DownloadFailed, match="Connection refused"):
        fetch(RemoteFile("http://127.0.0.1:9/a.bin", "0" * 64, 5), tmp_path, Progress())
    for address in ("http://example.org/a.bin", "ftp://example.org/a.bin", "file:///etc/passwd"):
        with pytest.raises(DownloadFailed, match="not an https address"):
            fetch(RemoteFile(address, "0" * 64, 5), tmp_path, Progress())


def tar_gz(*members, mode="w:gz"):
    """Return a tar archive of (name, content or changes to the TarInfo)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped(*members):
    """Return a zip archive of (name, content) or (name, content, Unix mode)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, *mode in members:
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return file.getvalue()


def tree_of(root):
    return [(p.relative_to(root).as_posix(), p.read_bytes()) for p in sorted(root.rglob("*")) if p.is_file()]


@pytest.fixture
def sets(server, tmp_path, monkeypatch, make_tree, small_pictures):
    """Small sets of the same formats under the real names, served on this machine; returns their number of rows."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    ten = np.stack([np.full((32, 32, 3), 30 * i, np.uint8) for i in range(6)])
    tops = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
    for name, top in tops.items():
        write_cifar(tmp_path / "made" / name / top, ten, name == "cifar100")
    pets = {f"made/cats-vs-dogs/PetImages/{c}": small_pictures[3 * i :][:3] for i, c in enumerate(("Cat", "Dog"))}
    nette = {
        f"made/imagenette/imagenette2-160/{p}/{c}": small_pictures[4 * i + 2 * j :][:2]
        for i, p in enumerate(("train", "val"))
        for j, c in enumerate(("n01440764", "n02102040"))
    }
    make_tree({**pets, **nette}, tmp_path)
    (tmp_path / "made/cats-vs-dogs/PetImages/Cat/Thumbs.db").write_bytes(b"junk")
    (tmp_path / "made/cats-vs-dogs/readme[1].txt").write_bytes(b"text")
    mnist = [
        (f"{part}-{kind}-ubyte.gz", gzip.compress(idx(array[rows])))
        for part, rows in (("train", slice(0, 4)), ("t10k", slice(4, 6)))
        for kind, array in (("images-idx3", GREY), ("labels-idx1", DIGITS))
    ]
    files = {"mnist": mnist, "fashion-mnist": mnist}
    for name in ("cifar10", "cifar100", "cats-vs-dogs", "imagenette"):
        pack = zipped if name == "cats-vs-dogs" else tar_gz
        files[name] = [(builtin.NAMED_SETS[name].files[0].name, pack(*tree_of(tmp_path / "made" / name)))]
    for name, members in files.items():
        real = builtin.NAMED_SETS[name]
        assert [remote.name for remote in real.files] == [member for member, _ in members]
        monkeypatch.setitem(
            builtin.NAMED_SETS, name, NamedSet(tuple(server.remote(*member) for member in members), real.load)
        )
    return {"mnist": 6, "fashion-mnist": 6, "cifar10": 6, "cifar100": 6, "cats-vs-dogs": 6, "imagenette": 8}


def test_named_sets_are_fetched_once_and_read(sets, server, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    assert set(sets) == set(builtin.NAMED_SETS)
    found = {name: load_source(name) for name in sets}
    assert {name: len(samples) for name, samples in found.items()} == sets
    assert {name: samples.title for name, samples in found.items()} == {name: name for name in sets}
    assert {name: samples.classes for name, samples in found.items()} == {
        "mnist": ("2", "7"),
        "fashion-mnist": ("Pullover", "Sneaker"),
        "cifar10": ("airplane", "bird"),
        "cifar100": ("apple", "baby"),
        "cats-vs-dogs": ("Cat", "Dog"),
        "imagenette": ("English springer", "tench"),
    }
    assert {name for name, samples in found.items() if samples.has_preset} == set(sets) - {"cats-vs-dogs"}
    assert found["imagenette"].label_name(0) == "tench"
    requests = len(server.ranges)
    again = {name: load_source(name) for name in sets}
    assert len(server.ranges) == requests
    for name, samples in again.items():
        assert samples.labels.tolist() == found[name].labels.tolist()
        for row in range(len(samples)):
            assert samples.pictures.picture(row).ndim == 3


def test_addresses_and_checksums_of_the_named_sets_are_well_formed():
    for name, known in builtin.NAMED_SETS.items():
        assert all(f.url.startswith("https://") and len(bytes.fromhex(f.sha256)) == 32 for f in known.files), name


LINK, HARD, DEVICE, PIPE = (
    {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    {"type": tarfile.LNKTYPE, "linkname": "../outside"},
    {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
    {"type": tarfile.FIFOTYPE},
)
EVIL = {
    "tar, parent": tar_gz(("ok", b"1"), ("../outside", b"x")),
    "tar, parent inside": tar_gz(("ok", b"1"), ("a/../../outside", b"x")),
    "tar, backslash": tar_gz(("ok", b"1"), ("..\\outside", b"x")),
    "tar, absolute": tar_gz(("ok", b"1"), ("/tmp/outside", b"x")),
    "tar, drive": tar_gz(("ok", b"1"), ("C:\\outside", b"x")),
    "tar, drive without slash": tar_gz(("ok", b"1"), ("C:outside", b"x")),
    "tar, share": tar_gz(("ok", b"1"), ("\\\\host\\share\\outside", b"x")),
    "tar, symbolic link": tar_gz(("ok", b"1"), ("link", LINK)),
    "tar, link to a folder and through it": tar_gz(("l", {**LINK, "linkname": ".."}), ("l/outside", b"x")),
    "tar, hard link": tar_gz(("ok", b"1"), ("outside", HARD)),
    "tar, hard link to a member": tar_gz(("ok", b"1"), ("outside", {**HARD, "linkname": "ok"})),
    "tar, device": tar_gz(("ok", b"1"), ("null", DEVICE)),
    "tar, pipe": tar_gz(("ok", b"1"), ("pipe", PIPE)),
    "tar, same name twice": tar_gz(("ok", b"1"), ("a/x", b"1"), ("a//./x", b"2")),
    "tar, plain, parent": tar_gz(("../outside", b"x"), mode="w:"),
    "zip, parent": zipped(("ok", b"1"), ("../outside", b"x")),
    "zip, absolute": zipped(("/tmp/outside", b"x")),
    "zip, backslash": zipped(("a\\..\\..\\outside", b"x")),
    "zip, drive": zipped(("D:/outside", b"x")),
    "zip, symbolic link": zipped(("ok", b"1"), ("link", b"/etc/passwd", stat.S_IFLNK | 0o777)),
    "zip, same name twice": zipped(("a", b"1"), ("./a", b"2")),
}


@pytest.mark.parametrize("evil", EVIL)
def test_archives_that_reach_outside_are_refused_and_leave_nothing(tmp_path, evil):
    archive = tmp_path / "in" / "evil.archive"
    archive.parent.mkdir()
    archive.write_bytes(EVIL[evil])
    outside = Path("/tmp/outside")
    assert not outside.exists()
    with pytest.raises(UnsafeArchive, match="not extracted"):
        extract(archive, tmp_path / "in" / "deep" / "extracted")
    assert not outside.exists()
    assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == [archive]
    assert not (tmp_path / "in" / "deep" / "extracted").exists()


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.zip", zipped), ("a.tgz", tar_gz), ("a.tar.xz", lambda *m: tar_gz(*m, mode="w:xz"))],
)
def test_plain_archives_are_extracted_whole(tmp_path, name, pack):
    members = [("top/a/1.txt", b"one"), ("./top/b c/ü.bin", CONTENT[:5000])]
    (tmp_path / name).write_bytes(pack(*members))
    folder = extract(tmp_path / name, tmp_path / "out")
    assert tree_of(folder) == [("top/a/1.txt", b"one"), ("top/b c/ü.bin", CONTENT[:5000])]
    (tmp_path / name).unlink()
    assert extract(tmp_path / name, tmp_path / "out") == folder


PACKS = {"zip": zipped, "gz": tar_gz, "xz": lambda *members: tar_gz(*members, mode="w:xz")}
NOISE, TEXT = CONTENT[:20_000], b"".join(b"%d " % (i * i) for i in range(20_000))  # stored as it is; well compressed


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("content", [NOISE, TEXT], ids=["noise", "text"])
@pytest.mark.parametrize("damage", ["cut", "changed", "no archive"])
def test_damaged_archives_leave_nothing(tmp_path, pack, content, damage):
    packed = bytearray(PACKS[pack](("a", content[:9000]), ("b", content[9000:])))
    middle = len(packed) // 2
    if damage == "changed":
        packed[middle : middle + 10] = b"0123456789"
    path = tmp_path / "a.archive"
    path.write_bytes({"cut": packed[:middle], "changed": packed, "no archive": b"<html>" * 99}[damage])
    with pytest.raises(DownloadFailed, match=r"^a.archive is damaged .*delete .* and try again\.$"):
        extract(path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tellapart.io.download._MAX_EXTRACTED", 10_000)
    (tmp_path / "a.zip").write_bytes(zipped(("a", bytes(6000)), ("b", bytes(6000))))
    with pytest.raises(UnsafeArchive, match="unpacks to more than 10,000 bytes"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
