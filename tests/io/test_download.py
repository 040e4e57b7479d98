"""Built-in datasets downloaded from a local server, and archives that try to write outside their folder."""

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
from tellapart.data.builtin import BuiltinDataset
from tellapart.data.sources import load_dataset
from tellapart.errors import DownloadError, UnsafeArchiveError
from tellapart.io.atomic import cache_folder
from tellapart.io.download import RemoteFile, extract, fetch
from tellapart.progress import Event, Progress

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture
def server():
    with running_server() as running:
        yield running


def test_reports_a_download_and_uses_the_cache_afterwards(server, tmp_path):
    remote, progress = server.remote("a.bin", CONTENT), RecordingProgress()
    assert fetch(remote, tmp_path / "new" / "folder", progress).read_bytes() == CONTENT
    assert progress.values(Event.DOWNLOAD_START) == [{"url": remote.url, "bytes": len(CONTENT)}]
    assert fetch(remote, tmp_path / "new" / "folder", progress).name == "a.bin"
    assert (server.ranges, progress.events) == ([None], [Event.DOWNLOAD_START])
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_resumes_after_a_closed_connection(server, tmp_path, ignores_ranges):
    remote, server.cuts, server.ignores_ranges = server.remote("a.bin", CONTENT), [300_000, 400_000], ignores_ranges
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=400000-" if ignores_ranges else "bytes=700000-"]


def test_resumes_the_download_of_an_earlier_run(server, tmp_path):
    remote = server.remote("a.bin", CONTENT)
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError) as error:
        fetch(remote, tmp_path, Progress())
    assert "100,000" in str(error.value)
    assert len(server.ranges) == 4
    assert not (tmp_path / "a.bin").exists()
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


def test_uses_a_complete_partial_file_of_a_killed_run(server, tmp_path):
    remote = server.remote("a.bin", CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT


def test_retries_after_a_server_error(server, tmp_path):
    remote, server.statuses = server.remote("a.bin", CONTENT), [503, 500]
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_refuses_and_deletes_other_content(server, tmp_path, served):
    remote = server.remote("a.bin", CONTENT)
    server.files["a.bin"] = served
    with pytest.raises(DownloadError):
        fetch(remote, tmp_path, Progress())
    assert list(tmp_path.iterdir()) == []
    server.files["a.bin"] = CONTENT
    assert fetch(remote, tmp_path, Progress()).read_bytes() == CONTENT


def test_does_not_retry_if_the_file_is_missing(server, tmp_path):
    remote = server.remote("a.bin", CONTENT)
    server.files.clear()
    with pytest.raises(DownloadError) as error:
        fetch(remote, tmp_path, Progress())
    assert error.value.__cause__.code == 404
    assert remote.url in str(error.value)
    assert str(tmp_path / "a.bin") in str(error.value)
    assert len(server.ranges) == 1


def test_a_server_that_cannot_be_reached_is_an_error(tmp_path):
    with pytest.raises(DownloadError) as error:
        fetch(RemoteFile("http://127.0.0.1:9/a.bin", "0" * 64, 5), tmp_path, Progress())
    assert isinstance(error.value.__cause__.reason, ConnectionRefusedError)


@pytest.mark.parametrize("url", ["http://example.org/a.bin", "ftp://example.org/a.bin", "file:///etc/passwd"])
def test_refuses_urls_that_are_not_https(tmp_path, url):
    with pytest.raises(DownloadError) as error:
        fetch(RemoteFile(url, "0" * 64, 5), tmp_path, Progress())
    assert error.value.__cause__ is None  # refused before any connection
    assert url in str(error.value)
    assert list(tmp_path.iterdir()) == []


def tar_gz(*members, mode="w:gz"):
    """Return a tar archive of (name, content or attributes of the TarInfo)."""
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
def datasets(server, tmp_path, monkeypatch, make_tree, small_images):
    """Serve small datasets in the formats and under the names of the built-in ones; return their numbers of rows."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    ten = np.stack([np.full((32, 32, 3), 30 * i, np.uint8) for i in range(6)])
    tops = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
    for name, top in tops.items():
        write_cifar(tmp_path / "made" / name / top, ten, name == "cifar100")
    pets = {
        f"made/cats-vs-dogs/PetImages/{name}": small_images[3 * index :][:3]
        for index, name in enumerate(("Cat", "Dog"))
    }
    nette = {
        f"made/imagenette/imagenette2-160/{split}/{name}": small_images[4 * number + 2 * index :][:2]
        for number, split in enumerate(("train", "val"))
        for index, name in enumerate(("n01440764", "n02102040"))
    }
    make_tree({**pets, **nette}, tmp_path)
    (tmp_path / "made/cats-vs-dogs/PetImages/Cat/Thumbs.db").write_bytes(b"junk")
    (tmp_path / "made/cats-vs-dogs/readme[1].txt").write_bytes(b"text")
    mnist = [
        (f"{split}-{kind}-ubyte.gz", gzip.compress(idx(array[rows])))
        for split, rows in (("train", slice(0, 4)), ("t10k", slice(4, 6)))
        for kind, array in (("images-idx3", GREY), ("labels-idx1", DIGITS))
    ]
    files = {"mnist": mnist, "fashion-mnist": mnist}
    for name in ("cifar10", "cifar100", "cats-vs-dogs", "imagenette"):
        pack = zipped if name == "cats-vs-dogs" else tar_gz
        files[name] = [(builtin.BUILTIN_DATASETS[name].files[0].name, pack(*tree_of(tmp_path / "made" / name)))]
    for name, members in files.items():
        real = builtin.BUILTIN_DATASETS[name]
        assert [remote.name for remote in real.files] == [member for member, _ in members]
        monkeypatch.setitem(
            builtin.BUILTIN_DATASETS,
            name,
            BuiltinDataset(tuple(server.remote(*member) for member in members), real.load),
        )
    return {"mnist": 6, "fashion-mnist": 6, "cifar10": 6, "cifar100": 6, "cats-vs-dogs": 6, "imagenette": 8}


def test_built_in_datasets_are_downloaded_once_and_read(datasets, server, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    assert set(datasets) == set(builtin.BUILTIN_DATASETS)
    loaded = {name: load_dataset(name) for name in datasets}
    assert {name: len(dataset) for name, dataset in loaded.items()} == datasets
    assert {name: dataset.title for name, dataset in loaded.items()} == {name: name for name in datasets}
    assert {name: dataset.classes for name, dataset in loaded.items()} == {
        "mnist": ("2", "7"),
        "fashion-mnist": ("Pullover", "Sneaker"),
        "cifar10": ("airplane", "bird"),
        "cifar100": ("apple", "baby"),
        "cats-vs-dogs": ("Cat", "Dog"),
        "imagenette": ("English springer", "tench"),
    }
    has_split = {name for name, dataset in loaded.items() if dataset.has_given_split}
    assert has_split == set(datasets) - {"cats-vs-dogs"}
    assert loaded["imagenette"].label_name(0) == "tench"
    requests = len(server.ranges)
    cached = {name: load_dataset(name) for name in datasets}
    assert len(server.ranges) == requests
    for name, dataset in cached.items():
        assert dataset.labels.tolist() == loaded[name].labels.tolist()
        for row in range(len(dataset)):
            assert dataset.images.read(row).ndim == 3


def test_urls_and_checksums_of_the_built_in_datasets_are_well_formed():
    for name, dataset in builtin.BUILTIN_DATASETS.items():
        assert all(
            file.url.startswith("https://") and len(bytes.fromhex(file.sha256)) == 32 for file in dataset.files
        ), name


LINK, HARD, DEVICE, PIPE = (
    {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    {"type": tarfile.LNKTYPE, "linkname": "../outside"},
    {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
    {"type": tarfile.FIFOTYPE},
)
UNSAFE = {
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


@pytest.mark.parametrize("unsafe", UNSAFE)
def test_refuses_archives_with_members_outside_and_leaves_nothing(tmp_path, unsafe):
    archive = tmp_path / "in" / "unsafe.archive"
    archive.parent.mkdir()
    archive.write_bytes(UNSAFE[unsafe])
    outside = Path("/tmp/outside")
    assert not outside.exists()
    with pytest.raises(UnsafeArchiveError):
        extract(archive, tmp_path / "in" / "deep" / "extracted")
    assert not outside.exists()
    assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == [archive]
    assert not (tmp_path / "in" / "deep" / "extracted").exists()


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.zip", zipped), ("a.tgz", tar_gz), ("a.tar.xz", lambda *m: tar_gz(*m, mode="w:xz"))],
)
def test_extracts_archives(tmp_path, name, pack):
    members = [("top/a/1.txt", b"one"), ("./top/b c/ü.bin", CONTENT[:5000])]
    (tmp_path / name).write_bytes(pack(*members))
    folder = extract(tmp_path / name, tmp_path / "out")
    assert tree_of(folder) == [("top/a/1.txt", b"one"), ("top/b c/ü.bin", CONTENT[:5000])]
    (tmp_path / name).unlink()
    assert extract(tmp_path / name, tmp_path / "out") == folder


PACKS = {"zip": zipped, "gz": tar_gz, "xz": lambda *members: tar_gz(*members, mode="w:xz")}
NOISE, TEXT = CONTENT[:20_000], b"".join(b"%d " % (i * i) for i in range(20_000))  # incompressible; well compressed


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
    with pytest.raises(DownloadError):
        extract(path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_a_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("tellapart.io.download._MAX_EXTRACTED", 10_000)
    (tmp_path / "a.zip").write_bytes(zipped(("a", bytes(6000)), ("b", bytes(6000))))
    with pytest.raises(UnsafeArchiveError):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
