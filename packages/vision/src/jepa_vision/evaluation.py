"""Images and clips as evaluation sees them: centre views of a split, with class names and groups."""

from __future__ import annotations

from jepa_core.data.records import class_names, groups_of
from jepa_core.evaluation_source import Labelled, Split
from jepa_vision.image_data import Images
from jepa_vision.settings import VisionRun
from jepa_vision.sources import images_of, size_of, splits_of
from jepa_vision.video_settings import VideoRun


def labelled_images(config: VisionRun, split: Split) -> Labelled | None:
    """Images of a split; ``all`` holds those of a validation split too. None where the split is empty."""
    images = images_of(config)
    splits = splits_of(config, images)
    records = {"train": splits.train, "test": splits.test, "all": images.records}[split]
    if not records:
        return None
    names = class_names(records.labels, images.classes)
    return Labelled(Images(records, size_of(config)), names, [None] * len(records))


def labelled_clips(config: VideoRun, split: Split) -> Labelled | None:
    """One plain clip of each recording of a split, or generated clips; None where the split is empty.

    Raises:
        ValueError: all generated clips are asked for.
    """
    from jepa_vision.video_sources import clips_of, splits_of, videos_of

    if config.data.root is None:
        return _generated(config, split)
    videos = videos_of(config)
    splits = splits_of(config, videos)
    records = {"train": splits.train, "test": splits.test, "all": videos.records}[split]
    if not records:
        return None
    names = class_names(records.labels, videos.classes)
    return Labelled(clips_of(config, records), names, groups_of(records))


def _generated(config: VideoRun, split: Split) -> Labelled:
    from jepa_vision.sprites import MOTIONS
    from jepa_vision.video_sources import GENERATED_TEST_CLIPS, generated_side

    if split == "all":
        raise ValueError("split: generated clips have no end; choose train or test")
    wanted = config.probe.test_clips or GENERATED_TEST_CLIPS
    count = wanted if split == "test" else config.probe.train_clips or config.data.clips
    side = generated_side(config, f"probe-{split}", split, count)
    return Labelled(side.source, [MOTIONS[label] for label in side.labels.tolist()], [None] * count)
