"""CSV files as spreadsheets, editors and other tools write them."""

import pytest

from encoding import encode
from tellapart.data.sources import load_dataset
from tellapart.errors import ManifestError

ROWS = [("path", "label"), ("a.png", "café"), ("b.png", "Größe"), ("c.png", "café"), ("d.png", "Größe")]


@pytest.fixture
def folder(tmp_path, photo):
    for path, _ in ROWS[1:]:
        (tmp_path / path).write_bytes(encode(photo, "PNG"))
    return tmp_path


def text(delimiter=",", end="\n", rows=ROWS):
    return "".join(delimiter.join(row) + end for row in rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_delimiters(folder, encoding, delimiter, end):
    content = text(delimiter, end)
    if encoding.endswith("-bom"):
        encoding = encoding.removesuffix("-bom")
        content = "\ufeff" + content
    (folder / "m.csv").write_bytes(content.encode(encoding))
    assert load_dataset(folder / "m.csv").classes == ("Größe", "café")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_first_line_may_name_the_delimiter(folder, delimiter):
    (folder / "m.csv").write_text(f"sep={delimiter}\n" + text(delimiter))
    assert len(load_dataset(folder / "m.csv")) == 4
    (folder / "m.csv").write_text(f"sep={delimiter}\n" + text(delimiter, rows=[*ROWS, ("e.png", "café")]))
    with pytest.raises(ManifestError) as error:
        load_dataset(folder / "m.csv")
    assert "Row 7 " in str(error.value)


def test_empty_rows_do_not_count(folder):
    (folder / "m.csv").write_text(text() + ",\n , \n\n,\n")
    assert len(load_dataset(folder / "m.csv")) == 4


def test_rows_are_numbered_as_editors_count_lines(folder):
    content = 'path,label,remark\na.png,x,"two\nlines"\n\nb.png,y,"three\n\nlines"\nnone.png,x,\n'
    (folder / "m.csv").write_text(content)
    line = content.splitlines().index("none.png,x,") + 1
    with pytest.raises(ManifestError) as error:
        load_dataset(folder / "m.csv")
    assert f"Row {line} " in str(error.value)


@pytest.mark.parametrize("header", ["path,label,label", "path,label,path", "path,label,Label "])
def test_a_column_twice_is_refused(folder, header):
    (folder / "m.csv").write_text(f"{header}\na.png,x,y\nb.png,y,x\n")
    with pytest.raises(ManifestError) as error:
        load_dataset(folder / "m.csv")
    assert "twice" in str(error.value)


def test_columns_without_a_name_may_repeat(folder):
    (folder / "m.csv").write_text("path,label,,\na.png,x,,\nb.png,y,,\n")
    assert len(load_dataset(folder / "m.csv")) == 2


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        ("file_name,label", "'file_name' to 'path'"),
        ("filename,class", "'filename' to 'path'"),
        ("path,class", "'class' to 'label'"),
    ],
)
def test_columns_of_other_tools_are_recognized(folder, header, advice):
    (folder / "m.csv").write_text(f"{header}\na.png,x\nb.png,y\n")
    with pytest.raises(ManifestError) as error:
        load_dataset(folder / "m.csv")
    assert advice in str(error.value)


def test_a_damaged_name_in_utf_8_does_not_change_the_others(folder):
    content = text().encode().replace("Größe".encode(), b"Gr\xf6\xdfe", 1)
    (folder / "m.csv").write_bytes(content)
    assert {"Größe", "café"} <= set(load_dataset(folder / "m.csv").classes)


def test_all_missing_files_are_listed(folder):
    (folder / "m.csv").write_text("path,label\na.png,x\nb.png,y\n" + "".join(f"gone{k}.png,x\n" for k in range(30)))
    with pytest.raises(ManifestError) as error:
        load_dataset(folder / "m.csv")
    assert all(f"gone{k}.png" in str(error.value) for k in range(30))
