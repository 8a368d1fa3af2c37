"""Saved Hugging Face data sets of somebody who means ill: what lies outside the folder stays unread, one line each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jepa_core.contracts import BadSample
from jepa_vision.image_data import Images
from jepa_vision.image_files import find_images

datasets = pytest.importorskip("datasets")


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 10, 10)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two rows in one split, and beside the folder a file that nobody gave leave to read."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["hat", "shoe"])})
    rows = {"image": [{"bytes": picture(), "path": None}] * 2, "label": [0, 1]}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "saved")
    (tmp_path / "private.png").write_bytes(picture())
    return tmp_path / "saved"


def change(path: Path, edit: Callable[[Any], None]) -> None:
    held = json.loads(path.read_text())
    edit(held)
    path.write_text(json.dumps(held))


def refuse(root: Path, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        find_images(root)
    assert "\n" not in str(caught.value)


def test_a_split_or_a_file_that_lies_elsewhere(saved: Path) -> None:
    elsewhere = str(saved.parent / "private.png")
    for name in ("../../private.png", elsewhere, "", "..", 7, None, ["x"]):
        change(saved / "train" / "state.json", lambda held, name=name: held["_data_files"][0].update(filename=name))
        refuse(saved, "leads out of the folder")
    for name in ("../saved/train", str(saved / "train"), "s3://bucket/train", "."):
        change(saved / "dataset_dict.json", lambda held, name=name: held.update(splits=[name]))
        refuse(saved, "leads out of the folder")


def test_an_arrow_file_that_is_a_link(saved: Path) -> None:
    (arrow,) = (saved / "train").glob("*.arrow")
    arrow.rename(saved.parent / "other.arrow")
    arrow.symlink_to(saved.parent / "other.arrow")
    refuse(saved, "leads out of the folder")


def test_a_row_that_names_a_file_of_this_machine(saved: Path) -> None:
    import pyarrow as pa

    path = str(saved.parent / "private.png")
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": path}]}, features=features)
    (arrow,) = (saved / "train").glob("*.arrow")
    with arrow.open("wb") as file, pa.ipc.new_stream(file, rows.data.schema) as writer:
        writer.write_table(rows.data.table)
    change(saved / "train" / "dataset_info.json", lambda held: held["features"].pop("label"))
    with pytest.raises(BadSample, match="expected bytes in the row, got the name of a file"):
        Images(find_images(saved).records, (8, 8)).load(0, 0)


def test_offsets_beyond_the_file_end_no_process(saved: Path) -> None:
    import pyarrow as pa

    offsets = pa.py_buffer(memoryview(b"".join(n.to_bytes(4, "little") for n in (0, 2**30, 5))))
    broken = pa.Array.from_buffers(pa.binary(), 2, [None, offsets, pa.py_buffer(b"short")])
    batch = pa.record_batch({"image": broken, "label": pa.array([0, 1])})
    (arrow,) = (saved / "train").glob("*.arrow")
    with arrow.open("wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    refuse(saved, "out of bounds|invariant|offset")


def test_rows_without_content_are_not_believed(saved: Path) -> None:
    import pyarrow as pa

    batch = pa.record_batch({"image": pa.nulls(10**9)})
    (arrow,) = (saved / "train").glob("*.arrow")
    with arrow.open("wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    refuse(saved, "1000000000 rows in")


def test_class_names_that_are_none(saved: Path) -> None:
    names = lambda held: held["features"]["label"].update(names=["hat", {}])  # noqa: E731
    change(saved / "train" / "dataset_info.json", names)
    refuse(saved, "class names that are strings")
