"""Finding the samples of a root, whatever the layout: tar shards, a saved dataset, Parquet files, a folder, a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepa_core.data.media import Columns, Media
from jepa_core.data.media_folders import has_extension, list_folder
from jepa_core.data.records import Content, Record, RecordList, Records
from jepa_core.data.saved_datasets import is_saved_dataset, list_saved_dataset
from jepa_core.data.shards import list_shards, shards_of
from jepa_core.data.tables import list_parquet, parquet_files


def find_media(path: Path, media: Media[Content], columns: Columns) -> RecordList[Any]:
    """The samples of a root, perhaps none, by the first of these that it is.

    - a tar shard or a folder with some: :func:`jepa_core.data.shards.list_shards`;
    - a folder of ``Dataset.save_to_disk``: :func:`jepa_core.data.saved_datasets.records_of_dataset`;
    - a ``.parquet`` file or a folder with some: :func:`jepa_core.data.tables.list_parquet`;
    - any other folder: :func:`jepa_core.data.media_folders.list_folder`;
    - one media file.

    Raises:
        ValueError: what the layout's own function refuses.
    """
    if shards := shards_of(path):
        return list_shards(path if path.is_dir() else path.parent, shards, media, columns)
    if is_saved_dataset(path):
        return list_saved_dataset(path, media, columns)
    if tables := parquet_files(path):
        return list_parquet(path, tables, media, columns)
    if path.is_dir():
        return list_folder(path, media, columns)
    one = (Record(path.name, media.file(path)),) if has_extension(path.name, media.extensions) else ()
    return RecordList(Records.of(one), (), "one file")
