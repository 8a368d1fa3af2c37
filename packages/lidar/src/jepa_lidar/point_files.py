"""PCD and PLY: headers are checked here against the bytes that follow, then pypcd4 and plyfile decode the rows.

Format of PCD 0.7: the Point Cloud Library's documentation; of PLY: G. Turk's Stanford description.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]

_HEADER_BYTES = 16_384  # a header longer than this is none
_MAX_FIELDS = 256
_LZF_RATIO = 90  # LZF writes at most 264 bytes for 3
_PCD_TYPES = {("F", 4), ("F", 8), *((kind, size) for kind in "IU" for size in (1, 2, 4, 8))}
_PCD_KEYS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_PLY_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
# Intensity goes by other names in the wild.
_INTENSITY = ("intensity", "i", "reflectance", "reflectivity", "remission", "scalar_intensity")
_DECODE_ERRORS = (ValueError, KeyError, TypeError, IndexError, EOFError, RuntimeError, struct.error, MemoryError)


class Unreadable(Exception):
    """Why a file is no scan: what was expected, what came. The reader adds the path."""


@dataclass(frozen=True)
class _PcdHeader:
    fields: tuple[str, ...]
    sizes: tuple[int, ...]
    types: tuple[str, ...]
    counts: tuple[int, ...]
    points: int
    encoding: str

    @property
    def row_bytes(self) -> int:
        return sum(size * count for size, count in zip(self.sizes, self.counts, strict=True))

    def canonical(self) -> bytes:
        """The header with unique field names and every line, as pypcd4 needs it."""
        lines = (
            "VERSION 0.7",
            "FIELDS " + " ".join(self.fields),
            "SIZE " + " ".join(map(str, self.sizes)),
            "TYPE " + " ".join(self.types),
            "COUNT " + " ".join(map(str, self.counts)),
            f"WIDTH {self.points}",
            "HEIGHT 1",
            "VIEWPOINT 0 0 0 1 0 0 0",
            f"POINTS {self.points}",
            f"DATA {self.encoding}",
        )
        return "\n".join(lines).encode() + b"\n"


def read_pcd_columns(path: Path, max_points: int) -> Columns:
    """Scalar columns of a PCD file by name; padding and fields of more than one value are left out."""
    from pypcd4 import PointCloud

    raw = path.read_bytes()
    header, body = _parse_pcd_header(raw, max_points)
    body = _check_pcd_body(header, body)
    try:
        cloud = PointCloud.from_fileobj(io.BufferedReader(io.BytesIO(header.canonical() + body)))
    except _DECODE_ERRORS as error:
        raise Unreadable(
            f"expected {header.points} {header.encoding} PCD rows, got rows that do not decode: {error}"
        ) from None
    rows = np.atleast_1d(cloud.pc_data)
    scalars = [name for name, count in zip(header.fields, header.counts, strict=True) if count == 1]
    return _named({name: rows[name] for name in scalars if not name.startswith("_pad")})


def _parse_pcd_header(raw: bytes, max_points: int) -> tuple[_PcdHeader, bytes]:
    entries, offset = _pcd_lines(raw)
    fields = entries.get("FIELDS", [])
    counts = entries.get("COUNT", ["1"] * len(fields))
    if not fields or len(fields) > _MAX_FIELDS:
        raise Unreadable(f"expected 1 to {_MAX_FIELDS} FIELDS in the PCD header, got {len(fields)}")
    lengths = {"SIZE": len(entries.get("SIZE", [])), "TYPE": len(entries.get("TYPE", [])), "COUNT": len(counts)}
    if set(lengths.values()) != {len(fields)}:
        raise Unreadable(f"expected one SIZE, TYPE and COUNT for each of {len(fields)} PCD FIELDS, got {lengths}")
    types = tuple(kind.upper() for kind in entries["TYPE"])
    sizes, numbers = _whole("SIZE", entries["SIZE"]), _whole("COUNT", counts)
    for field, kind, size, number in zip(fields, types, sizes, numbers, strict=True):
        if (kind, size) not in _PCD_TYPES or not 1 <= number <= 4096:
            raise Unreadable(f"expected a known PCD type, got field {field} TYPE {kind} SIZE {size} COUNT {number}")
    points = _pcd_points(entries, max_points)
    encoding = (entries["DATA"] or ["nothing"])[0]
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise Unreadable(f"expected PCD DATA ascii, binary or binary_compressed, got {encoding}")
    return _PcdHeader(_unique(fields, numbers), sizes, types, numbers, points, encoding), raw[offset:]


def _pcd_lines(raw: bytes) -> tuple[dict[str, list[str]], int]:
    entries: dict[str, list[str]] = {}
    offset = 0
    while offset < min(len(raw), _HEADER_BYTES):
        end = raw.find(b"\n", offset, _HEADER_BYTES)
        if end < 0:
            break
        words = raw[offset:end].decode("ascii", errors="replace").split()
        offset = end + 1
        if words and words[0] in _PCD_KEYS:
            entries[words[0]] = words[1:]
        if words and words[0] == "DATA":
            return entries, offset
    raise Unreadable(
        f"expected a PCD header that ends in a DATA line, got {len(raw)} bytes with {sorted(entries)} only"
    )


def _pcd_points(entries: dict[str, list[str]], max_points: int) -> int:
    missing = [key for key in ("WIDTH", "HEIGHT") if key not in entries]
    if missing:
        raise Unreadable(f"expected WIDTH and HEIGHT in the PCD header, got none of {missing}")
    width, height = (_whole(key, entries[key])[0] for key in ("WIDTH", "HEIGHT"))
    points = _whole("POINTS", entries.get("POINTS", [str(width * height)]))[0]
    if width * height != points:
        raise Unreadable(f"expected WIDTH * HEIGHT = POINTS, got {width} * {height} and {points}")
    if not 0 < points <= max_points:
        raise Unreadable(f"expected 1 to {max_points} points, got POINTS {points}")
    return points


def _whole(key: str, words: list[str]) -> tuple[int, ...]:
    if not words or not all(word.isdecimal() and len(word) < 19 for word in words):
        raise Unreadable(f"expected whole numbers for PCD {key}, got {' '.join(words)[:60] or 'nothing'}")
    return tuple(int(word) for word in words)


def _unique(fields: list[str], counts: tuple[int, ...]) -> tuple[str, ...]:
    """Field names the decoder can take: padding and repeated names become ``_pad<i>``."""
    names: list[str] = []
    for index, (field, count) in enumerate(zip(fields, counts, strict=True)):
        usable = field.isidentifier() and field not in names and not field.startswith("_")
        if field in ("x", "y", "z") and (count != 1 or not usable):
            raise Unreadable(f"expected one PCD field {field} of COUNT 1, got it repeated or of COUNT {count}")
        names.append(field if usable else f"_pad{index}")
    return tuple(names)


def _check_pcd_body(header: _PcdHeader, body: bytes) -> bytes:
    """The rows, after their number was held against the bytes there are."""
    if header.encoding == "ascii":
        return _ascii_rows(header, body)
    if header.encoding == "binary":
        needed = header.points * header.row_bytes
        if len(body) < needed:
            raise Unreadable(
                f"expected {needed} bytes ({header.points} points of {header.row_bytes}), got {len(body)} bytes left"
            )
        return body[:needed]
    return _compressed_rows(header, body)


def _ascii_rows(header: _PcdHeader, body: bytes) -> bytes:
    rows = [row for row in (line.split() for line in body.split(b"\n")) if row]
    columns = sum(header.counts)
    if len(rows) != header.points:
        raise Unreadable(f"expected POINTS {header.points} rows, got {len(rows)}")
    short = next((index for index, row in enumerate(rows) if len(row) != columns), None)
    if short is not None:
        raise Unreadable(f"expected {columns} numbers a row, got {len(rows[short])} in row {short} of {len(rows)}")
    return b"\n".join(b" ".join(row) for row in rows) + b"\n"


def _compressed_rows(header: _PcdHeader, body: bytes) -> bytes:
    needed = header.points * header.row_bytes
    if len(body) < 8:
        raise Unreadable(f"expected two sizes of compressed PCD data (8 bytes), got {len(body)} bytes left")
    packed, unpacked = struct.unpack("<II", body[:8])
    if unpacked != needed:
        raise Unreadable(f"expected {needed} bytes unpacked ({header.points} points), got a file that says {unpacked}")
    if packed > len(body) - 8:
        raise Unreadable(f"expected {packed} compressed bytes, got {len(body) - 8} bytes left")
    if unpacked > _LZF_RATIO * packed:
        raise Unreadable(
            f"expected at most {_LZF_RATIO} times {packed} bytes unpacked, got a file that says {unpacked}"
        )
    return body[: 8 + packed]


@dataclass
class _PlyElement:
    name: str
    count: int
    scalars: list[tuple[str, int]]
    list_bytes: int = 0
    lists: int = 0

    def least_bytes(self, ascii_rows: bool) -> int:
        """The fewest bytes that ``count`` rows can take."""
        if ascii_rows:  # a digit and a separator for each value; the last separator may be missing
            return max(0, 2 * (len(self.scalars) + self.lists) * self.count - 1)
        return (sum(size for _, size in self.scalars) + self.list_bytes) * self.count


def read_ply_columns(path: Path, max_points: int) -> Columns:
    """Scalar columns of a PLY file's ``vertex`` element by name."""
    from plyfile import PlyData, PlyParseError

    size = path.stat().st_size
    with path.open("rb") as file:
        elements, encoding, left = _parse_ply_header(file.read(_HEADER_BYTES), size)
    vertex = next((element for element in elements if element.name == "vertex"), None)
    names = [name for name, _ in vertex.scalars] if vertex else []
    if vertex is None or not {"x", "y", "z"} <= set(names):
        raise Unreadable(f"expected a PLY vertex element with x, y, z, got {', '.join(names) or 'no vertex'}")
    if not 0 < vertex.count <= max_points:
        raise Unreadable(f"expected 1 to {max_points} points, got element vertex {vertex.count}")
    needed = sum(element.least_bytes(encoding == "ascii") for element in elements)
    if needed > left:
        raise Unreadable(f"expected at least {needed} bytes for {vertex.count} PLY vertices, got {left} bytes left")
    try:
        rows = PlyData.read(str(path), mmap=False)["vertex"].data
    except (*_DECODE_ERRORS, PlyParseError) as error:
        raise Unreadable(f"expected {vertex.count} PLY vertices, got rows that do not decode: {error}") from None
    return _named({name: rows[name] for name in names})


def _parse_ply_header(start: bytes, size: int) -> tuple[list[_PlyElement], str, int]:
    end = start.find(b"end_header")
    newline = start.find(b"\n", end)
    if not start.startswith(b"ply") or end < 0 or newline < 0:
        raise Unreadable(f"expected a PLY header from ply to end_header, got {size} bytes without one")
    elements: list[_PlyElement] = []
    encoding = ""
    for line in start[:end].decode("ascii", errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            encoding = words[1]
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdecimal() and len(words[2]) < 19:
            elements.append(_PlyElement(words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            _add_property(elements[-1], words)
        elif words[:1] in (["element"], ["property"]):
            raise Unreadable(f"expected a PLY element or property line, got {line[:60]!r}")
    if encoding not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise Unreadable(f"expected PLY format ascii or binary, got {encoding or 'none'}")
    return elements, encoding, size - newline - 1


def _add_property(element: _PlyElement, words: list[str]) -> None:
    if len(words) == 5 and words[1] == "list" and words[2] in _PLY_BYTES:
        element.lists += 1
        element.list_bytes += _PLY_BYTES[words[2]]
    elif len(words) == 3 and words[1] in _PLY_BYTES:
        element.scalars.append((words[2], _PLY_BYTES[words[1]]))
    else:
        raise Unreadable(f"expected a PLY property of a known type, got {' '.join(words)[:60]!r}")


def _named(columns: dict[str, NDArray[Any]]) -> Columns:
    """The columns with whatever name intensity has replaced by ``intensity``."""
    if "intensity" in columns:
        return columns
    alias = next((name for name in columns if name.lower() in _INTENSITY), None)
    return {"intensity" if name == alias else name: column for name, column in columns.items()}
