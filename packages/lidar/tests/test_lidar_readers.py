"""Every format reads back what was written; every damaged file is refused in one line with path and sizes."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement
from pypcd4 import Encoding, PointCloud

from jepa_core.contracts import BadSample
from jepa_lidar.readers import read_labels, read_scan, scan_format

P = 123


def points(count: int = P) -> np.ndarray:
    rng = np.random.default_rng(1)
    xyz = rng.uniform(-40, 40, (count, 3)).round(3)
    return np.concatenate((xyz, rng.integers(0, 100, (count, 1)) / 100), axis=1).astype(np.float32)


def kitti(table: np.ndarray) -> bytes:
    return table.astype("<f4").tobytes()


def nuscenes(table: np.ndarray) -> bytes:
    ring = np.arange(len(table))[:, None] % 32
    return np.concatenate((table[:, :3], table[:, 3:] * 255, ring), axis=1).astype("<f4").tobytes()


def pcd(table: np.ndarray, encoding: Encoding) -> bytes:
    buffer = io.BytesIO()
    PointCloud.from_xyzi_points(table).save(buffer, encoding=encoding)
    return buffer.getvalue()


def ply(table: np.ndarray, text: bool = False, order: str = "<") -> bytes:
    names = ("x", "y", "z", "intensity")
    rows = np.zeros(len(table), dtype=[(name, "f4") for name in names])
    for name, column in zip(names, table.T, strict=True):
        rows[name] = column
    buffer = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], text=text, byte_order=order).write(buffer)
    return buffer.getvalue()


def npz(table: np.ndarray, **other: object) -> bytes:
    buffer = io.BytesIO()
    xyz = np.round(table[:, :3].T / 0.004).astype(np.int16)
    arrays: dict[str, Any] = {
        "xyz": xyz,
        "intensity": np.round(table[:, 3] * 100).astype(np.uint8),
        "scale": np.float32(0.004),
    }
    arrays.update(other)
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


WRITERS = {
    "k.bin": kitti,
    "n.pcd.bin": nuscenes,
    "ascii.pcd": lambda t: pcd(t, Encoding.ASCII),
    "binary.pcd": lambda t: pcd(t, Encoding.BINARY),
    "packed.PCD": lambda t: pcd(t, Encoding.BINARY_COMPRESSED),
    "little.ply": ply,
    "big.ply": lambda t: ply(t, order=">"),
    "text.ply": lambda t: ply(t, text=True),
    "compact.npz": npz,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("count", [1, P, 160])
def test_round_trip(tmp_path: Path, name: str, count: int) -> None:
    table = points(count)
    (tmp_path / name).write_bytes(WRITERS[name](table))
    scan = read_scan(tmp_path / name)
    assert scan.points.dtype == np.float32 and scan.dropped == 0
    np.testing.assert_allclose(scan.points, table, atol=2.1e-3 if name.endswith("npz") else 1e-5)
    np.testing.assert_array_equal(scan.columns(("x", "intensity")), scan.points[:, [0, 3]])


def test_stride_is_decided_by_values_when_the_size_allows_both(tmp_path: Path) -> None:
    table = points(160)
    for name, raw in (("k.bin", kitti(table)), ("n.bin", nuscenes(table)), ("n.pcd.bin", nuscenes(table))):
        (tmp_path / name).write_bytes(raw)
        assert len(raw) % 80 == 0
        scan = read_scan(tmp_path / name)
        assert scan.format == ("kitti .bin" if name == "k.bin" else "nuscenes .pcd.bin")
        np.testing.assert_allclose(scan.points, table, atol=1e-5)


def header(**changes: str) -> bytes:
    lines = dict(FIELDS="x y z intensity", SIZE="4 4 4 4", TYPE="F F F F", COUNT="1 1 1 1", WIDTH=str(P), HEIGHT="1")
    lines |= {"POINTS": str(P), "DATA": "binary"} | changes
    text = "# .PCD v0.7\nVERSION 0.7\n" + "".join(f"{key} {value}\n" for key, value in lines.items() if value)
    return text.encode()


def ply_header(count: int, names: str = "xyz", kind: str = "binary_little_endian") -> bytes:
    properties = "".join(f"property float {n}\n" for n in names)
    return f"ply\nformat {kind} 1.0\nelement vertex {count}\n{properties}end_header\n".encode()


def npy_lie() -> bytes:
    """An archive whose xyz claims more points than it holds."""
    array = io.BytesIO()
    np.save(array, np.zeros((3, 1), np.int16))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xyz.npy", array.getvalue().replace(b"(3, 1)", b"(9, 9)"))
    return buffer.getvalue()


def with_row(row: list[float]) -> np.ndarray:
    table = points()
    table[5] = row
    return table


GOOD, BODY = points(), points().tobytes()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n"
CORRUPT = {
    "truncated kitti": ("a.bin", kitti(GOOD)[:-7], "16 bytes.*1961 bytes = 122 records and 9"),
    "truncated nuscenes": ("a.pcd.bin", nuscenes(GOOD)[:-7], "20 bytes.*2453 bytes"),
    "kitti named nuscenes": ("a.pcd.bin", kitti(points(160)), "ring numbers"),
    "empty": ("a.bin", b"", "0 bytes"),
    "nan": ("a.bin", kitti(with_row([np.nan, 0, 0, 0])), "1 of 123 rows with NaN"),
    "inf": ("a.bin", kitti(with_row([1, np.inf, 0, 0])), "NaN or inf"),
    "zeros": ("a.bin", bytes(1600), "100 rows, all zero"),
    "zeros pcd": ("a.pcd", header() + bytes(16 * P), "all zero"),
    "all nan pcd": ("a.pcd", header() + np.full((P, 4), np.nan, "<f4").tobytes(), "not finite"),
    "wrong byte order": ("a.bin", GOOD.astype(">f4").tobytes(), "byte order"),
    "map coordinates": ("a.bin", kitti(GOOD + np.array([5e5, 0, 0, 0])), "within 10000 m.*5e\\+05"),
    "other intensity": ("a.bin", kitti(GOOD * np.array([1, 1, 1, 255])), "0..1, got.*intensity_scale"),
    "negative intensity": ("a.bin", kitti(GOOD * np.array([1, 1, 1, -1])), "0..1, got -"),
    "lfs pointer": ("a.bin", LFS, "Git LFS"),
    "lfs pointer npz": ("a.npz", LFS, "Git LFS"),
    "pcd named bin": ("a.bin", pcd(GOOD, Encoding.BINARY), "got a PCD file"),
    "zip named ply": ("a.ply", npz(GOOD), "got a zip archive"),
    "web page": ("a.pcd", b"<!DOCTYPE html><html></html>", "web page"),
    "bin named pcd": ("a.pcd", kitti(GOOD), "DATA line"),
    "unknown ending": ("a.las", b"LASF", "'.las'"),
    "no data line": ("a.pcd", header(DATA="") + BODY, "DATA line"),
    "header cut": ("a.pcd", header()[:70], "DATA line"),
    "points lie": ("a.pcd", header(POINTS="999", WIDTH="999") + BODY, "15984 bytes.*1968 bytes left"),
    "huge points": ("a.pcd", header(POINTS="9" * 18, WIDTH="9" * 18) + BODY, "1 to 50000000"),
    "width times height": ("a.pcd", header(HEIGHT="2") + BODY, "123 \\* 2 and 123"),
    "no width": ("a.pcd", header(WIDTH="") + BODY, "WIDTH"),
    "negative points": ("a.pcd", header(POINTS="-5") + BODY, "whole numbers"),
    "unknown type": ("a.pcd", header(TYPE="F F F Q") + BODY, "TYPE Q"),
    "unknown size": ("a.pcd", header(SIZE="4 4 3 4") + BODY, "SIZE 3"),
    "lengths differ": ("a.pcd", header(SIZE="4 4 4") + BODY, "one SIZE"),
    "no z": ("a.pcd", header(FIELDS="x y w intensity") + BODY, "columns x, y, z"),
    "z of count 2": ("a.pcd", header(COUNT="1 1 2 1") + BODY * 2, "one PCD field z"),
    "unknown data": ("a.pcd", header(DATA="zstd") + BODY, "got zstd"),
    "short ascii": ("a.pcd", header(DATA="ascii") + b"1 2 3 0.5\n" * 9, "123 rows, got 9"),
    "ragged ascii": ("a.pcd", header(DATA="ascii") + b"1 2 3 0.5\n" * 122 + b"1 2\n", "got 2 in row 122"),
    "words ascii": ("a.pcd", header(DATA="ascii") + b"1 2 3 four\n" * P, "do not decode"),
    "packed lie": (
        "a.pcd",
        header(DATA="binary_compressed") + struct.pack("<II", 4, 2**32 - 1) + b"abcd",
        "4294967295",
    ),
    "packed short": ("a.pcd", header(DATA="binary_compressed") + struct.pack("<II", 900, P * 16), "900 compressed"),
    "packed bomb": ("a.pcd", header(DATA="binary_compressed") + struct.pack("<II", 4, P * 16) + b"abcd", "at most 90"),
    "packed noise": (
        "a.pcd",
        header(DATA="binary_compressed") + struct.pack("<II", 99, P * 16) + b"\xf0" * 99,
        "decode",
    ),
    "ply without z": ("a.ply", ply_header(P, "xy") + BODY, "x, y, z"),
    "ply lie": ("a.ply", ply_header(10**9) + BODY, "1 to 50000000"),
    "ply short": ("a.ply", ply_header(400) + BODY, "4800 bytes.*1968 bytes left"),
    "ply ascii short": ("a.ply", ply_header(400, kind="ascii") + b"1 2 3\n", "2399 bytes"),
    "ply no end": ("a.ply", ply_header(P)[:-12], "end_header"),
    "ply no vertex": ("a.ply", ply_header(P).replace(b"vertex", b"face"), "no vertex"),
    "ply bad type": ("a.ply", ply_header(P).replace(b"float y", b"quux y") + BODY, "known type"),
    "npz without scale": ("a.npz", npz(GOOD, scale=np.zeros(2)), "scale \\(\\)"),
    "npz mismatch": ("a.npz", npz(GOOD, intensity=np.zeros(7, np.uint8)), "as many intensities"),
    "npz flat": ("a.npz", npz(GOOD, xyz=np.zeros(9, np.int16)), "xyz \\(3, N\\)"),
    "npz pickled": ("a.npz", npz(GOOD, xyz=np.array([{}], dtype=object)), "Python objects"),
    "npz cut": ("a.npz", npz(GOOD)[:-50], "broken archive"),
    "npz lie": ("a.npz", npy_lie(), "162 bytes.*got 6"),
    "npz nan": ("a.npz", npz(GOOD, scale=np.float32(np.nan)), "NaN"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, raw, message = CORRUPT[case]
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(BadSample, match=message) as caught:
        read_scan(tmp_path / name)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(str(tmp_path / name)) and "expected" in text and "got" in text


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for name in ("none.bin", "folder.bin"):
        (tmp_path / "folder.bin").mkdir(exist_ok=True)
        with pytest.raises(BadSample, match="expected"):
            read_scan(tmp_path / name)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(WRITERS)))
def test_no_damage_raises_anything_else(tmp_path: Path, data: st.DataObject, name: str) -> None:
    raw = bytearray(WRITERS[name](points(20)))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 400)))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        scan = read_scan(tmp_path / name)
    except BadSample as reason:
        assert "\n" not in str(reason)
    else:
        assert np.isfinite(scan.points).all() and len(scan.points) and 0 <= scan.points[:, 3].min() <= 1


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "opened"

    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(marker),)

    (tmp_path / "a.npz").write_bytes(npz(GOOD, xyz=np.array([Bomb()], dtype=object)))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(BadSample):
            read_scan(tmp_path / name)
    assert not marker.exists()


def test_organised_pcd_drops_and_counts_beams_without_return(tmp_path: Path) -> None:
    table = points(120)
    table[::10, :3] = np.nan
    table[5] = 0
    (tmp_path / "a.pcd").write_bytes(header(WIDTH="12", HEIGHT="10", POINTS="120") + table.tobytes())
    scan = read_scan(tmp_path / "a.pcd")
    assert scan.dropped == 13 and len(scan.points) == 107 and np.isfinite(scan.points).all()


def test_pcd_with_padding_repeats_and_integer_intensity(tmp_path: Path) -> None:
    kinds = [
        ("_", "u1", 3),
        ("x", "<f8"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("normal", "<f4", 3),
        ("I", "u1"),
        ("ring", "<u2"),
    ]
    rows = np.zeros(P, dtype=kinds)
    for axis, column in zip("xyz", points().T, strict=False):
        rows[axis] = column
    rows["I"], rows["ring"] = np.arange(P), 7
    head = header(FIELDS="_ x y z normal I ring", SIZE="1 8 4 4 4 1 2", TYPE="U F F F F U U", COUNT="3 1 1 1 3 1 1")
    (tmp_path / "a.pcd").write_bytes(head + rows.tobytes())
    scan = read_scan(tmp_path / "a.pcd")
    np.testing.assert_allclose(scan.points[:, :3], points()[:, :3])
    np.testing.assert_allclose(scan.points[:, 3], np.arange(P) / 255, atol=1e-7)
    assert (scan.extra["ring"] == 7).all() and "normal" not in scan.extra


def test_ascii_pcd_may_be_spaced_freely(tmp_path: Path) -> None:
    rows = "".join("  ".join(map(str, row)) + " \t\r\n" for row in points().tolist())
    (tmp_path / "a.pcd").write_bytes(header(DATA="ascii", COUNT="") + rows.encode())
    np.testing.assert_allclose(read_scan(tmp_path / "a.pcd").points, points(), atol=1e-6)


def test_intensity_scale_is_the_users_word(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(kitti(points() * np.array([1, 1, 1, 255])))
    np.testing.assert_allclose(read_scan(tmp_path / "a.bin", intensity_scale=255).points, points(), atol=1e-6)


def test_labels_pair_with_points(tmp_path: Path) -> None:
    path = tmp_path / "a.label"
    path.write_bytes(np.array([40 | (7 << 16), 10], dtype="<u4").tobytes())
    classes, instances = read_labels(path, 2)
    assert classes.tolist() == [40, 10] and instances.tolist() == [7, 0]
    with pytest.raises(BadSample, match="12 bytes.*3 points.*got 8"):
        read_labels(path, 3)


def test_format_samples_of_a_real_sensor() -> None:
    folder = Path(os.environ.get("JEPA_DATA", "")) / "lidar/kitti_raw_mini"
    if "JEPA_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("JEPA_DATA/lidar/kitti_raw_mini is not there")
    binary = read_scan(folder / "formats/kitti_000076.bin")
    ascii_rows = read_scan(folder / "formats/ascii_000076_sub60.pcd")
    full = read_scan(folder / "drive_0005/scans/000076.npz")
    assert len(binary.points) + binary.dropped == 124045 and len(ascii_rows.points) == 2068
    ahead = binary.points[(binary.points[:, 0] >= 0) & (np.abs(binary.points[:, 1]) <= 51.2)]
    assert abs(len(ahead) - len(full.points)) < 50
    # Every ascii row is one of the scan's points, with its reflectance.
    keys = {tuple(row) for row in np.round(binary.points, 2).tolist()}
    assert np.mean([tuple(row) in keys for row in np.round(ascii_rows.points, 2).tolist()]) > 0.99
    assert scan_format("A.PCD.BIN") == ".pcd.bin"
