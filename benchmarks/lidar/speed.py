"""Speed of the LiDAR parts on this machine: simulator, voxelisation, training steps with both sparse backends.

    python benchmarks/lidar/speed.py --threads 1

The two backends take turns (A B A B ...) on the same batches and weights, so that their ratio holds when the machine's
speed drifts; their losses are asserted equal first. Writes ``SPEED.md``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from probe_table import hardware

from jepa_core.config import compose
from jepa_core.contracts import Batch
from jepa_lidar.geometry import GRIDS
from jepa_lidar.modality import MODALITY, build_method
from jepa_lidar.settings import LidarRun
from jepa_lidar.simulate import Sensor, simulate_scene
from jepa_lidar.sources import training_source
from jepa_lidar.voxels import join_scans, voxelise

HERE = Path(__file__).parent


def seconds(work: Callable[[], object]) -> float:
    """One timed call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def repeated(work: Callable[[], object], runs: int) -> list[float]:
    """Timed calls after one warm-up."""
    work()
    return [seconds(work) for _ in range(runs)]


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Median and range."""
    low, middle, high = min(values) * scale, statistics.median(values) * scale, max(values) * scale
    return f"{middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def simulator_rows() -> list[str]:
    """Scans per second of both sensors."""
    rows = []
    for beams in (64, 32):
        sensor = Sensor(azimuths=512, beams=beams)
        took = repeated(lambda sensor=sensor: [simulate_scene(seed, sensor) for seed in range(20)], 5)  # type: ignore[misc]  # bound now
        rows.append(f"| simulator, {beams} beams x 512 columns, scans/s | {spread([20 / t for t in took], digits=0)} |")
    return rows


def step_times(recipe: str, batch_size: int, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of forward and backward of one batch with (torch, spconv), in turns."""
    methods = {}
    for backend in ("torch", "spconv"):
        config = compose(
            LidarRun,
            MODALITY.recipes / f"{recipe}.yaml",
            ["data.root=simulated", "trainer.device=cpu", f"lidar.sparse_backend={backend}"],
        )
        torch.manual_seed(0)
        methods[backend] = build_method(config).train()
    source = training_source(config)
    batch = Batch(
        source.collate([source.load(i, i) for i in range(batch_size)]),
        torch.arange(batch_size),
        tuple(map(str, range(batch_size))),
    )

    def step(backend: str) -> float:
        loss = methods[backend](batch, 0).total
        loss.backward()
        return float(loss.detach())

    ours, theirs = step("torch"), step("spconv")
    assert abs(ours - theirs) < 1e-4, f"not the same mathematics: loss {ours} and {theirs}"
    times: dict[str, list[float]] = {"torch": [], "spconv": []}
    for _ in range(runs):
        for backend, found in times.items():
            found.append(seconds(lambda backend=backend: step(backend)))  # type: ignore[misc]  # bound now
    return times["torch"], times["spconv"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = [
        "# LiDAR speed on a CPU",
        "",
        f"`python benchmarks/lidar/speed.py --threads {args.threads}`. {hardware()}.",
    ]
    lines += ["Median and range.", "", "| what | figure |", "|---|---|", *simulator_rows()]
    scene = simulate_scene(0, Sensor())
    points = join_scans([scene.points] * 4)
    took = repeated(lambda: voxelise(points, GRIDS["small"], None, None, None), 9)
    lines.append(f"| voxelisation of 4 scans, ms | {spread(took, 1000)} |")
    for recipe, batch_size in (("quickstart", 4), ("ad_l_jepa", 1)):
        ours, theirs = step_times(recipe, batch_size, args.runs)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        lines.append(f"| {recipe}, batch {batch_size}, forward + backward, own backend, s | {spread(ours, digits=3)} |")
        lines.append(f"| the same with spconv, s | {spread(theirs, digits=3)} |")
        lines.append(f"| own / spconv | {spread(ratios, digits=2)} |")
    (HERE / "SPEED.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
