"""The readers, each called as the project calls it: finding what lies in a folder, then loading it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations
import seed_files
from mutations import Mutant, Seed
from resumes import altered, go_on
from resumes import seeds as files_of_a_run


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        what: its files, for the table.
        seeds: real ones.
        read: writes a mutant into a folder and reads it.
        mutant: makes it of the real files and a key.
    """

    what: str
    seeds: Callable[[], list[Seed]]
    read: Callable[[Path, Mutant], None]
    mutant: Callable[[Sequence[Seed], str], Mutant] = mutations.mutant


def _put(folder: Path, made: Mutant) -> Path:
    path = folder / made.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.content)
    return path


def _load_all(source: Any, most: int = 3) -> None:
    samples = [source.load(index, 7 + index) for index in range(min(most, len(source)))]
    source.collate(samples[:1])


def _sound(folder: Path, made: Mutant) -> None:
    from jepa_audio.sound_data import Crop, Sounds, Whole
    from jepa_audio.sound_files import find_sounds

    _put(folder, made)
    records = find_sounds(folder).records
    _load_all(Sounds(records, 16000, Crop(0.5, 2)))
    _load_all(Sounds(records, 16000, Whole(10.0)))


def _image(folder: Path, made: Mutant) -> None:
    from jepa_vision.augment import Augment
    from jepa_vision.image_data import Images
    from jepa_vision.image_files import find_images

    _put(folder, made)
    _load_all(Images(find_images(folder).records, (64, 64), Augment(flip=0.5, brightness=0.4)))


def _images_of(path: Path) -> None:
    from jepa_vision.image_data import Images
    from jepa_vision.image_files import find_images

    _load_all(Images(find_images(path).records, (64, 64)), 6)


def _video(folder: Path, made: Mutant) -> None:
    from jepa_vision.video_data import Clips
    from jepa_vision.video_files import find_videos

    _put(folder, made)
    _load_all(Clips(find_videos(folder).records, (32, 32), 4, 8.0, 1))


def _scan(folder: Path, made: Mutant) -> None:
    from jepa_lidar.data import LidarScans
    from jepa_lidar.geometry import GRIDS

    _put(folder, made)
    _load_all(LidarScans(folder, next(iter(GRIDS.values()))))


def _shard(folder: Path, made: Mutant) -> None:
    _put(folder, made)
    (folder / "classes.txt").write_text("\n".join("abcdefghij"))
    _images_of(folder)


def _media_table(folder: Path, made: Mutant) -> None:
    _put(folder, made)
    _images_of(folder)


def _saved_dataset(folder: Path, made: Mutant) -> None:
    for seed in seed_files.saved_datasets():
        _put(folder, Mutant(seed.name, seed.content, ""))
    _put(folder, made)
    _images_of(folder)


def _table(folder: Path, made: Mutant) -> None:
    from jepa_core.compare.inputs import load

    load(_put(folder, made))


def _slots(folder: Path, made: Mutant) -> None:
    from jepa_causal.data import Cut, SlotWindows
    from jepa_causal.slots.files import SlotFiles

    _load_all(SlotWindows(SlotFiles(_put(folder, made)).usable().episodes, Cut(4)))


def _configuration(folder: Path, made: Mutant) -> None:
    from jepa_core.config import compose
    from jepa_core.plugins import find_modality

    for seed in seed_files.recipes():
        (folder / seed.name).write_bytes(seed.content)
    name = "causal" if made.name == "config.yaml" else "audio"
    compose(find_modality(name).schema, _put(folder, made), ["trainer.max_steps=3"])


def _checkpoint(folder: Path, made: Mutant) -> None:
    """Of a torn disk; and of somebody who makes the checksums right again, for every second file."""
    from jepa_core.config import compose
    from jepa_core.plugins import find_modality
    from jepa_core.train import checkpoint

    place = folder / "checkpoints" / "step-2"
    for seed in seed_files.checkpoints():
        _put(place, Mutant(seed.name, seed.content, ""))
    changed = _put(place, made)
    manifest = place / "manifest.json"
    if changed != manifest and zlib.crc32(made.content) % 2:
        known = json.loads(manifest.read_text())
        known["sha256"][changed.name] = hashlib.sha256(made.content).hexdigest()
        manifest.write_text(json.dumps(known))
    found = checkpoint.newest(folder, lambda text: None)
    checkpoint.load(found)
    compose(find_modality("causal").schema, found / "config.yaml", ())


def _weights(folder: Path, made: Mutant) -> None:
    from jepa_core.weights.keys import read_lightning, read_state, tensors_of

    path = _put(folder, made)
    if path.suffix == ".ckpt":
        read_lightning(path)
        return
    for name, value in read_state(path).items():
        if isinstance(value, dict):
            for tensor in tensors_of(value, str(name)).values():
                tensor.clone()


def _labels(folder: Path, made: Mutant) -> None:
    from jepa_audio.sound_files import find_sounds
    from jepa_lidar.data import recorded_boxes

    if made.name.endswith("boxes_lidar.csv"):
        _put(folder, made)
        recorded_boxes(folder / "scans" / "000003.npz")
        return
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"")
    _put(folder, Mutant(made.name if made.name != "mutant.csv" else "labels.csv", made.content, ""))
    find_sounds(folder)


def _report(folder: Path, made: Mutant) -> None:
    from jepa_core.report.html import write_report
    from jepa_core.report.reading import read_run
    from jepa_core.report.samples import samples_page

    for seed in seed_files.reports():
        _put(folder, Mutant(seed.name, seed.content, ""))
    _put(folder, made)
    missing: list[tuple[str, str]] = []
    read_run(folder)
    samples_page(folder, missing)
    # Drawing takes two seconds: every two hundredth file goes all the way.
    if zlib.crc32(made.content) % 200 == 0:
        write_report(folder)


READERS = {
    "sounds": Reader("FLAC, WAV, Ogg, Opus, MP3, AIFF, AU, CAF, W64, VOC, NIST", seed_files.sounds, _sound),
    "images": Reader("JPEG, PNG, WebP, GIF, BMP, TIFF, PPM", seed_files.images, _image),
    "videos": Reader("MP4, Matroska, WebM, AVI", seed_files.videos, _video),
    "points": Reader("KITTI, nuScenes, PCD, PLY, npz", seed_files.points, _scan),
    "shards": Reader("tar and tar.gz of images", seed_files.shards, _shard),
    "media tables": Reader("Parquet of images", seed_files.media_tables, _media_table),
    "saved datasets": Reader("Arrow and JSON of a saved dataset", seed_files.saved_datasets, _saved_dataset),
    "embeddings": Reader("Parquet, npy, npz, safetensors", seed_files.tables, _table),
    "slots": Reader("npz, safetensors, Parquet", seed_files.slots, _slots),
    "configuration": Reader("recipes, config.yaml", seed_files.recipes, _configuration),
    "checkpoints": Reader("every file of a checkpoint", seed_files.checkpoints, _checkpoint),
    "resumes": Reader("what resume= reads of a run", files_of_a_run, go_on, altered),
    "weights": Reader("safetensors, pth, pth.tar, ckpt", seed_files.weights, _weights),
    "labels": Reader("labels.csv, meta.csv, boxes_lidar.csv", seed_files.label_tables, _labels),
    "reports": Reader("JSON, YAML and pictures of a run", seed_files.reports, _report),
}
