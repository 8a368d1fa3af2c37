"""Sounds as data: every layout is found, crops come from the seed alone, splits tear no recording apart."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sound_cases import encoded, noise, record

from jepa_audio.data_settings import AudioDataSettings, check_data
from jepa_audio.sound_data import Crop, Sounds, Views, Whole
from jepa_audio.sound_files import SoundList, SoundRecord, find_sounds, sounds_from_dataset
from jepa_audio.sources import choose_root, folds_of, plain_source, sounds_of, split_sounds, training_source
from jepa_core.contracts import BadSample
from jepa_core.data.records import Records

RATE = 16_000
FILES = [encoded(noise(RATE, seed=seed), RATE, "flac") for seed in range(4)]


def write(path: Path, content: bytes = FILES[0]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def facts(found: SoundList) -> list[tuple[str, str, int | None, str]]:
    return [(r.sample_id, r.split, r.label, r.group) for r in found.records]


def shard(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


# ------------------------------------------------------------------------------------------------------------- layouts


def test_the_layout_of_esc(tmp_path: Path) -> None:
    write(tmp_path / "audio/1-a-A-0.flac")
    write(tmp_path / "audio/2-b-A-1.flac")
    (tmp_path / "meta.csv").write_text(
        "filename,fold,category,src_file,mood\n1-a-A-0.flac,1,dog,a,sad\n2-b-A-1.flac,2,rain,b,wet\n"
    )
    found = find_sounds(tmp_path)
    assert found.classes == ("dog", "rain") and found.kind == "sounds with meta.csv"
    assert facts(found) == [("audio/1-a-A-0.flac", "", 0, "a"), ("audio/2-b-A-1.flac", "", 1, "b")]
    assert folds_of(found.records) == ("1", "2")
    other = find_sounds(tmp_path, label="mood", fold="src_file", group="fold")
    assert other.classes == ("sad", "wet") and [r.group for r in other.records] == ["1", "2"]
    for setting, message in (("fold", "data.fold: expected one of the fields"), ("group", "data.group: expected")):
        with pytest.raises(ValueError, match=message):
            find_sounds(tmp_path, **{setting: "age"})
    with pytest.raises(ValueError, match="columns file and age"):
        find_sounds(tmp_path, label="age")


def test_class_folders_of_any_format(tmp_path: Path) -> None:
    for name in ("train/dog/a.wav", "train/rain/b.MP3", "test/rain/c.opus", "train/dog/._a.wav", "notes.txt"):
        write(tmp_path / name)
    found = find_sounds(tmp_path)
    assert found.classes == ("dog", "rain") and found.kind == "class folders"
    assert facts(found) == [
        ("test/rain/c.opus", "test", 1, ""),
        ("train/dog/a.wav", "train", 0, ""),
        ("train/rain/b.MP3", "train", 1, ""),
    ]
    assert facts(find_sounds(tmp_path / "train/dog/a.wav")) == [("a.wav", "", None, "")]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_tar_shards_are_sounds_too(tmp_path: Path, ending: str) -> None:
    said = json.dumps({"category": "dog", "speaker": "anna", "fold": 3}).encode()
    shard(tmp_path / f"train-0000.{ending}", {"a.flac": FILES[0], "a.json": said, "b.wav": FILES[1]})
    found = find_sounds(tmp_path, label="category")
    assert facts(found) == [("train-0000/a", "train", 0, "anna"), ("train-0000/b", "train", None, "")]
    loaded = Sounds(found.records, RATE, Whole()).load(1, 0)
    assert loaded.samples.shape == (1, RATE)
    shard(tmp_path / f"train-0000.{ending}", {"a.flac": FILES[0], "a.cls": b"1"})
    assert [r.label for r in find_sounds(tmp_path).records] == [1]


def test_parquet_of_the_hub(tmp_path: Path) -> None:
    features = {"speech": {"_type": "Audio"}, "label": {"_type": "ClassLabel", "names": ["dog", "rain"]}}
    rows = {
        "speech": [{"bytes": content, "path": "a.flac"} for content in FILES],
        "label": [0, 1, 0, -1],
        "speaker": ["anna", "bert", "anna", "bert"],
        "fold": [1, 2, 1, 10],
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "data").mkdir()
    table = pa.table(rows).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "data/train-00000-of-00001.parquet", row_group_size=2)
    found = find_sounds(tmp_path)
    assert found.classes == ("dog", "rain") and folds_of(found.records) == ("1", "2", "10")
    assert [(r.label, r.group) for r in found.records] == [(0, "anna"), (1, "bert"), (0, "anna"), (None, "bert")]
    assert [r.read() for r in found.records] == FILES


def test_datasets_are_read_undecoded(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "lies.flac", FILES[3])
    stored: list[dict[str, Any]] = [{"bytes": content, "path": None} for content in FILES[:3]]
    stored.append({"bytes": None, "path": str(tmp_path / "lies.flac")})
    # As files of the Hub come: encoding through the feature itself would need torchcodec.
    dataset = datasets.Dataset.from_dict({"audio": stored, "label": [0, 1, 0, 1]})
    dataset = dataset.cast_column("audio", datasets.Audio())
    dataset = dataset.cast_column("label", datasets.ClassLabel(names=["dog", "rain"]))
    found = sounds_from_dataset(dataset, "train")
    assert found.classes == ("dog", "rain") and [r.label for r in found.records] == [0, 1, 0, 1]
    # A file of a data set is opened by its name, not read whole.
    assert [r.read() for r in found.records] == [*FILES[:3], tmp_path / "lies.flac"]
    assert len(Sounds(found.records, RATE, Whole()).load(3, 0).samples[0]) == RATE
    dataset.save_to_disk(tmp_path / "saved")
    assert facts(find_sounds(tmp_path / "saved"))[1] == ("dataset/00000001", "", 1, "")
    with pytest.raises(ValueError, match="expected a column audio, got speech, label; set audio_column"):
        sounds_from_dataset(dataset.rename_column("audio", "speech"))


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for root in (tmp_path / "missing", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="data.root: expected"):
            find_sounds(root)
    write(tmp_path / "a.m4a")
    with pytest.raises(ValueError, match=r"got 1 .m4a: convert them first"):
        find_sounds(tmp_path)


# --------------------------------------------------------------------------------------------------------------- views


def crops(records: list[SoundRecord], seconds: float = 0.5, **options: Any) -> Sounds:
    return Sounds(records, RATE, Crop(seconds, **options))


def test_a_crop_is_a_part_of_the_clip_at_any_start() -> None:
    clip = Sounds([record(FILES[0])], RATE, Whole()).load(0, 0).samples[0]
    source = crops([record(FILES[0])], 15_997 / RATE, views=2)
    starts = Counter[int]()
    for seed in range(60):
        for view in source.load(0, seed).samples:
            places = [start for start in range(4) if np.array_equal(view, clip[start : start + 15_997])]
            starts.update(places)
    # 16 000 samples leave four starts for 15 997.
    assert set(starts) == {0, 1, 2, 3} and sum(starts.values()) == 120 and max(starts.values()) < 50
    views = crops([record(FILES[0])], views=2).load(0, 5).samples
    assert not np.array_equal(views[0], views[1])
    # More views do not move the first.
    assert np.array_equal(crops([record(FILES[0])], views=4).load(0, 5).samples[:2], views)


def test_short_clips_are_filled_up_and_say_so() -> None:
    short, long = record(encoded(noise(3_000), RATE)), record(FILES[0])
    source = crops([short, long], views=2)
    loaded = [source.load(index, index) for index in (0, 1)]
    assert [views.length for views in loaded] == [3_000, 8_000]
    assert loaded[0].samples.shape == (2, 8_000) and not loaded[0].samples[:, 3_000:].any()
    batch = source.collate(loaded)
    assert batch.samples.shape == (4, 8_000) and batch.samples.dtype == torch.float32
    assert batch.lengths is not None and batch.lengths.tolist() == [3_000, 8_000] * 2
    # The first view of every sample, then the second.
    assert np.array_equal(batch.samples[3].numpy(), loaded[1].samples[1])
    assert source.collate(loaded[1:]).lengths is None


def test_whole_clips_of_different_lengths_make_a_batch() -> None:
    records = [record(encoded(noise(n), RATE)) for n in (3_000, 9_000)]
    source = Sounds(records, RATE, Whole())
    batch = source.collate([source.load(index, 0) for index in (0, 1)])
    assert batch.samples.shape == (2, 9_000) and not batch.samples[0, 3_000:].any()
    assert batch.lengths is not None and batch.lengths.tolist() == [3_000, 9_000]
    cut = Sounds(records, RATE, Whole(0.25))
    assert [cut.load(index, 0).length for index in (0, 1)] == [3_000, 4_000]
    assert np.array_equal(cut.load(1, 0).samples[0], source.load(1, 0).samples[0, :4_000])


def test_a_gain_changes_the_level_of_each_view_alone() -> None:
    plain, louder = crops([record(FILES[0])], views=6), crops([record(FILES[0])], views=6, gain_db=6.0)
    ratio = louder.load(0, 3).samples / plain.load(0, 3).samples
    gains = np.nanmedian(ratio, axis=1)
    assert np.nanmax(np.abs(ratio - gains[:, None])) < 1e-4 and len(np.unique(gains)) == 6
    assert np.all((gains > 10 ** (-6 / 20) - 1e-3) & (gains < 10 ** (6 / 20) + 1e-3))


def load(job: tuple[Sounds, int, int]) -> Views:
    return job[0].load(*job[1:])


def test_a_view_depends_on_its_seed_alone_in_whatever_process(tmp_path: Path) -> None:
    records = []
    for place, kind in enumerate(("flac", "ogg", "mp3")):
        write(tmp_path / f"{place}.{kind}", encoded(noise(44_100, 2, place), 44_100, kind))
        records.append(record(tmp_path / f"{place}.{kind}", str(place)))
    source = crops(records, views=2, gain_db=3.0)
    forward = [source.load(index, 40 + index) for index in range(3)]
    again = pickle.loads(pickle.dumps(source))
    backward = [again.load(index, 40 + index) for index in (2, 1, 0)][::-1]
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        elsewhere = list(pool.map(load, [(source, index, 40 + index) for index in range(3)]))
    for one, two, three in zip(forward, backward, elsewhere, strict=True):
        assert np.array_equal(one.samples, two.samples) and np.array_equal(one.samples, three.samples)
    assert not np.array_equal(forward[0].samples, source.load(0, 7).samples)


def test_bad_sounds_name_themselves(tmp_path: Path) -> None:
    records = [record(b"no sound", "x"), record(tmp_path / "gone.wav", "y"), record(encoded(noise(1), 192_000), "z")]
    for view in (Crop(1.0), Whole(), Whole(1.0)):
        source = Sounds(records, RATE, view)
        for index, says in enumerate(("x: no sound", "y: ", "z: 1 frames at 192000 Hz")):
            with pytest.raises(BadSample, match=says):
                source.load(index, 0)


def test_impossible_settings_are_one_line() -> None:
    with pytest.raises(ValueError, match="sounds: expected at least one"):
        Sounds([], RATE, Whole())
    with pytest.raises(ValueError, match="at least one sample of 16000 Hz"):
        Sounds([record(b"")], RATE, Crop(1e-6))
    for wrong in (lambda: Crop(0), lambda: Crop(1, 0), lambda: Crop(1, 1, -1), lambda: Whole(0)):
        with pytest.raises(ValueError, match="expected"):
            wrong()
    check_data(AudioDataSettings())
    for key, value in (("seconds", 0), ("views", 0), ("gain_db", -1), ("max_seconds", 0)):
        data = AudioDataSettings()
        setattr(data, key, value)
        with pytest.raises(ValueError, match=f"data.{key}: expected .* got {value}"):
            check_data(data)


# -------------------------------------------------------------------------------------------------------------- splits


def listed(count: int, classes: tuple[str, ...] = ("a", "b"), **said: Any) -> SoundList:
    records = [
        SoundRecord(f"{i}", bytes, said["split"](i) if "split" in said else "", i % 2, f"g{i // 4}", {})
        for i in range(count)
    ]
    if "fold" in said:
        records = [
            SoundRecord(r.sample_id, bytes, r.split, r.label, r.group, {"fold": said["fold"](int(r.sample_id))})
            for r in records
        ]
    return SoundList(Records.of(records), classes, "test")


def test_a_fold_is_held_back() -> None:
    sounds = listed(22, fold=lambda i: str(i // 2 + 1))
    splits = split_sounds(sounds, AudioDataSettings(), 5)
    assert [r.sample_id for r in splits.test] == ["20", "21"] and len(splits.train) == 20  # fold 11, not fold 9
    named = split_sounds(sounds, AudioDataSettings(test_fold="2"), 0)
    assert [r.sample_id for r in named.test] == ["2", "3"] and "fold 2" in named.note
    assert not split_sounds(sounds, AudioDataSettings(), 0).test
    assert not split_sounds(listed(22, (), fold=lambda i: str(i // 2)), AudioDataSettings(), 5).test
    with pytest.raises(ValueError, match="data.test_fold: expected one of 1, 2, 3, .*got '12'"):
        split_sounds(sounds, AudioDataSettings(test_fold="12"), 5)
    with pytest.raises(ValueError, match="the values of a column fold: there is none"):
        split_sounds(listed(4), AudioDataSettings(test_fold="1"), 5)


def test_without_folds_the_own_split_or_whole_groups_are_held_back() -> None:
    own = split_sounds(listed(9, split=lambda i: ("train", "validation", "test")[i % 3]), AudioDataSettings(), 5)
    assert (len(own.train), len(own.test)) == (3, 3) and own.note == "the data's own test split"
    splits = split_sounds(listed(400), AudioDataSettings(), 5)
    groups = [{r.group for r in part} for part in (splits.train, splits.test)]
    assert not groups[0] & groups[1] and 40 < len(splits.test) < 130
    again = split_sounds(listed(400), AudioDataSettings(), 5)
    assert list(splits.test.sample_ids()) == list(again.test.sample_ids())
    assert not split_sounds(listed(400, ()), AudioDataSettings(), 5).test
    with pytest.raises(ValueError, match="to train on"):
        split_sounds(listed(4, split=lambda i: "test"), AudioDataSettings(), 5)


# ----------------------------------------------------------------------------------------------------------- real data


def test_the_sample_in_the_package_is_real_and_torn_apart_by_no_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JEPA_DATA", raising=False)
    data = AudioDataSettings(seconds=2.0)
    sounds = sounds_of(data)
    assert "package" in choose_root(data).reason and len(sounds.classes) == 10
    counts = Counter((r.label, r.fields["fold"]) for r in sounds.records)
    assert len(counts) == 50 and min(counts.values()) >= 3
    folds: dict[str, set[str]] = {}
    for r in sounds.records:
        folds.setdefault(r.group, set()).add(r.fields["fold"])
    assert all(len(found) == 1 for found in folds.values())
    splits = split_sounds(sounds, data, 5)
    assert {r.fields["fold"] for r in splits.test} == {"5"}
    source = training_source(data, splits.train, RATE)
    assert source.load(0, 1).samples.shape == (1, 2 * RATE) and source.load(0, 1).samples.any()
    attribution = (choose_root(data).root / "ATTRIBUTION.md").read_text()
    assert all(Path(r.sample_id).name in attribution for r in sounds.records)


@pytest.mark.skipif("JEPA_DATA" not in os.environ, reason="JEPA_DATA is not set: no real sounds")
def test_the_real_esc10_is_found_and_decoded() -> None:
    data = AudioDataSettings(seconds=1.0, views=3)
    sounds = sounds_of(data)
    assert len(sounds.records) == 400 and folds_of(sounds.records) == ("1", "2", "3", "4", "5")
    assert set(Counter(r.label for r in sounds.records).values()) == {40}
    assert len({r.group for r in sounds.records}) == 304
    splits = split_sounds(sounds, data, 5)
    assert (len(splits.train), len(splits.test)) == (320, 80)
    plain, views = plain_source(data, splits.test, RATE), training_source(data, splits.test, RATE)
    clip = plain.load(7, 0).samples[0]
    assert clip.shape == (5 * RATE,) and 1e-4 < clip.std() < 0.7
    for view in views.load(7, 3).samples:
        places = np.flatnonzero(clip[: 4 * RATE + 1] == view[0])
        assert any(np.array_equal(clip[place : place + RATE], view) for place in places)


@pytest.mark.skipif("JEPA_DATA" not in os.environ, reason="JEPA_DATA is not set: no real sounds")
def test_the_real_digits_leave_out_a_speaker() -> None:
    root = Path(os.environ["JEPA_DATA"]) / "audio" / "fsdd"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    data = AudioDataSettings(root=str(root), label="digit", fold="speaker", test_fold="theo")
    sounds = sounds_of(data)
    splits = split_sounds(sounds, data, 5)
    assert (len(splits.train), len(splits.test)) == (2500, 500) and len(sounds.classes) == 10
    source = plain_source(data, splits.test[:8], RATE)
    batch = source.collate([source.load(index, 0) for index in range(8)])
    # 8 kHz recordings at 16 kHz have twice as many samples.
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [2 * int(r.fields["n_samples"]) for r in splits.test[:8]]


@pytest.mark.parametrize("keep_mib", [1, 64])
def test_kept_clips_give_the_crops_that_seeking_gives(tmp_path: Path, keep_mib: int) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.flac", encoded(noise(5 * RATE, seed=number), RATE, "flac"))
    records = find_sounds(tmp_path).records
    seeking = Sounds(records, 8000, Crop(0.5, views=2, gain_db=3))
    kept = Sounds(records, 8000, Crop(0.5, views=2, gain_db=3), keep_mib=keep_mib)
    for index, seed in [(0, 1), (0, 2), (3, 1), (0, 1)]:
        ours, theirs = kept.load(index, seed), seeking.load(index, seed)
        np.testing.assert_allclose(ours.samples, theirs.samples, atol=5e-6)
        assert ours.length == theirs.length
    again = pickle.loads(pickle.dumps(kept))
    np.testing.assert_array_equal(again.load(3, 1).samples, kept.load(3, 1).samples)
    assert sum(clip.nbytes for clip in kept._kept.values()) <= keep_mib * 2**20
    assert len(pickle.dumps(kept)) < 20_000
