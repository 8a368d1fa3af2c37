"""Reads one LiDAR scan of any supported format, and says in one line why a file cannot be one.

Formats: KITTI ``.bin``, nuScenes ``.pcd.bin``, PCD 0.7 (ascii, binary, binary_compressed), PLY, and compact ``.npz``.
Nothing is ever unpickled, and no header is believed before it is held against the bytes that follow it.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.contracts import BadSample
from jepa_core.data.archives import BROKEN, array_members, check_member
from jepa_lidar.point_files import Columns, Unreadable, read_pcd_columns, read_ply_columns

FORMATS = (".pcd.bin", ".bin", ".pcd", ".ply", ".npz")  # the longest ending first
MAX_COORDINATE_M = 10_000.0
MAX_POINTS = 50_000_000  # a file that claims more is damaged or hostile; the largest sensors give some millions

_LFS = b"version https://git-lfs"
_SIGNATURES = (
    (_LFS, "a Git LFS pointer (fetch the real file with `git lfs pull`)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"# .PCD", "a PCD file"),
    (b"VERSION ", "a PCD file"),
    (b"FIELDS ", "a PCD file"),
    (b"ply\n", "a PLY file"),
    (b"ply\r\n", "a PLY file"),
    (b"\x93NUMPY", "a .npy array"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
)
_OWN_SIGNATURE = {".pcd": "a PCD file", ".ply": "a PLY file", ".npz": "a zip archive"}


@dataclass(frozen=True)
class Scan:
    """One scan as read.

    Attributes:
        points: float32 ``[P, 4]`` x, y, z in metres and intensity in 0..1, all finite. No intensity in the file: 0.
        dropped: rows left out because they hold no return (not finite in PCD or PLY, or exactly at the sensor).
        format: which format it was.
        fields: the columns of the file.
        extra: further columns by name, float32 ``[P]``, such as ``ring`` or ``elongation``, unscaled.
    """

    points: NDArray[np.float32]
    dropped: int
    format: str
    fields: tuple[str, ...]
    extra: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def columns(self, features: tuple[str, ...]) -> NDArray[np.float32]:
        """Point features ``[P, F]`` by name; KeyError names one the file lacks."""
        known = dict(zip(("x", "y", "z", "intensity"), self.points.T, strict=True), **self.extra)
        return np.stack([known[name] for name in features], axis=1).astype(np.float32)


def scan_format(name: str) -> str | None:
    """The ending of :data:`FORMATS` that a file's name has, whatever its case; None when it has none of them."""
    small = name.lower()
    return next((ending for ending in FORMATS if small.endswith(ending)), None)


def read_scan(path: str | Path, intensity_scale: float | None = None) -> Scan:
    """Reads a scan.

    Args:
        path: a file whose name ends in one of :data:`FORMATS`.
        intensity_scale: the file's value of full intensity. None: 1 for KITTI and for float columns, 255 for nuScenes,
            the largest value of the type for integer columns.

    Raises:
        BadSample: with one line: path, what was expected, what came.
    """
    path = Path(path)
    ending = scan_format(path.name)
    if ending is None:
        raise BadSample(f"{path}: expected a scan ({', '.join(FORMATS)}), got the ending {path.suffix!r}")
    try:
        _check_content(path, ending)
        scan = _READERS[ending](path)
        return _checked(scan, intensity_scale)
    except Unreadable as reason:
        raise BadSample(f"{path}: {' '.join(str(reason).split())}") from None
    except OSError as error:
        raise BadSample(f"{path}: expected a readable file, got {error.strerror or error}") from None


def read_labels(path: str | Path, points: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Class and instance of each point from a SemanticKITTI ``.label``; BadSample unless it has ``points`` rows."""
    raw = Path(path).read_bytes()
    if len(raw) != 4 * points:
        raise BadSample(
            f"{path}: expected {4 * points} bytes (uint32 for each of {points} points), got {len(raw)} bytes"
        )
    labels = np.frombuffer(raw, dtype="<u4")
    return (labels & 0xFFFF).astype(np.uint16), (labels >> 16).astype(np.uint16)


# --------------------------------------------------------------------------------------------------------------------
# Formats
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Raw:
    """Columns of a file before any check, with the rules of its format."""

    columns: Columns
    format: str
    drops_invalid: bool
    default_scale: float | None = None


def _check_content(path: Path, ending: str) -> None:
    size = path.stat().st_size
    if size == 0:
        raise Unreadable(f"expected a {ending} scan, got an empty file (0 bytes)")
    with path.open("rb") as file:
        start = file.read(64)
    found = next((what for signature, what in _SIGNATURES if start.startswith(signature)), None)
    if found is not None and found != _OWN_SIGNATURE.get(ending):
        raise Unreadable(f"expected a {ending} scan, got {found} ({size} bytes)")


def _read_bin(path: Path) -> _Raw:
    """KITTI: float32 x, y, z, reflectance. nuScenes under the plain ending is told by its values where KITTI's fail."""
    raw = path.read_bytes()
    is_kitti = len(raw) % 16 == 0 and _reflectance_in_range(raw)
    if not is_kitti and len(raw) % 20 == 0 and _looks_like_nuscenes(raw):
        return _nuscenes(raw)
    if len(raw) % 16:
        raise Unreadable(f"expected records of 16 bytes (float32 x y z reflectance), got {_remainder(len(raw), 16)}")
    table = np.frombuffer(raw, dtype="<f4").reshape(-1, 4)
    return _Raw(dict(zip(("x", "y", "z", "intensity"), table.T, strict=True)), "kitti .bin", False, 1.0)


def _reflectance_in_range(raw: bytes) -> bool:
    reflectance = np.frombuffer(raw, dtype="<f4")[3::4]
    return bool(((reflectance >= 0) & (reflectance <= 1)).all())


def _read_nuscenes(path: Path) -> _Raw:
    raw = path.read_bytes()
    if len(raw) % 20:
        raise Unreadable(f"expected records of 20 bytes (float32 x y z intensity ring), got {_remainder(len(raw), 20)}")
    if not _looks_like_nuscenes(raw):
        raise Unreadable(
            f"expected a fifth column of whole ring numbers (nuScenes), got other values ({len(raw)} bytes)"
        )
    return _nuscenes(raw)


def _remainder(size: int, record: int) -> str:
    return f"{size} bytes = {size // record} records and {size % record} bytes over"


def _looks_like_nuscenes(raw: bytes) -> bool:
    """Whether every fifth float32 is a whole ring number and every fourth an intensity; no other stride gives that."""
    table = np.frombuffer(raw, dtype="<f4").reshape(-1, 5)
    intensity, ring = table[:, 3], table[:, 4]
    with np.errstate(invalid="ignore"):  # the bytes may be anything
        whole = (ring >= 0) & (ring <= 255) & (ring == np.floor(ring))
        return bool((whole & (intensity >= 0) & (intensity <= 255)).all())


def _nuscenes(raw: bytes) -> _Raw:
    table = np.frombuffer(raw, dtype="<f4").reshape(-1, 5)
    names = ("x", "y", "z", "intensity", "ring")
    return _Raw(dict(zip(names, table.T, strict=True)), "nuscenes .pcd.bin", False, 255.0)


def _read_pcd(path: Path) -> _Raw:
    return _Raw(read_pcd_columns(path, MAX_POINTS), "pcd", True)


def _read_ply(path: Path) -> _Raw:
    return _Raw(read_ply_columns(path, MAX_POINTS), "ply", True)


def _read_npz(path: Path) -> _Raw:
    """Compact scans: xyz int16 ``(3, N)`` times ``scale`` in metres, intensity uint8 in hundredths."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _read_member(archive, info) for name, info in array_members(archive).items()}
    except BROKEN as error:
        raise Unreadable(f"expected an .npz with xyz, intensity, scale, got a broken archive: {error}") from None
    shapes = {name: array.shape for name, array in arrays.items()}
    xyz, intensity, scale = (arrays.get(name) for name in ("xyz", "intensity", "scale"))
    if xyz is None or intensity is None or scale is None or xyz.ndim != 2 or len(xyz) != 3 or scale.size != 1:
        raise Unreadable(f"expected xyz (3, N), intensity (N,), scale (), got {shapes}")
    if intensity.shape != xyz.shape[1:]:
        raise Unreadable(f"expected as many intensities as points, got {shapes}")
    metres = (xyz * float(scale.reshape(()))).astype(np.float32)
    full = 100.0 if intensity.dtype.kind in "iu" else 1.0
    extra = {
        n: a for n, a in arrays.items() if a.shape == intensity.shape and n != "intensity" and a.dtype.kind in "iuf"
    }
    return _Raw({**dict(zip("xyz", metres, strict=True)), "intensity": intensity, **extra}, "npz", False, full)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of an archive, after its header was held against the bytes the archive holds for it."""
    shape = check_member(archive, info)
    if math.prod(shape) > 8 * MAX_POINTS:
        raise Unreadable(f"expected at most {MAX_POINTS} points, got {info.filename} of shape {shape}")
    with archive.open(info) as file:
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    if found.dtype.kind not in "biuf":
        raise Unreadable(f"expected plain numbers in {info.filename}, got {found.dtype} of shape {shape}")
    return found


_READERS: Mapping[str, Callable[[Path], _Raw]] = {
    ".bin": _read_bin,
    ".pcd.bin": _read_nuscenes,
    ".pcd": _read_pcd,
    ".ply": _read_ply,
    ".npz": _read_npz,
}


# --------------------------------------------------------------------------------------------------------------------
# Checks that hold for every format
# --------------------------------------------------------------------------------------------------------------------


@np.errstate(invalid="ignore", over="ignore")  # damaged files hold signalling NaN; they are refused below
def _checked(raw: _Raw, intensity_scale: float | None) -> Scan:
    names = tuple(raw.columns)
    if not {"x", "y", "z"} <= set(names):
        raise Unreadable(f"expected the columns x, y, z, got {', '.join(names) or 'none'}")
    xyz = np.stack([raw.columns[axis] for axis in "xyz"], axis=1).astype(np.float64)
    if len(xyz) == 0:
        raise Unreadable("expected points, got a scan of 0 points")
    intensity = raw.columns.get("intensity", np.zeros(len(xyz), np.float32))
    full = _full_intensity(intensity, raw.default_scale) if intensity_scale is None else intensity_scale
    kept = _finite_rows(xyz, intensity, raw)
    _check_coordinates(xyz[kept])
    kept &= (xyz != 0).any(axis=1)
    if not kept.any():
        raise Unreadable(f"expected points with a return, got {len(xyz)} rows, all zero or not finite")
    scaled = _scaled(intensity[kept].astype(np.float64), full)
    points = np.concatenate((xyz[kept], scaled[:, None]), axis=1).astype(np.float32)
    extra = {n: raw.columns[n][kept].astype(np.float32) for n in names if n not in ("x", "y", "z", "intensity")}
    return Scan(points, int((~kept).sum()), raw.format, names, extra)


def _finite_rows(xyz: NDArray[np.float64], intensity: NDArray[Any], raw: _Raw) -> NDArray[np.bool_]:
    """Which rows are finite. Organised clouds mark beams without return by NaN; elsewhere NaN means a damaged file."""
    finite = np.isfinite(xyz).all(axis=1) & np.isfinite(intensity.astype(np.float64))
    bad = len(finite) - int(finite.sum())
    if bad and not raw.drops_invalid:
        raise Unreadable(f"expected finite numbers, got {bad} of {len(finite)} rows with NaN or inf")
    return finite


def _check_coordinates(xyz: NDArray[np.float64]) -> None:
    if xyz.size == 0:
        return
    size = np.abs(xyz)
    if (largest := size.max()) > MAX_COORDINATE_M:
        raise Unreadable(
            f"expected coordinates within {MAX_COORDINATE_M:.0f} m of the sensor, got {largest:.3g} "
            f"(wrong record size, wrong byte order, or map coordinates)"
        )
    tiny = int(((size > 0) & (size < 1e-20)).sum())
    if tiny > 0.001 * size.size:
        raise Unreadable(
            f"expected coordinates in metres, got {tiny} of {size.size} below 1e-20 (wrong record size or byte order)"
        )


def _full_intensity(intensity: NDArray[Any], default: float | None) -> float:
    if default is not None:
        return default
    return float(np.iinfo(intensity.dtype).max) if intensity.dtype.kind in "iu" else 1.0


def _scaled(intensity: NDArray[np.float64], full: float) -> NDArray[np.float64]:
    low, high = intensity.min(), intensity.max()
    if low < 0 or high > full * 1.001:
        raise Unreadable(
            f"expected intensity in 0..{full:g}, got {low:.4g}..{high:.4g}; "
            f"if the file is sound, give data.intensity_scale=255 or whatever the sensor's full value is"
        )
    return np.minimum(intensity / full, 1.0)
