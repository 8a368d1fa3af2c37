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

from driver import Side, alternate_two, clock_for, machine  # noqa: E402  # beside this file
from tables import Measured, page, same_losses, store  # noqa: E402

STAGES = (
    "forward",
    "front end",
    "context encoder",
    "target encoder",
    "predictor",
    "backward",
    "optimiser and target",
)


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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of AD-L-JEPA-Release; without it its row is left out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="scans of the KITTI grid")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", help="rows, counted from 0; no page is written")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, writes the page."""
    given = arguments()
    if given.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("lidar.py --device cuda: there is no GPU here; run it on a machine that has one")
    found = []
    for threads in given.threads:
        for index, row in enumerate(rows(given.batch)):
            if (row.backend is None and given.reference is None) or (given.only and index not in given.only):
                continue
            found.append(measured(row, given, threads))
            print(found[-1].line(), found[-1].split(STAGES), sep="\n", flush=True)
    if given.only:
        return
    threads = " ".join(map(str, given.threads))
    command = f"python benchmarks/speed/lidar.py --reference DIR --threads {threads} --device {given.device}"
    how = f"`{command} --batch {given.batch} --turns {given.turns}`. {machine(given.threads[-1])}."
    name = "LIDAR" if given.device == "cpu" else "LIDAR_GPU"
    text = page("Speed of the LiDAR step", how, found, STAGES, HERE / f"{name.lower()}_reading.md")
    (HERE / f"{name}.md").write_text(text, encoding="utf-8")
    store(found, HERE / f"{name.lower()}.json")


if __name__ == "__main__":
    main()
