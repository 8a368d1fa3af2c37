"""Millions of texts in a few arrays: loader processes share them, where lists of strings are copied as they are read.

Python counts the references of every object in the object itself: a worker that only reads a list of strings writes to
all the memory they lie in, and the system copies it for each worker.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

# File names need not be text in any encoding, and JSON may hold halves of characters: both come back as they were.
_ERRORS = "surrogatepass"


class Texts(Sequence[str]):
    """Packed texts.

    Args:
        content: UTF-8 of all of them, one after the other, uint8 ``[bytes]``.
        ends: where each ends, int64 ``[N]``.
    """

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        borders = np.concatenate([[0], ends])
        if borders[-1] != len(content) or (np.diff(borders) < 0).any():
            raise ValueError(f"texts: expected ends that rise to {len(content)}, got others")
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """These texts, packed."""
        packer = TextPacker()
        for text in texts:
            packer.add(text)
        return packer.packed()

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        start = int(self.ends[number - 1]) if number else 0
        return self.content[start : int(self.ends[number])].tobytes().decode("utf-8", _ERRORS)


class TextPacker:
    """Packs texts as they come."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, text: str) -> None:
        """One more."""
        self._content += text.encode("utf-8", _ERRORS)
        self._ends.append(len(self._content))

    def packed(self) -> Texts:
        """All of them; nothing can be added after this."""
        return Texts(np.frombuffer(self._content, np.uint8), np.frombuffer(self._ends, np.int64))


@dataclass(frozen=True)
class Column:
    """One text, or none, for each of N samples; equal texts are held once.

    Attributes:
        codes: int32 ``[N]``, a place in ``values``; -1 = none.
        values: different texts, in the order in which they were met.
    """

    codes: NDArray[np.int32]
    values: Texts

    def __post_init__(self) -> None:
        if len(self.codes) and not -1 <= self.codes.min() <= self.codes.max() < len(self.values):
            raise ValueError(f"column: expected codes from -1 to {len(self.values) - 1}, got others")

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, row: int) -> str | None:
        """The text of a sample."""
        code = int(self.codes[row])
        return None if code < 0 else self.values[code]

    def take(self, rows: NDArray[np.int64]) -> Column:
        """The column of these samples."""
        return Column(self.codes[rows], self.values)

    def used(self) -> list[str]:
        """The different texts that a sample has."""
        codes = np.unique(self.codes)
        return [self.values[int(code)] for code in codes[codes >= 0]]


class ColumnPacker:
    """Packs a column as its texts come; samples that are passed over have none."""

    def __init__(self) -> None:
        self._codes, self._values = array("i"), TextPacker()
        self._code_of: dict[str, int] = {}

    def set(self, row: int, text: str) -> None:
        """The text of sample ``row``, which is none before the last that was set."""
        code = self._code_of.get(text)
        if code is None:
            code = self._code_of[text] = len(self._values)
            self._values.add(text)
        self._pad(row)
        self._codes.append(code)

    def packed(self, rows: int) -> Column:
        """The column of so many samples; nothing can be set after this."""
        self._pad(rows)
        return Column(np.frombuffer(self._codes, np.int32), self._values.packed())

    def _pad(self, rows: int) -> None:
        missing = rows - len(self._codes)
        if missing > 0:
            self._codes.extend(array("i", [-1]) * missing)
