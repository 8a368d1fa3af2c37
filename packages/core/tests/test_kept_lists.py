"""Kept lists: what is listed once comes back equal, and never when the data, the question or the file have changed."""

from __future__ import annotations

import os
import pickle
import tarfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from notes import NOTES

from jepa_core.data import kept_lists
from jepa_core.data.find import find_media
from jepa_core.data.media import Columns
from jepa_core.data.records import MOST_CLASSES, Record, RecordList, RecordPacker, Records, unnamed_classes
from jepa_core.data.splits import held_back
from jepa_core.data.texts import Column, Texts


@pytest.fixture(autouse=True)
def small_and_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_lists, "KEPT_FROM", 3)
    monkeypatch.setattr(kept_lists, "_recent", {})
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))


def aged(root: Path) -> Path:
    """What lies there was written long ago, by its times."""
    long_ago = time.time() - 3600
    for path in [root, *root.rglob("*")]:
        os.utime(path, (long_ago, long_ago))
    return root


def folder(root: Path) -> Path:
    for name in ("train/a/1.note", "train/b/2.note", "test/a/3.note", "test/b/é4.note"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "labels.csv").write_text(
        "file,label,speaker\ntrain/a/1.note,x,anna\ntrain/b/2.note,,bert\ntest/a/3.note,y,\ntest/b/é4.note,x,anna\n"
    )
    return aged(root)


def shards(root: Path, ending: str = ".tar") -> Path:
    root.mkdir(exist_ok=True)
    for number, split in enumerate(("train", "test")):
        with tarfile.open(root / f"{split}-0000{ending}", "w:gz" if ending == ".tar.gz" else "w") as archive:
            for key in range(3):
                content = {".note": b"note" * key, ".json": b'{"mood": "m%d", "speaker": "s"}' % (key % 2)}
                content |= {".cls": b"%d" % key} if key else {}
                for extension, data in content.items():
                    info = tarfile.TarInfo(f"k{number}{key}{extension}")
                    info.size = len(data)
                    archive.addfile(info, BytesIO(data))
    return aged(root)


def facts(found: RecordList[object]) -> tuple[object, ...]:
    records = [(r.sample_id, r.split, r.label, r.group, dict(r.fields), r.read()) for r in found.records]
    return records, found.classes, found.kind


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.npz"))


COLUMNS = Columns(group=("speaker",))


def search(root: Path, columns: Columns = COLUMNS) -> RecordList[object]:
    """As a new process finds it."""
    kept_lists._recent.clear()
    return find_media(root, NOTES, columns)


@pytest.mark.parametrize("make", [folder, shards])
def test_a_kept_list_is_the_same_and_is_not_made_again(
    make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "data")  # type: ignore[operator]
    first = facts(search(root))
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(kept_lists, "_find", lambda *_: pytest.fail("listed again"))
    kept = search(root)
    assert facts(kept) == first
    assert find_media(root, NOTES, COLUMNS) is kept  # a run asks several times
    monkeypatch.chdir(tmp_path)  # the root under another name
    assert [r.sample_id for r in search(Path("data")).records] == [r.sample_id for r in kept.records]
    monkeypatch.chdir("/")  # what was found by that name is not given for the whole one
    assert facts(find_media(root, NOTES, COLUMNS)) == first


def test_other_columns_are_another_list(tmp_path: Path) -> None:
    root = shards(tmp_path / "data")
    assert search(root).classes == ("0", "1", "2")
    assert search(root, Columns.of("mood")).classes == ("m0", "m1")
    assert len(files(tmp_path)) == 2


def test_changed_data_are_listed_again(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    search(root)
    (root / "train" / "b" / "5.note").write_text("new")
    (root / "labels.csv").write_text((root / "labels.csv").read_text() + "train/b/5.note,z,\n")
    assert len(search(root).records) == 5 and search(root).classes == ("x", "y", "z")
    other = shards(tmp_path / "shards")
    search(other)
    (other / "train-0000.tar").write_bytes((other / "test-0000.tar").read_bytes())
    assert [r.sample_id for r in search(other).records][-1] == "train-0000/k12"
    (other / "classes.txt").write_text("no\nyes\nperhaps\n")
    assert search(other).classes == ("no", "yes", "perhaps")


def test_what_has_just_changed_is_not_kept(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    (root / "test" / "a" / "6.note").write_text("now")
    assert len(search(root).records) == 5
    assert not files(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    root = folder(tmp_path / "data")
    first = facts(search(root))
    (file,) = files(tmp_path)
    if damage is None:  # an archive of other arrays
        with np.load(file) as found:
            np.savez(file, **{name: values[:1] for name, values in found.items()})
    else:
        file.write_bytes(damage)
    assert facts(search(root)) == first and file.stat().st_size > 500
    kept_lists._recent.clear()


def test_nothing_is_kept_of_compressed_shards_small_roots_and_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = shards(tmp_path / "packed", ".tar.gz")
    assert [r.read() for r in search(packed).records][-1] == b"notenote" and not files(tmp_path)
    monkeypatch.setattr(kept_lists, "KEPT_FROM", 100)
    search(folder(tmp_path / "data"))
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(kept_lists, "KEPT_FROM", 3)
    monkeypatch.setenv("JEPA_CACHE", "")
    search(tmp_path / "data")
    monkeypatch.setenv("JEPA_CACHE", "/proc/nothing")  # cannot be written
    assert len(search(tmp_path / "data").records) == 4
    assert not (tmp_path / "cache").exists()


def test_processes_that_start_together_list_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "data")
    monkeypatch.setenv("WORLD_SIZE", "2")
    first = facts(search(root))
    assert facts(search(root)) == first and len(files(tmp_path)) == 1


# ------------------------------------------------------------------------------------------------------------ columns


def test_texts_come_back_as_they_were() -> None:
    names = ["", "a", "ünïcode/日本", "\udcff latin", "", "z" * 1000]
    packed = Texts.of(names)
    assert list(packed) == names and packed[-1] == names[-1] and packed[1:3] == names[1:3]
    assert list(pickle.loads(pickle.dumps(packed))) == names
    with pytest.raises(IndexError):
        packed[6]
    with pytest.raises(ValueError, match="ends that rise"):
        Texts(np.zeros(3, np.uint8), np.array([2, 1, 3]))
    with pytest.raises(ValueError, match="codes from -1 to 0"):
        Column(np.array([1], np.int32), Texts.of(["a"]))


def test_records_by_column_are_those_that_were_given() -> None:
    given = [
        Record(f"r{n}", bytes, ("", "train", "test")[n % 3], n if n % 2 else None, f"g{n // 4}" if n > 3 else "", said)
        for n, said in enumerate([{}, {"a": "1"}, {"b": ""}, {"a": "1", "b": "2"}, {}, {"a": "3"}])
    ]
    records = Records.of(given)
    assert list(records) == given and Records.of(records) is records
    assert list(records[1::2]) == given[1::2] and list(records.where(records.in_split("test"))) == given[2::3]
    assert list(records[1::2].sample_ids()) == ["r1", "r3", "r5"] and records[1::2].sample_id(2) == "r5"
    assert records.labels.tolist() == [-1, 1, -1, 3, -1, 5]
    assert [records.field("a").at(row) for row in range(6)] == [None, "1", None, "1", None, "3"]
    assert records.field("none").used() == [] and records[:3].field("a").used() == ["1"]
    joined = Records.joined([records[:2], Records.of(given[2:])])
    assert list(joined) == given and joined[5].read is bytes


def test_numbers_that_are_no_classes_and_too_many_fields_are_refused() -> None:
    packer = RecordPacker()
    with pytest.raises(ValueError, match="expected a class number from 0, got -2"):
        packer.add("a", label=-2)
    with pytest.raises(ValueError, match="at most 256 different fields"):
        packer.add("a", fields={f"f{n}": "" for n in range(300)})
    with pytest.raises(ValueError, match="class numbers below 1000000"):
        unnamed_classes(np.array([MOST_CLASSES], np.int32), "here")


def test_groups_are_held_back_whole() -> None:
    records = Records.of(Record(f"{n}", bytes, group=f"g{n // 5}" if n % 7 else "") for n in range(500))
    held = held_back(records, 5)
    assert 40 < held.sum() < 160
    by_group: dict[str, set[bool]] = {}
    for record, is_held in zip(records, held.tolist(), strict=True):
        by_group.setdefault(record.group or record.sample_id, set()).add(is_held)
    assert all(len(found) == 1 for found in by_group.values())
