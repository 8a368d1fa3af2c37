"""Arrays of strangers' ``.npy`` and ``.npz`` files: nothing is unpickled, no header believed before its bytes."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

FREE_BYTES = 64 * 2**20
"""What a packed file may hold whatever its size: little enough for any machine."""
MOST_TIMES = 100
"""Beyond that, how many times its packed size it may hold: zeros, and nothing else, reach 1 000."""
MOST_MEMBERS = 100_000
"""Arrays of one archive; each costs memory before it is looked at."""

# What numpy, zipfile and zlib raise at files that are not what they seem.
BROKEN = (
    *(ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError, RuntimeError, SyntaxError),
    *(RecursionError, NotImplementedError, OSError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def most_unpacked(packed: int) -> int:
    """Bytes that so many packed ones may become."""
    return max(FREE_BYTES, MOST_TIMES * packed)


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and length in bytes of the header of a ``.npy`` file.

    Raises:
        ValueError: it is none, or of Python objects (pickles).
    """
    try:
        version = np.lib.format.read_magic(file)
        read: Callable[..., Any] = np.lib.format.read_array_header_1_0
        shape, _, kind = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    except BROKEN as error:
        raise ValueError(f"no header of an array: {error}") from None
    if kind.hasobject:
        raise ValueError("it holds Python objects (a pickle); save arrays of numbers or of text")
    if not all(0 <= size < 2**62 for size in shape):
        raise ValueError(f"expected a shape of an array, got {shape}")
    return tuple(int(size) for size in shape), kind, file.tell()


def check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[int, ...]:
    """The shape of an array of an archive, after header and sizes were held against the bytes there are.

    Raises:
        ValueError: a bomb, a header that lies, or objects.
    """
    if info.file_size > most_unpacked(info.compress_size):
        raise ValueError(
            f"{info.filename}: expected at most {MOST_TIMES} times its {info.compress_size} packed bytes, got "
            f"{info.file_size}: save it with numpy.savez, unpacked"
        )
    try:
        with archive.open(info) as file:
            shape, kind, length = array_header(file)
    except BROKEN as error:
        raise ValueError(f"{info.filename}: {error}") from None
    if length + math.prod(shape) * kind.itemsize != info.file_size:
        raise ValueError(
            f"{info.filename}: expected {math.prod(shape) * kind.itemsize} bytes for {kind}{list(shape)}, got "
            f"{info.file_size - length}"
        )
    return shape


def array_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The ``.npy`` members of an archive by their names without the ending.

    Raises:
        ValueError: more than :data:`MOST_MEMBERS`, two of one name, or together a bomb.
    """
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise ValueError(f"expected at most {MOST_MEMBERS} arrays, got {len(infos)}")
    found = {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}
    if len(found) < sum(info.filename.endswith(".npy") for info in infos):
        raise ValueError("expected each array once, got a name twice")
    # Members may overlap: a small file would then hold each of them, and all of them much more than there is.
    total, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    size = _size(archive)
    if packed > size or total > most_unpacked(size):
        raise ValueError(f"expected members that fit into {size} bytes, got {packed} packed and {total} unpacked")
    return found


def _size(archive: zipfile.ZipFile) -> int:
    file = archive.fp
    assert file is not None, "open"
    place = file.tell()
    size = file.seek(0, 2)
    file.seek(place)
    return size


def read_npz(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, NDArray[Any]]:
    """The arrays of a file of ``numpy.savez`` whose names are ``wanted``.

    Raises:
        ValueError: no such file, damaged, a bomb, or one that holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: info for name, info in array_members(archive).items() if wanted(name)}
            found = {}
            for name, info in members.items():
                check_member(archive, info)
                with archive.open(info) as file:
                    found[name] = np.lib.format.read_array(file, allow_pickle=False)
            return found
    except BROKEN as error:
        raise ValueError(f"{path}: expected an .npz file of plain arrays, got {error}") from None


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a file of ``numpy.save``.

    Raises:
        ValueError: no such file, damaged, or one of Python objects.
    """
    try:
        with path.open("rb") as file:
            shape, kind, length = array_header(file)
            claimed = length + math.prod(shape) * kind.itemsize
            if claimed != path.stat().st_size:
                raise ValueError(f"expected {claimed} bytes for {kind}{list(shape)}, got {path.stat().st_size}")
            file.seek(0)
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return found
    except BROKEN as error:
        raise ValueError(f"{path}: expected an .npy file of a plain array, got {error}") from None
