"""A kind of media for tests of lists: notes, which are files of a few letters."""

from __future__ import annotations

from pathlib import Path

from jepa_core.data.media import Media, OpenFile

NOTES: Media[Path] = Media(
    one="a note",
    many="notes",
    extensions=frozenset({".note"}),
    file=OpenFile,
    column="note",
    feature="Note",
    beside=frozenset({".cls", ".json"}),
)
