"""Speed of an AD-L-JEPA training step against the released code on spconv, in turns, from the same weights and mask.

    python benchmarks/speed/lidar.py --reference DIR [--threads 1 2] [--device cuda]

DIR is a checkout of HaoranZhuExplorer/AD-L-JEPA-Release. Scans are those of ``data.root`` (``JEPA_DATA``, else
simulated). Both sides get the same voxels, weights, mask and cells; the losses of two steps are asserted equal, the
second after backward, clipping, optimiser and target update of the first. Writes ``LIDAR.md`` (``LIDAR_GPU.md``).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from alternate import Pair, Side, Timed, alternate, machine, spread  # noqa: E402  # beside this file

STAGES = ("forward", "context encoder", "target encoder", "predictor", "backward", "optimiser and target")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the work.
        theirs: what it is measured against.
        recipe: of our side.
        overrides: of our side.
        backend: of the other side, where it is our own step on spconv; None = the released code.
        batch: scans.
        tolerance: of the losses, relative.
    """

    name: str
    theirs: str
    recipe: str
    overrides: tuple[str, ...]
    backend: str | None
    batch: int
    tolerance: float


def rows(batch: int) -> list[Row]:
    """What is measured."""
    from lidar_ours import AS_RELEASED

    ours, released = "our step on spconv", "released code on spconv"
    return [
        Row("AD-L-JEPA step, KITTI grid, as released", released, "ad_l_jepa", AS_RELEASED, None, batch, 1e-4),
        Row("the recipe ad_l_jepa, KITTI grid", ours, "ad_l_jepa", (), "spconv", batch, 1e-4),
        Row("the recipe quickstart, small grid", ours, "quickstart", (), "spconv", 4, 1e-3),
    ]


def same_losses(tolerance: float) -> Any:
    """A check that both sides do the same mathematics."""

    def check(ours: Timed, theirs: Timed) -> None:
        for mine, other in zip(ours.facts["losses"], theirs.facts["losses"], strict=True):
            if not math.isclose(mine, other, rel_tol=tolerance):
                raise SystemExit(f"not the same mathematics: losses {ours.facts['losses']}, {theirs.facts['losses']}")

    return check


def measured(row: Row, given: argparse.Namespace, threads: int) -> Pair:
    """Both sides of a row in turns."""
    import lidar_ours

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "recipe": row.recipe,
            "overrides": [*row.overrides, "lidar.sparse_backend=torch"],
            "batch": row.batch,
            "device": given.device,
            "steps": given.steps,
            "exchange": str(Path(folder) / "start.safetensors"),
            "reference": str(given.reference),
        }
        other: Side
        if row.backend is None:
            lidar_ours.exchange(options, Path(options["exchange"]))
            options["voxels_given"] = True
            import lidar_reference

            other = Side("reference", lidar_reference.build, options, threads)
        else:
            own = {**options, "overrides": [*row.overrides, f"lidar.sparse_backend={row.backend}"]}
            other = Side(f"ours on {row.backend}", lidar_ours.build, own, threads)
        ours = Side("ours", lidar_ours.build, options, threads)
        return alternate(ours, other, given.turns, given.warm_up, same_losses(row.tolerance))


def line(row: Row, threads: int, pair: Pair) -> str:
    """A row of the table."""
    return f"| {row.name} | {row.theirs} | {row.batch} | {threads} | {spread(pair.ratios)} | {pair.memory:.2f} | same |"


def split(pair: Pair) -> str:
    """Each stage: its share of our step, and how many times as fast ours is there."""
    whole, cells = pair.ours.median(), []
    for stage in STAGES:
        mine, other = pair.ours.median(stage), pair.theirs.median(stage)
        cells.append(f"{mine / whole:.0%}, {other / mine:.2f}x" if mine and other else "")
    return " | ".join(cells)


def page(given: argparse.Namespace, found: list[tuple[Row, int, Pair]]) -> str:
    """The page: ratios, then stages."""
    command = f"python benchmarks/speed/lidar.py --reference DIR {' '.join(given.told)}".strip()
    lines = [
        "# Speed of the LiDAR step",
        "",
        f"`{command}`: {given.turns} turns after {given.warm_up}, {given.steps} steps each. "
        f"{machine(given.threads[0])}.",
        "",
        "Ours / reference in samples a second: median (range) of the turns. Memory: our peak over the reference's, "
        "each above what its process had after its imports. Losses of two steps were equal first.",
        "",
        "| work | against | scans | threads | speed | memory | mathematics |",
        "|---|---|---|---|---|---|---|",
        *(line(*each) for each in found),
        "",
        "Share of our step, and speed against the reference, by stage (both encoders and the predictor are parts of "
        "forward):",
        "",
        "| work | threads | " + " | ".join(STAGES) + " |",
        "|---|---|" + "---|" * len(STAGES),
        *(f"| {row.name} | {threads} | {split(pair)} |" for row, threads, pair in found),
        "",
    ]
    reading = HERE / "lidar_reading.md"
    return "\n".join(lines) + (reading.read_text(encoding="utf-8") if reading.exists() else "")


def stored(found: list[tuple[Row, int, Pair]]) -> list[Mapping[str, Any]]:
    """What later runs are compared with."""
    return [
        {"work": row.name, "threads": threads, "ratios": pair.ratios, "memory": pair.memory}
        for row, threads, pair in found
    ]


def main() -> None:
    """Measures, prints, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of AD-L-JEPA-Release; without it its row is left out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="scans of the KITTI grid")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", help="rows, counted from 0; no page is written")
    given = parser.parse_args()
    given.told = [
        f"--threads {' '.join(map(str, given.threads))}",
        f"--device {given.device}",
        f"--batch {given.batch}",
    ]
    if given.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("lidar.py --device cuda: there is no GPU here; run it on a machine that has one")
    found = []
    for threads in given.threads:
        for index, row in enumerate(rows(given.batch)):
            if (row.backend is None and given.reference is None) or (given.only and index not in given.only):
                continue
            pair = measured(row, given, threads)
            print(line(row, threads, pair), split(pair), sep="\n", flush=True)
            found.append((row, threads, pair))
    if not given.only:
        name = "LIDAR" if given.device == "cpu" else "LIDAR_GPU"
        (HERE / f"{name}.md").write_text(page(given, found), encoding="utf-8")
        (HERE / f"{name.lower()}.json").write_text(json.dumps(stored(found), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
