"""``jepa data view`` and the mask picture: PNG files of what they name, and one line for whatever cannot be drawn."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from lidar_cases import Scan, batch_of, built, configured, scan_of_cells
from matplotlib import image

from jepa_core.cli import main
from jepa_core.contracts import Picture
from jepa_core.errors import UserError
from jepa_lidar.commands import add_view
from jepa_lidar.modality import MODALITY

PNG = b"\x89PNG\r\n\x1a\n"


def view(*arguments: str | Path) -> int:
    """``view`` as ``jepa data`` calls it."""
    parser = argparse.ArgumentParser()
    add_view(parser.add_subparsers())
    parsed = parser.parse_args(["view", *map(str, arguments)])
    return int(parsed.run(parsed))


def write(path: Path, scan: Scan) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scan.tofile(path)
    return path


def test_view_writes_a_picture_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write(tmp_path / "drive/scans/000003.bin", scan_of_cells(200))
    boxes = "frame,class,x,y,z,length,width,height,yaw\n3,Car,10,0,-1,4,2,1.5,0\n"
    (tmp_path / "drive/boxes_lidar.csv").write_text(boxes)
    monkeypatch.chdir(tmp_path)
    assert view(scan) == 0 and capsys.readouterr().out == "wrote 000003.png\n"
    assert (tmp_path / "000003.png").read_bytes().startswith(PNG)
    assert view(scan, "--out", tmp_path / "other.png") == 0
    assert main(["data", "view", str(scan), "--out", "third.png"]) == 0
    assert (tmp_path / "other.png").read_bytes() == (tmp_path / "third.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("torn.bin", b"x" * 37, "got 37 bytes"),
        ("empty.pcd", b"", "empty file"),
        ("scan.las", b"LASF", "'.las'"),
        ("pointer.npz", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("folder", None, "expected a scan"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        view(path, "--out", tmp_path / "x.png")
    message = str(raised.value)
    assert words in message and str(path) in message and "\n" not in message and raised.value.exit_code == 2
    assert not (tmp_path / "x.png").exists()


def test_a_broken_table_and_a_missing_folder_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scan = write(tmp_path / "scans/1.bin", scan_of_cells(20))
    with pytest.raises(UserError, match="cannot write .*--out"):
        view(scan, "--out", tmp_path / "nowhere/x.png")
    (tmp_path / "boxes_lidar.csv").write_text("frame\n1\n")
    assert main(["data", "view", str(scan), "--out", str(tmp_path / "x.png")]) == 2
    said = capfd.readouterr().err
    assert said.startswith("jepa: ") and "boxes_lidar.csv" in said and len(said.splitlines()) == 1


def mask_picture(scan: Scan) -> Picture:
    config = configured("quickstart")
    (picture,) = MODALITY.pictures(config, built(config), batch_of([scan]))
    return picture


def test_the_mask_picture_shows_and_counts_all_four_states() -> None:
    picture = mask_picture(scan_of_cells(600))
    assert picture.png.startswith(PNG) and "scan-0" in picture.caption
    counts = [int(word) for word in picture.caption.split(": ")[1].replace(",", "").split() if word.isdigit()]
    assert counts[:2] == [300, 300] and sum(counts) == 64 * 64
    pixels = image.imread(io.BytesIO(picture.png), format="png")[..., :3]
    for colour in ("#1f6feb", "#f0883e", "#eef1f4", "#d5dae0"):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels - rgb).max(axis=2) < 0.01).sum() > 200, colour


def test_the_mask_picture_of_a_scan_without_points() -> None:
    assert mask_picture(scan_of_cells(0)).png.startswith(PNG)
