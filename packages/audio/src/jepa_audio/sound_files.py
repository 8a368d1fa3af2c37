"""Finding sounds: files with label tables or in class folders, tar shards, Parquet tables, saved datasets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from jepa_core.data.find import find_media
from jepa_core.data.media import Columns, Media, OpenFile
from jepa_core.data.records import Record, RecordList
from jepa_core.data.saved_datasets import records_of_dataset

# A file's bytes or its path.
Content = bytes | Path
SoundRecord = Record[Content]
SoundList = RecordList[Content]

_LOSSLESS = {".wav", ".wave", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".voc"}
EXTENSIONS = frozenset(_LOSSLESS | {".ogg", ".oga", ".opus", ".mp3"})
"""Of formats that libsndfile reads. Which of them a file is, its content says."""
_NEEDS_FFMPEG = frozenset({".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".ac3", ".mka"})

LABEL_COLUMNS = ("label", "category")
GROUP_COLUMNS = ("group", "recording", "speaker", "src_file")
FOLD_COLUMN = "fold"

SOUNDS: Media[Content] = Media(
    one="a sound",
    many="sounds",
    extensions=EXTENSIONS,
    file=OpenFile,
    column="audio",
    feature="Audio",
    beside=frozenset({".cls", ".json"}),
)


def find_sounds(
    root: str | Path, label: str | None = None, fold: str | None = None, group: str | None = None
) -> SoundList:
    """The sounds of a root; nothing is decoded.

    - A folder with tar shards (``<split>-0000.tar``, ``.tar.gz``), or one shard: sounds, each with ``<key>.json`` (an
      object, whose texts and numbers become fields) or ``<key>.cls`` (a class number, named in ``classes.txt``).
    - A folder that ``Dataset.save_to_disk`` of the package ``datasets`` wrote, or ``.parquet`` files
      (``<split>-*.parquet``): a column ``audio`` or of the feature Audio, as encoded bytes.
    - Any other folder: every sound file below it. A first folder named train, val, validation or test is its split.
      ``labels.csv``, ``metadata.csv`` or ``meta.csv`` say what is known of each, see
      :func:`jepa_core.data.media_folders.labelled`; without labels in it, classes are the folders that hold the sounds,
      where each lies in one and there are at least two.
    - One sound file.

    Args:
        root: where they are.
        label: column or field of the class; None = ``label`` or ``category``, where there is one.
        fold: column or field that must be there; ``fold`` is read wherever it is.
        group: of the recording or speaker; None = ``group``, ``recording``, ``speaker`` or ``src_file`` (ESC-50).

    Raises:
        ValueError: no such folder or file, no sound in it, or no such column.
    """
    path = Path(root)
    if not path.exists():
        raise ValueError(
            f"data.root: expected a folder of sounds, tar shards or a .parquet file, got {str(root)!r}: none"
        )
    found: SoundList = find_media(path, SOUNDS, _columns(label, fold, group))
    if not found.records:
        raise ValueError(
            f"data.root: expected sounds ({', '.join(sorted(EXTENSIONS))}), tar shards or .parquet files in "
            f"{str(root)!r}, got {_what_else(path)}"
        )
    for setting, column in (("data.label", label), ("data.fold", fold), ("data.group", group)):
        if column is not None:
            found.require(column, setting)
    return found


def sounds_from_dataset(
    dataset: Any, split: str = "", label: str | None = None, group: str | None = None, audio_column: str = "audio"
) -> SoundList:
    """The sounds of a ``datasets.Dataset`` in memory, for :class:`jepa_audio.sound_data.Sounds`.

    Args:
        dataset: with an Audio feature, which is read without its own decoding, or a column of encoded bytes.
        split: name of the split, ``train``, ``validation`` or ``test``; others count as training data.
        label, group: columns, as for :func:`find_sounds`.
        audio_column: the sounds.

    Raises:
        ValueError: no such column.
    """
    return records_of_dataset(dataset, SOUNDS, _columns(label, None, group), split, audio_column)


def _columns(label: str | None, fold: str | None, group: str | None) -> Columns:
    return Columns(
        label=LABEL_COLUMNS if label is None else (label,),
        group=GROUP_COLUMNS if group is None else (group,),
        others=(FOLD_COLUMN,) if fold is None else (fold,),
        label_is_named=label is not None,
    )


def _what_else(path: Path) -> str:
    """What a folder without sounds has instead, where that can be mended."""
    names = path.rglob("*") if path.is_dir() else [path]
    endings = Counter(name.suffix.lower() for name in names if name.suffix.lower() in _NEEDS_FFMPEG)
    if not endings:
        return "none"
    listed = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
    return f"{listed}: convert them first, for example with ffmpeg -i a.m4a a.flac"
