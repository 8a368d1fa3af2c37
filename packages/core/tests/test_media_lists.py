"""Finding media: label tables under their usual names, folders beside them, fields of every layout, odd input."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from notes import NOTES

from jepa_core.data.find import find_media
from jepa_core.data.media import Columns
from jepa_core.data.records import RecordList


def notes(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def facts(found: RecordList[object]) -> list[tuple[str, str, int | None, str]]:
    return [(record.sample_id, record.split, record.label, record.group) for record in found.records]


@pytest.mark.parametrize("table", ["labels.csv", "metadata.csv", "meta.csv"])
@pytest.mark.parametrize("column", ["file", "filename", "file_name", "path"])
def test_a_table_may_bear_any_usual_name(tmp_path: Path, table: str, column: str) -> None:
    notes(tmp_path, "a.note", "sub/b.note")
    (tmp_path / table).write_text(f"{column},label,group,fold\na.note,x,anna,1\nsub/b.note,y,bert,2\n")
    found = find_media(tmp_path, NOTES, Columns())
    assert facts(found) == [("a.note", "", 0, "anna"), ("sub/b.note", "", 1, "bert")]
    assert found.kind == f"notes with {table}" and found.values_of("fold") == ("1", "2")
    assert found.records[0].fields == {"label": "x", "group": "anna", "fold": "1"}
    assert found.records[0].read() == tmp_path / "a.note"
    with pytest.raises(ValueError, match="data.fold: expected one of the fields .*fold, group, label.*got 'age'"):
        found.values_of("age", "data.fold")


def test_the_files_of_a_table_may_lie_in_one_folder_right_below_it(tmp_path: Path) -> None:
    notes(tmp_path, "audio/a.note", "audio/b.note", "more/c.note")
    (tmp_path / "meta.csv").write_text("filename,category\na.note,x\nb.note,y\n")
    found = find_media(tmp_path, NOTES, Columns(("label", "category")))
    assert facts(found) == [("audio/a.note", "", 0, ""), ("audio/b.note", "", 1, ""), ("more/c.note", "", None, "")]
    (tmp_path / "meta.csv").write_text("filename,category\na.note,x\nc.note,y\n")
    with pytest.raises(ValueError, match=r"none for 'audio/c.note' and 0 others; filename is a path relative"):
        find_media(tmp_path, NOTES, Columns(("label", "category")))


def test_other_tables_of_these_names_are_no_label_tables(tmp_path: Path) -> None:
    notes(tmp_path, "x/a.note", "y/b.note")
    (tmp_path / "metadata.csv").write_text("licence,author\nfree,anna\n")
    assert find_media(tmp_path, NOTES, Columns()).kind == "class folders"
    # A table that says other things of the files leaves the classes to the folders.
    (tmp_path / "metadata.csv").write_text("file_name,text\nx/a.note,hello\n")
    found = find_media(tmp_path, NOTES, Columns())
    assert found.classes == ("x", "y") and found.values_of("text") == ("hello", None)
    with pytest.raises(ValueError, match="columns file and mood, got file_name, text"):
        find_media(tmp_path, NOTES, Columns.of("mood"))
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(ValueError, match="data.label: expected a table"):
        find_media(tmp_path, NOTES, Columns.of("mood"))
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe\n")
    with pytest.raises(ValueError, match="comma-separated UTF-8"):
        find_media(tmp_path, NOTES, Columns())


def test_a_single_file_and_hidden_files(tmp_path: Path) -> None:
    notes(tmp_path, "a.note", "._a.note", "b.txt")
    assert facts(find_media(tmp_path / "a.note", NOTES, Columns())) == [("a.note", "", None, "")]
    assert len(find_media(tmp_path, NOTES, Columns()).records) == 1
    assert not find_media(tmp_path / "b.txt", NOTES, Columns()).records


def test_fields_beside_the_members_of_a_shard(tmp_path: Path) -> None:
    said = json.dumps({"mood": "sad", "speaker": "anna", "takes": [1], "take": 3}).encode()
    with tarfile.open(tmp_path / "test-0000.tar", "w") as archive:
        for name, content in (("a.note", b"one"), ("a.json", said), ("b.note", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    columns = Columns(("mood",), ("group", "speaker"), label_is_named=True)
    found = find_media(tmp_path, NOTES, columns)
    assert facts(found) == [("test-0000/a", "test", 0, "anna"), ("test-0000/b", "test", None, "")]
    assert found.classes == ("sad",) and found.values_of("take") == ("3", None)
    assert [record.read() for record in found.records] == [b"one", b"two"]


def test_fields_of_parquet_rows(tmp_path: Path) -> None:
    rows = {"note": [b"1", b"2", b"3"], "mood": [0, 1, -1], "speaker": ["anna", None, "bert"], "fold": [1, 2, 2]}
    features = {"mood": {"_type": "ClassLabel", "names": ["sad", "glad"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(rows).replace_schema_metadata(metadata), tmp_path / "train.parquet", row_group_size=2)
    found = find_media(tmp_path, NOTES, Columns(group=("speaker",), others=("fold",)))
    assert [record.label for record in found.records] == [0, 1, None]
    assert [record.group for record in found.records] == ["anna", "", "bert"]
    assert found.values_of("fold", "data.fold") == ("1", "2", "2")
    assert [record.read() for record in found.records] == [b"1", b"2", b"3"]
    named = find_media(tmp_path, NOTES, Columns.of("mood"))
    assert named.values_of("mood") == ("sad", "glad", None)
    with pytest.raises(ValueError, match="expected the column data.label=age"):
        find_media(tmp_path, NOTES, Columns.of("age"))
