"""Images in tables: Parquet files of the Hub's layout and ``datasets`` objects give the bytes, labels and splits."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_vision_images import encoded, facts, picture

from jepa_core.contracts import BadSample
from jepa_core.data import tables
from jepa_vision.augment import Augment
from jepa_vision.image_data import Images, decode, split_images
from jepa_vision.image_files import find_images, images_from_dataset

FILES = [encoded(picture(seed=seed)) for seed in range(7)]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["hat", "shoe"], "_type": "ClassLabel"}}


def table(
    contents: Sequence[bytes | None],
    labels: list[Any] | None,
    features: dict[str, Any] | None = None,
    image: str = "image",
) -> pa.Table:
    columns: dict[str, pa.Array] = {image: pa.array([{"bytes": content, "path": "a.png"} for content in contents])}
    if labels is not None:
        columns["label"] = pa.array(labels)
    metadata = None if features is None else {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns).replace_schema_metadata(metadata)


def test_the_layout_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(
        table(FILES[:5], [0, 1, 0, 1, 1], FEATURES), folder / "train-00000-of-00001.parquet", row_group_size=2
    )
    pq.write_table(table(FILES[5:], [1, -1], FEATURES), folder / "test-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("---")
    found = find_images(tmp_path)
    assert (found.classes, found.kind) == (("hat", "shoe"), "Parquet tables")
    assert [record.read() for record in found.records] == [*FILES[5:], *FILES[:5]]
    assert [(r.split, r.label) for r in found.records[:2]] == [("test", 1), ("test", None)]
    assert facts(found)[2] == ("data/train-00000-of-00001/00000000", "train", 0)
    assert [r.label for r in found.records[2:]] == [0, 1, 0, 1, 1]
    assert len({r.sample_id for r in found.records}) == 7
    alone = find_images(folder / "train-00000-of-00001.parquet")
    assert facts(alone)[0] == ("train-00000-of-00001/00000000", "train", 0)


def test_rows_are_read_in_any_order_with_few_groups_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table(FILES, None), tmp_path / "train.parquet", row_group_size=2)
    records = find_images(tmp_path).records
    groups = records[0].read.groups  # type: ignore[attr-defined]  # a row of a Parquet file
    monkeypatch.setattr(tables, "HELD_BYTES", 2 * max(map(len, FILES)))
    for place in (6, 0, 3, 0, 5, 2, 6, 1, 4):
        assert records[place].read() == FILES[place]
        assert 1 <= len(groups._held) <= 2
    monkeypatch.setattr(tables, "HELD_BYTES", 1)
    assert records[3].read() == FILES[3] and list(groups._held) == [(tmp_path / "train.parquet", 1)]
    # A loader process of its own gets the places, no pictures.
    sent = pickle.dumps(records)
    assert FILES[3] not in sent and pickle.loads(sent)[3].read() == FILES[3]


def test_labels_as_words_numbers_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    for labels, classes, numbers in (
        (["b", "a", None], ("a", "b"), [1, 0, None]),
        ([7, 10**12, 7], ("7", str(10**12)), [0, 1, 0]),
        (None, (), [None] * 3),
    ):
        pq.write_table(table(FILES[:3], labels), path)
        found = find_images(path)
        assert found.classes == classes and [record.label for record in found.records] == numbers
    pq.write_table(pa.table({"img": FILES[:2], "kind": [1, 0], "note": ["x", "y"]}), path)
    with pytest.raises(ValueError, match="expected a column image, got img, kind, note"):
        find_images(path)
    features = {"img": FEATURES["image"], "kind": FEATURES["label"]}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table({"img": FILES[:2], "kind": [1, 0]}).replace_schema_metadata(metadata), path)
    found = find_images(path)
    assert [record.label for record in found.records] == [1, 0] and found.records[1].read() == FILES[1]


def test_odd_tables_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.parquet"
    wrong: list[tuple[pa.Table, str]] = [
        (pa.table({"image": [[1.0], [2.0]]}), "struct with bytes or as binary, got list"),
        (table(FILES[:2], [0.5, 1.5]), "whole numbers or strings, got float"),
        (table(FILES[:2], [0, 2], FEATURES), "labels from 0 to 1"),
    ]
    for content, says in wrong:
        pq.write_table(content, path)
        with pytest.raises(ValueError, match=says) as caught:
            find_images(tmp_path)
        assert "\n" not in str(caught.value)
    pq.write_table(table(FILES, None), path)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="whole Parquet file"):
            find_images(path)
    path.write_bytes(whole)
    monkeypatch.setattr(tables, "LARGEST_GROUP_BYTES", 100)
    with pytest.raises(ValueError, match="row_group_size"):
        find_images(path)


def test_a_bad_row_is_a_bad_sample(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(table([FILES[0], None, b"no picture"], None), path)
    found = find_images(path)
    with pytest.raises(BadSample, match="row 1: no bytes of an image"):
        found.records[1].read()
    with pytest.raises(BadSample, match="no image"):
        decode(found.records[2].read(), "x")
    # Damage behind the footer shows only when the pictures are read.
    noise = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    pq.write_table(table([noise], None), path, compression="gzip", use_dictionary=False)
    found, content = find_images(path), bytearray(path.read_bytes())
    content[100:4000] = bytes(3900)
    path.write_bytes(content)
    with pytest.raises(BadSample, match="cannot be read"):
        found.records[0].read()


# ----------------------------------------------------------------------------------------------------------- datasets


def saved(folder: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["hat", "shoe"])})
    rows = {"image": [{"bytes": content, "path": None} for content in FILES], "label": [0, 1, 0, 1, 1, 0, -1]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    both = datasets.DatasetDict({"train": dataset.select(range(5)), "test": dataset.select(range(5, 7))})
    both.save_to_disk(folder / "both")
    both["train"].save_to_disk(folder / "one")
    return dataset


def test_datasets_in_memory_and_saved_ones(tmp_path: Path) -> None:
    dataset = saved(tmp_path)
    numbers = [0, 1, 0, 1, 1, 0, None]
    found = images_from_dataset(dataset, split="train")
    assert found.classes == ("hat", "shoe") and facts(found)[3] == ("train/00000003", "train", 1)
    assert [record.read() for record in found.records] == FILES and [r.label for r in found.records] == numbers
    # A format that was set for another purpose changes nothing.
    other = images_from_dataset(
        dataset.with_format("numpy").rename_columns({"image": "img", "label": "y"}), "", "img", "y"
    )
    assert [record.read() for record in other.records] == FILES and other.classes == found.classes
    both = find_images(tmp_path / "both")
    assert [record.read() for record in both.records] == FILES
    assert [record.split for record in both.records] == ["train"] * 5 + ["test"] * 2
    assert [r.label for r in both.records] == numbers and both.classes == ("hat", "shoe")
    assert [record.read() for record in find_images(tmp_path / "one").records] == FILES[:5]
    assert pickle.loads(pickle.dumps(both.records))[6].read() == FILES[6]
    with pytest.raises(ValueError, match="set image_column"):
        images_from_dataset(dataset, image_column="photo")
    with pytest.raises(ValueError, match="set label_column"):
        images_from_dataset(dataset, label_column="kind")


def test_a_broken_saved_dataset_and_a_missing_package_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path)
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="save it again"):
        find_images(tmp_path / "one")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        find_images(tmp_path / "both")


class Rows(list[dict[str, Any]]):
    """The least that counts as a dataset."""

    features = {"image": None, "label": None}


def test_anything_with_rows_and_features_is_a_dataset() -> None:
    pictures: list[Any] = [picture(seed=1), np.asarray(picture(seed=2)), encoded(picture(seed=3)), 3.0]
    rows = Rows({"image": image, "label": name} for image, name in zip(pictures, "abba", strict=True))
    found = images_from_dataset(rows)
    assert found.classes == ("a", "b") and [record.label for record in found.records] == [0, 1, 1, 0]
    for seed, record in zip((1, 2, 3), found.records, strict=False):
        assert np.array_equal(np.asarray(decode(record.read(), "x")), np.asarray(picture(seed=seed)))
    with pytest.raises(BadSample, match="expected an image, got float"):
        found.records[3].read()
    views = Images(found.records[:3], (8, 8), Augment())
    assert np.array_equal(views.load(0, 5), views.load(0, 5)) and views.load(0, 5).shape == (8, 8, 3)


def test_a_picture_of_somebody_else_stays_as_it_is() -> None:
    lying = picture(20, 12)
    exif = lying.getexif()
    exif[0x0112] = 6
    assert decode(lying, "x").size == (12, 20) and lying.size == (20, 12)


def test_a_test_split_without_labels_is_no_test_split(tmp_path: Path) -> None:
    pq.write_table(table(FILES[:5], [0, 1, 0, 1, 1], FEATURES), tmp_path / "train.parquet")
    pq.write_table(table(FILES[5:], [-1, -1], FEATURES), tmp_path / "test.parquet")
    splits = split_images(find_images(tmp_path), 2)
    assert len(splits.train) + len(splits.test) == 5 and all(record.label is not None for record in splits.test)
