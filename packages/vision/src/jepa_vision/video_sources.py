"""Which clips a run trains on and which it holds back for the probe: recordings, or clips generated from photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import SampleSource
from jepa_core.data import splits
from jepa_core.data.splits import held_back
from jepa_vision.augment import Augment
from jepa_vision.sprites import MOTIONS, SpriteClips
from jepa_vision.video_data import Clips
from jepa_vision.video_files import Content, VideoList, VideoRecord, find_videos
from jepa_vision.video_settings import VideoRun

Splits = splits.Splits[Content]

HELD_BACK_ONE_IN = 5
"""Where the data name no test split, one recording in this many is held back, by a hash of its group or name."""

GENERATED_TEST_CLIPS = 800
"""Generated clips that a probe is tested on."""


@dataclass(frozen=True)
class ProbeSide:
    """Labelled clips of one side of a split.

    Attributes:
        source: plain clips, the same each time.
        labels: ``[N]`` class numbers.
        groups: ``[N]`` number of the recording or speaker; None = each clip is its own.
    """

    source: SampleSource
    labels: Tensor
    groups: Tensor | None = None


@dataclass(frozen=True)
class ProbeSplit:
    """What a probe is fitted and tested on.

    Attributes:
        train, test: disjoint.
        note: how they were chosen, for the table.
    """

    train: ProbeSide
    test: ProbeSide
    note: str


def size_of(config: VideoRun) -> tuple[int, int]:
    """Height and width of the input in pixels."""
    return config.data.height, config.data.width


def training_source(config: VideoRun) -> SampleSource:
    """Training clips: one view of each recording an epoch, or generated clips that never come twice."""
    if config.data.root is None:
        return SpriteClips(config.data.clips, size_of(config), config.data.frames)
    return clips_of(config, splits_of(config, videos_of(config)).train, Augment.of(config.data.augment))


def probe_split(config: VideoRun) -> ProbeSplit | None:
    """What the probe works on; None where there are no classes or nothing is held back."""
    limits = config.probe.train_clips, config.probe.test_clips
    if config.data.root is None:
        return _generated_split(config, limits)
    videos = videos_of(config)
    splits = splits_of(config, videos)
    chosen = [_spread(records, most) for records, most in zip((splits.train, splits.test), limits, strict=True)]
    if not videos.classes or not all(chosen):
        return None
    train, test = (_recorded_side(config, records) for records in chosen)
    return ProbeSplit(train, test, splits.note)


def describe(config: VideoRun) -> list[tuple[str, str, str]]:
    """Data and what is held back, each with its reason."""
    if config.data.root is None:
        what = "generated: real photos of hand signs, moved over a background; the class is what moves how"
        held = f"{GENERATED_TEST_CLIPS} clips, made of photos that are not trained on"
        return [
            ("data", what, "no data.root"),
            ("clips", f"{config.data.clips} an epoch, never the same twice", f"{len(MOTIONS)} motions"),
            ("held back", held, "for the probe"),
        ]
    videos = videos_of(config)
    splits = splits_of(config, videos)
    classes = f"{len(videos.classes)} classes" if videos.classes else "no classes: there will be no probe"
    rows = [
        ("data", config.data.root, "data.root"),
        ("videos", f"{len(splits.train)} to train on", f"{videos.kind}, {classes}"),
    ]
    return [*rows, ("held back", f"{len(splits.test)} videos", splits.note)] if splits.test else rows


# --------------------------------------------------------------------------------------------------------------------
# Generated clips
# --------------------------------------------------------------------------------------------------------------------


def generated_side(config: VideoRun, fixed: str, photos: str, count: int) -> ProbeSide:
    """The first ``count`` clips of a set that is named ``fixed``."""
    source = SpriteClips(count, size_of(config), config.data.frames, photos, fixed)
    return ProbeSide(source, torch.tensor([source.label(index) for index in range(count)]))


def _generated_split(config: VideoRun, limits: tuple[int, int]) -> ProbeSplit:
    train = generated_side(config, "probe-train", "train", limits[0] or config.data.clips)
    test = generated_side(config, "probe-test", "test", limits[1] or GENERATED_TEST_CLIPS)
    return ProbeSplit(train, test, "generated, of photos that are not trained on")


# --------------------------------------------------------------------------------------------------------------------
# Recordings
# --------------------------------------------------------------------------------------------------------------------


def videos_of(config: VideoRun) -> VideoList:
    """What ``data.root`` holds."""
    assert config.data.root is not None, "generated clips are no recordings"
    return find_videos(config.data.root, config.data.label)


def splits_of(config: VideoRun, videos: VideoList) -> Splits:
    """The data's own test split if they have one; else, for a run with a probe, one recording in five.

    Recordings of a validation split are in neither: they are there to choose settings with.
    """
    test = videos.records.where(videos.records.in_split("test"))
    train = videos.records.where(videos.records.in_split("train", ""))
    if not train:
        raise ValueError("data.root: expected videos to train on, got a test or validation split alone")
    if test:
        return Splits(train, test, "the data's own test split")
    if not videos.classes or not config.probe.enabled:
        return Splits(train, train[:0], "nothing is held back")
    held, how = (
        held_back(train, HELD_BACK_ONE_IN),
        f"one recording in {HELD_BACK_ONE_IN}, by a hash of its group or name",
    )
    return Splits(train.where(~held), train.where(held), how)


def clips_of(config: VideoRun, records: Sequence[VideoRecord], augment: Augment | None = None) -> Clips:
    """Clips of records as the settings want them; ``augment`` None = the plain view."""
    data = config.data
    top, left, bottom, right = data.region
    return Clips(records, size_of(config), data.frames, data.fps, data.stride, augment, (left, top, right, bottom))


def _recorded_side(config: VideoRun, records: Sequence[VideoRecord]) -> ProbeSide:
    numbers = {name: place for place, name in enumerate(sorted({record.group for record in records if record.group}))}
    # One recording without a group, and no error between groups can be had.
    grouped = len(numbers) > 1 and all(record.group for record in records)
    groups = torch.tensor([numbers[record.group] for record in records]) if grouped else None
    return ProbeSide(clips_of(config, records), torch.tensor([record.label for record in records]), groups)


def _spread(records: Sequence[VideoRecord], most: int) -> list[VideoRecord]:
    """At most ``most`` labelled records (0 = all), evenly spread over the list."""
    labelled = [record for record in records if record.label is not None]
    places = torch.linspace(0, len(labelled) - 1, min(most or len(labelled), len(labelled))).round().long()
    return [labelled[place] for place in places.unique().tolist()] if labelled else []
