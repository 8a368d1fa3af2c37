"""Videos as data: every layout is found, clips take the frames that the rules name, views come from the seed."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from video_cases import FIRST, SIZE, STEP, Film, clips, numbers

from jepa_core.contracts import BadSample
from jepa_vision.augment import Augment
from jepa_vision.video_data import Clips, box_within, stride_places, timed_places
from jepa_vision.video_files import FrameFiles, VideoList, find_videos


def shard(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def facts(videos: VideoList) -> list[tuple[str, str, int | None]]:
    return [(record.sample_id, record.split, record.label) for record in videos.records]


def write(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# -------------------------------------------------------------------------------------------------------------- layouts


def test_class_folders_of_files_and_of_frames(tmp_path: Path) -> None:
    for name in ("train/run/a.mp4", "train/sit/b.AVI", "test/sit/c.webm", "train/run/._a.mp4", "notes.txt"):
        write(tmp_path / name)
    for number in (1, 2, 10):
        write(tmp_path / f"val/run/d/{number}.jpg")
    write(tmp_path / "val/run/d/fps.txt", b"12.5\n")
    write(tmp_path / "train/run/poster.jpg")
    found = find_videos(tmp_path)
    assert found.classes == ("run", "sit") and found.kind == "class folders"
    assert facts(found) == [
        ("test/sit/c.webm", "test", 1),
        ("train/run/a.mp4", "train", 0),
        ("train/sit/b.AVI", "train", 1),
        ("val/run/d", "validation", 0),
    ]
    frames = found.records[3].read()
    assert isinstance(frames, FrameFiles) and frames.fps == 12.5
    assert [path.name for path in frames.paths] == ["1.jpg", "2.jpg", "10.jpg"]
    assert facts(find_videos(tmp_path / "train/run/a.mp4")) == [("a.mp4", "", None)]


def test_a_table_of_labels_has_as_many_label_columns_as_one_likes(tmp_path: Path) -> None:
    for name in ("a.mp4", "sub/b.mkv", "c.mov"):
        write(tmp_path / name)
    table = tmp_path / "labels.csv"
    table.write_text("file,label,place,split,group\na.mp4,run,out,train,anna\nsub/b.mkv,sit,in,test,bert\n")
    found = find_videos(tmp_path)
    assert found.classes == ("run", "sit") and [record.group for record in found.records] == ["anna", "", "bert"]
    assert facts(found) == [("a.mp4", "train", 0), ("c.mov", "", None), ("sub/b.mkv", "test", 1)]
    other = find_videos(tmp_path, "place")
    assert other.classes == ("in", "out") and [record.label for record in other.records] == [1, None, 0]
    assert found.values_of("place") == ("out", None, "in")
    with pytest.raises(ValueError, match="columns file and age"):
        find_videos(tmp_path, "age")
    with pytest.raises(ValueError, match=r"group, label, place, split\), got 'age'"):
        found.values_of("age")
    table.unlink()
    with pytest.raises(ValueError, match="data.label: expected a table"):
        find_videos(tmp_path, "place")


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_tar_shards(tmp_path: Path, ending: str) -> None:
    def said(**fields: object) -> bytes:
        return json.dumps(fields).encode()

    first = [("a.mp4", b"one"), ("a.json", said(digit="two", letter="x", words=[1], take=3, group="s1"))]
    shard(tmp_path / f"train-0000.{ending}", [*first, ("./b.json", said(digit="one")), ("./b.mp4", b"two")])
    shard(tmp_path / f"test-0000.{ending}", [("c.webm", b"three"), ("c.json", said(digit="two")), ("c.wav", b"")])
    found = find_videos(tmp_path, "digit")
    assert found.classes == ("one", "two")
    assert facts(found) == [("test-0000/c", "test", 1), ("train-0000/a", "train", 1), ("train-0000/b", "train", 0)]
    assert [record.read() for record in found.records] == [b"three", b"one", b"two"]
    assert found.records[1].fields == {"digit": "two", "letter": "x", "take": "3", "group": "s1"}
    assert found.records[1].group == "s1" and found.values_of("letter") == (None, "x", None)
    assert find_videos(tmp_path).classes == ()
    with pytest.raises(ValueError, match=r"digit, group, letter, take\), got 'colour'"):
        find_videos(tmp_path, "colour")


def test_class_numbers_and_torn_labels_in_shards(tmp_path: Path) -> None:
    shard(tmp_path / "train-0000.tar", [("a.mp4", b"one"), ("a.cls", b"1"), ("b.mp4", b"two"), ("b.cls", b"0")])
    (tmp_path / "classes.txt").write_text("run\nsit\n")
    found = find_videos(tmp_path)
    assert found.classes == ("run", "sit") and [record.label for record in found.records] == [1, 0]
    for bad, says in (
        ([("a.cls", b"sit")], "class number"),
        ([("a.json", b"[1]")], "JSON object"),
        ([("a.mov", b"")], "second"),
    ):
        shard(tmp_path / "train-0000.tar", [("a.mp4", b"one"), *bad])
        with pytest.raises(ValueError, match=says):
            find_videos(tmp_path)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt")
    for root in (tmp_path / "missing", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="data.root: expected"):
            find_videos(root)


# --------------------------------------------------------------------------------------------------------- which frames


def test_variable_rates_are_sampled_by_time() -> None:
    # 10 frames at 25 a second, 10 at 5 a second, 20 at 25 a second.
    pts = [*range(10), *range(10, 60, 5), *range(60, 80)]
    content = Film(pts=pts).encoded()
    source = clips(content, frames=16, fps=5)
    assert numbers(source.load_at(0, 0)) == [0, 5, *range(10, 20), 20, 25, 30, 35]
    assert numbers(clips(content, frames=8, stride=5).load_at(0, 0)) == list(range(0, 40, 5))
    # Twice the rate of the slow part: each of its frames comes twice, the earlier one where two are as near.
    assert numbers(clips(content, frames=16, fps=10).load_at(0, 0))[4:10] == [10, 10, 11, 11, 12, 12]


def test_a_clip_is_the_same_whatever_the_rate_of_the_video() -> None:
    slow, fast = (Film(frames=n, pts=range(0, 40, 40 // n)).encoded() for n in (20, 40))
    assert numbers(clips(fast, fps=12.5).load_at(0, 0)) == list(range(0, 16, 2))
    assert numbers(clips(slow, fps=12.5).load_at(0, 0)) == list(range(8))
    assert numbers(clips(slow, fps=25).load_at(0, 0)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_starts_are_all_drawn_and_evaluation_spreads() -> None:
    content = Film().encoded()
    whole = Augment(scale=(1, 1), aspect=(1, 1))
    source = clips(content, frames=4, stride=9, augment=whole)
    starts = Counter(numbers(source.load(0, seed))[0] for seed in range(120))
    # 13 starts leave room for 28 frames.
    assert set(starts) == set(range(13)) and max(starts.values()) < 25
    even = clips(content, frames=4, stride=9)
    assert [numbers(clip)[0] for clip in even.evaluation_clips(0, 3)] == [0, 6, 12]
    assert np.array_equal(even.evaluation_clips(0, 1)[0], even.load(0, 5)) and numbers(even.load(0, 5))[0] == 6
    assert np.array_equal(even.evaluation_clips(0, 3)[2], even.load_at(0, 1))
    with pytest.raises(ValueError, match="from 0 to 1"):
        even.load_at(0, 1.5)
    with pytest.raises(ValueError, match="at least one clip"):
        even.evaluation_clips(0, 0)


def test_places_by_number_and_by_time_agree_at_a_steady_rate() -> None:
    for count, frames, stride in ((75, 16, 4), (75, 16, 5), (75, 8, 1), (10, 16, 2), (1, 4, 4)):
        for rate in (25.0, 30000 / 1001):
            for share in (0.0, 0.3, 0.5, 0.99):
                by_number = stride_places(count, frames, stride, lambda n, s=share: int(s * n))  # type: ignore[misc]
                times = np.arange(count) / rate
                by_time = timed_places(times, frames, rate / stride, lambda n, s=share: int(s * n))  # type: ignore[misc]
                assert np.array_equal(by_number, by_time)


def test_a_clip_longer_than_the_video_repeats_its_last_frame() -> None:
    content = Film(frames=5).encoded()
    for source in (clips(content, stride=1), clips(content, fps=25), clips(content, fps=25, augment=Augment((1, 1)))):
        assert numbers(source.load(0, 3)) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert numbers(clips(Film(frames=1).encoded(), fps=4).load(0, 0)) == [0] * 8


# ---------------------------------------------------------------------------------------------------------------- views


def test_a_clip_depends_on_its_seed_alone_whatever_the_order(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, *SIZE, 3), dtype=np.uint8)
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.mp4", Film(paint=lambda number: noise[number]).encoded())
    records = find_videos(tmp_path).records
    augment = Augment(flip=0.5, brightness=0.4, hue=0.1, blur=0.5)
    source, again = (Clips(records, (16, 24), 4, 10, 1, augment) for _ in range(2))
    forward = [source.load(index, 70 + index) for index in range(3)]
    again = pickle.loads(pickle.dumps(again))  # as a worker gets it
    backward = [again.load(index, 70 + index) for index in (2, 1, 0)][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(forward, backward, strict=True))
    assert forward[0].shape == (4, 16, 24, 3) and forward[0].dtype == np.uint8
    assert not np.array_equal(forward[0], source.load(0, 7))
    batch = source.collate(forward)
    assert batch.shape == (3, 3, 4, 16, 24) and batch.dtype == torch.uint8
    assert np.array_equal(batch[1].permute(1, 2, 3, 0).numpy(), forward[1])
    # A file and its bytes are the same video.
    assert np.array_equal(clips((tmp_path / "a.mp4").read_bytes()).load(0, 0), clips(tmp_path / "a.mp4").load(0, 0))


def test_crop_and_flip_hold_for_the_whole_clip() -> None:
    still = np.random.default_rng(2).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    content = Film("ffv1", "matroska", pixels="bgr0", frames=10, paint=lambda number: still).encoded()
    source = clips(content, frames=4, stride=2, augment=Augment(flip=0.5))
    for seed in range(12):
        clip = source.load(0, seed)
        assert all(np.array_equal(frame, clip[0]) for frame in clip)
    assert np.array_equal(clips(content).load(0, 0)[0], still)
    flipped = clips(content, frames=4, augment=Augment((1, 1), (1, 1), flip=1.0)).load(0, 0)
    assert np.array_equal(flipped[3], still[:, ::-1])


def test_no_record_is_one_line() -> None:
    with pytest.raises(ValueError, match="videos: expected at least one"):
        Clips([], SIZE, 4, 0, 4)


# --------------------------------------------------------------------------------------------------------------- images


def test_folders_of_frames(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("L", (64, 48), FIRST + STEP * number).save(tmp_path / f"{number}.png")
    record = find_videos(tmp_path).records[0]
    assert numbers(Clips([record], SIZE, 4, 0, 3).load(0, 0)) == [1, 4, 7, 10]
    with pytest.raises(BadSample, match=r"fps.txt"):
        Clips([record], SIZE, 4, 5, 1).load(0, 0)
    (tmp_path / "fps.txt").write_text("10")
    assert numbers(Clips([record], SIZE, 4, 5, 1).load_at(0, 0)) == [0, 2, 4, 6]
    (tmp_path / "fps.txt").write_text("fast")
    with pytest.raises(BadSample, match="a number above 0, got 'fast'"):
        Clips([record], SIZE, 4, 5, 1).load(0, 0)
    (tmp_path / "fps.txt").unlink()
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(BadSample, match=r"3.png: no image"):
        Clips([record], SIZE, 12, 0, 1).load(0, 0)
    Image.new("L", (32, 48)).save(tmp_path / "3.png")
    with pytest.raises(BadSample, match="expected one size"):
        Clips([record], SIZE, 12, 0, 1).load(0, 0)


def test_an_image_is_a_still_clip_and_its_name_does_not_matter(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (45, 45, 45)).save(buffer, "PNG")
    write(tmp_path / "x.mp4", buffer.getvalue())
    write(tmp_path / "y: 100 %d?#.avi", Film("libvpx-vp9", "webm").encoded())
    source = Clips(find_videos(tmp_path).records, SIZE, 3, 4, 1)
    assert numbers(source.load(0, 0)) == [5, 5, 5]
    assert numbers(source.load_at(1, 0)) == [0, 6, 12]


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.mark.skipif("JEPA_DATA" not in os.environ, reason="JEPA_DATA is not set: no real videos")
def test_the_real_talking_face_is_found_and_decoded() -> None:
    root = Path(os.environ["JEPA_DATA"]) / "paired" / "grid-s1"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    found = find_videos(root, "color")
    assert Counter(record.split for record in found.records) == {"train": 700, "validation": 100, "test": 200}
    assert found.classes == ("blue", "green", "red", "white") and len(set(found.values_of("letter"))) == 25
    source = Clips(found.records, (112, 112), 16, 12.5, 1)
    clip = source.load(3, 0)
    assert clip.shape == (16, 112, 112, 3) and 20 < clip.std() < 120
    assert np.array_equal(clip, Clips(found.records, (112, 112), 16, 0, 2).load(3, 0))
    # A face that speaks moves, but little.
    moved = np.abs(np.diff(clip.astype(int), axis=0)).mean()
    assert 0.2 < moved < 10


# --------------------------------------------------------------------------------------------------------------- region


def test_a_region_is_cut_and_varied_as_if_it_were_the_frame(tmp_path: Path) -> None:
    whole, below = tmp_path / "whole", tmp_path / "below"
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        for folder, cut in ((whole, pixels), (below, pixels[20:, 15:45])):
            (folder / "a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(cut).save(folder / f"a/{number}.png")
    augment = Augment(scale=(0.3, 1.0), aspect=(0.75, 1.35), flip=0.5)
    for view in (None, augment):
        region = Clips(find_videos(whole).records, (16, 24), 4, 0.0, 1, view, (0.25, 0.5, 0.75, 1.0))
        cut = Clips(find_videos(below).records, (16, 24), 4, 0.0, 1, view)
        # The filter reads up to three pixels beyond a cut, where there are some.
        inner = np.s_[:, 3:-3, 3:-3]
        assert np.array_equal(region.load(0, 5)[inner], cut.load(0, 5)[inner])


def test_the_smallest_region_is_a_pixel_of_the_frame() -> None:
    assert box_within((0.999, 0.999, 1.0, 1.0), 10, 8, lambda w, h: (0, 0, w, h)) == (9, 7, 10, 8)
