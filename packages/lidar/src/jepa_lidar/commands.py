"""Commands of the LiDAR modality: ``jepa data view <scan>``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_core.contracts import BadSample
from jepa_core.errors import UserError


def add_view(subparsers: Any) -> None:
    """Adds ``view`` to the sub-commands of ``jepa data``."""
    parser = subparsers.add_parser("view", help="draw a LiDAR scan: bird's-eye view, range image, boxes if any")
    parser.add_argument("scan", type=Path, help="a scan: .bin, .pcd.bin, .pcd, .ply or .npz")
    parser.add_argument("--out", type=Path, default=None, help="picture to write (default: <scan>.png in this folder)")
    parser.add_argument("--window", action="store_true", help="open an interactive window (needs the extra open3d)")
    parser.set_defaults(run=view)


def view(args: argparse.Namespace) -> int:
    """Writes the picture, or opens the window."""
    from jepa_lidar.view import load_for_view, scan_figure, show_interactive

    try:
        points, boxes = load_for_view(args.scan)
    except (BadSample, OSError) as error:
        raise UserError(f"view: {error}") from None
    if args.window:
        try:
            show_interactive(points, boxes)
        except ValueError as error:
            raise UserError(str(error)) from None
        return 0
    out: Path = args.out or Path(args.scan.name).with_suffix(".png")
    count = "no boxes" if boxes is None else f"{len(boxes)} boxes"
    try:
        out.write_bytes(scan_figure(points, boxes, f"{args.scan.name}: {len(points):,} points, {count}"))
    except OSError as error:
        raise UserError(f"view: cannot write {out}: {error.strerror}; choose another path with --out") from None
    print(f"wrote {out}")
    return 0
