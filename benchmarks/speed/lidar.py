"""Speed of an AD-L-JEPA training step against the released code on spconv, in turns, from the same weights and mask.

    python benchmarks/speed/lidar.py --reference DIR [--threads 1 2] [--device cuda]

DIR is a checkout of HaoranZhuExplorer/AD-L-JEPA-Release. Scans are those of ``data.root`` (``JEPA_DATA``, else
simulated). Against the released code both sides get the same voxels, weights, mask and cells. Writes ``LIDAR.md``
(on a GPU ``LIDAR_GPU.md``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from driver import Side, alternate_two, clock_for  # noqa: E402  # beside this file
from rows import STAGES, arguments, check_device, measure_rows, write_page  # noqa: E402
from tables import Measured, same_losses  # noqa: E402


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        name: of the work.
        recipe: of our side.
        overrides: of our side.
        backend: of the other side, where it is our own step on spconv; None = the released code.
        batch: scans.
        tolerance: of the losses, relative.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    backend: str | None
    batch: int
    tolerance: float


def rows(batch: int) -> list[Row]:
    """The rows; ``batch`` is that of the KITTI grid."""
    from lidar_ours import AS_RELEASED

    return [
        Row("AD-L-JEPA step, KITTI grid, as released", "ad_l_jepa", AS_RELEASED, None, batch, 1e-4),
        Row("the recipe ad_l_jepa, KITTI grid", "ad_l_jepa", (), "spconv", batch, 1e-4),
        Row("the recipe quickstart, small grid", "quickstart", (), "spconv", 4, 1e-3),
    ]


def measured(row: Row, given: argparse.Namespace, threads: int) -> Measured:
    """Both sides of a row in turns."""
    clock = clock_for(threads, given.device)
    import lidar_ours

    # Against the released code, what a user gets: on a GPU that is spconv where it is installed.
    backend = "auto" if row.backend is None and given.device != "cpu" else "torch"
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "recipe": row.recipe,
            "overrides": [*row.overrides, f"lidar.sparse_backend={backend}"],
            "batch": row.batch,
            "device": given.device,
            "steps": given.steps,
            "exchange": str(Path(folder) / "start.safetensors"),
            "reference": str(given.reference),
        }
        if row.backend is None:
            import lidar_reference

            lidar_ours.exchange(options, Path(options["exchange"]))
            options["voxels_given"] = True
            other = Side("the released code on spconv", lidar_reference.build, options, threads, clock)
        else:
            own = {**options, "overrides": [*row.overrides, f"lidar.sparse_backend={row.backend}"]}
            other = Side(f"our step on {row.backend}", lidar_ours.build, own, threads, clock)
        ours = Side("ours", lidar_ours.build, options, threads, clock)
        pair = alternate_two(ours, other, given.turns, given.warm_up, same_losses(row.tolerance))
    return Measured(row.name, other.name, f"{row.batch} scans", threads, "same", pair)


def main() -> None:
    """Measures, prints, writes the page."""
    parser = arguments(__doc__, "AD-L-JEPA-Release", turns=5, warm_up=1)
    parser.add_argument("--batch", type=int, default=1, help="scans of the KITTI grid")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    given = parser.parse_args()
    check_device(given, "lidar.py")
    found = measure_rows(given, rows(given.batch), lambda row: row.backend is None, measured, STAGES)
    write_page(given, found, "lidar", "Speed of the LiDAR step", [f"--batch {given.batch}"], STAGES)


if __name__ == "__main__":
    main()
