"""LiDAR probe with every control: trains quickstart and the occupancy control, probes both beside what never learned.

    python benchmarks/lidar/probe_table.py run --data simulated --seeds 0 1 2
    python benchmarks/lidar/probe_table.py run --data ../shared/data/lidar/kitti_raw_mini --seeds 0 1 2
    python benchmarks/lidar/probe_table.py run --recipe small_long --control none --seeds 0
    python benchmarks/lidar/probe_table.py table

``run`` writes one JSON file a seed into ``results/``; ``table`` writes ``PROBE.md`` from all of them. Nothing is chosen
on the test scans: recipes are fixed before, regularisation is a constant.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import cast

import torch

from jepa_core.config import compose
from jepa_core.contracts import Measurement, Method
from jepa_lidar.geometry import GRIDS
from jepa_lidar.modality import MODALITY, build_method
from jepa_lidar.probe import AP, AP_MAP, AP_RAW, SPAN, CellProbe, calibrate_batch_norm
from jepa_lidar.settings import LidarRun
from jepa_lidar.sources import probe_split

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from common import hardware, spread, train  # noqa: E402  # beside the benchmarks, in no package

CPU = torch.device("cpu")
COLUMNS = (AP, AP_MAP, AP_RAW, SPAN)
DIFFERENCES = (
    ("trained", AP, "untrained", AP),
    ("trained", AP, "untrained, batch norm calibrated", AP),
    ("trained", AP_MAP, "untrained", AP_MAP),
    ("trained", AP_MAP, "untrained, batch norm calibrated", AP_MAP),
    ("trained", AP, "raw", AP),
    ("trained", AP, "occupancy", AP),
    ("trained", AP_RAW, "untrained", AP_RAW),
    ("trained", AP_RAW, "raw", AP),
    ("trained", AP_RAW, "occupancy", AP_RAW),
)


def config_for(data: str, recipe: str, seed: int, overrides: list[str]) -> LidarRun:
    """The recipe as a user would run it, without its final probe (this script probes)."""
    given = [f"data.root={data}", f"seed={seed}", "probe.enabled=false", *overrides]
    return compose(LidarRun, MODALITY.recipes / f"{recipe}.yaml", given)


def run_seed(data: str, recipe: str, control: str, seed: int, runs: Path, overrides: list[str]) -> dict[str, object]:
    """All rows and paired differences of one seed; ``control`` is a recipe, or ``none``."""
    config = config_for(data, recipe, seed, overrides)
    torch.manual_seed(seed)
    untrained = cast(Method, build_method(config).eval())
    name = Path(data).name
    trained, cost = train(config, MODALITY, runs, f"{name}-{recipe}-{seed}")
    costs, others = {"trained": cost}, {}
    if control != "none":
        others[control], costs[control] = train(
            config_for(data, control, seed, overrides), MODALITY, runs, f"{name}-{control}-{seed}"
        )
    split = probe_split(config)
    assert split is not None, "nothing to probe with"
    probe = CellProbe(split, GRIDS[config.data.grid])
    probe.add_raw()
    probe.add("untrained", untrained, CPU)
    probe.add("untrained, batch norm calibrated", calibrate_batch_norm(untrained, split.train, CPU), CPU)
    probe.add("trained", trained, CPU)
    for other, method in others.items():
        probe.add(other, method, CPU)
    differences = {
        f"{a} ({b}) - {c} ({d})": vars(probe.difference((a, b), (c, d)))
        for a, b, c, d in DIFFERENCES
        if c in probe.rows
    }
    rows = {name: {column: vars(found) for column, found in row.items()} for name, row in probe.rows.items()}
    return {
        "data": name,
        "recipe": recipe,
        "seed": seed,
        "overrides": overrides,
        "n": len(probe.units),
        "note": split.note,
        "rows": rows,
        "differences": differences,
        "cost": costs,
        "hardware": hardware(),
    }


def run(args: argparse.Namespace) -> None:
    """One JSON file a seed."""
    (HERE / "results").mkdir(exist_ok=True)
    for seed in args.seeds:
        start = time.time()
        found = run_seed(args.data, args.recipe, args.control, seed, args.runs, args.overrides)
        path = HERE / "results" / f"{found['data']}-{args.recipe}-seed{seed}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"wrote {path.name} after {time.time() - start:.0f} s")


def table(args: argparse.Namespace) -> None:
    """PROBE.md from every result: mean over seeds and range, differences with the paired error of each seed."""
    results = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
    lines = [
        "# LiDAR probe, with controls", "",
        "Written by `python benchmarks/lidar/probe_table.py table`; each block by the `run` command in that script.",
        "Mean over seeds, range in brackets. AP: average precision of `object point in this occupied cell?`; raw: 72 "
        "statistics of the 3 x 3 cells around; differences carry the paired bootstrap error of each seed.", "",
    ]  # fmt: skip
    for data, recipe in sorted({(r["data"], r["recipe"]) for r in results}, reverse=True):
        lines += block(data, recipe, [r for r in results if (r["data"], r["recipe"]) == (data, recipe)])
    (HERE / "PROBE.md").write_text("\n".join(lines) + "\n")


def block(data: str, recipe: str, group: list[dict]) -> list[str]:  # type: ignore[type-arg]  # JSON
    """The tables of one data set."""
    seeds = ", ".join(str(r["seed"]) for r in group)
    cost = "; ".join(
        f"{name} {statistics.mean(r['cost'][name]['seconds'] for r in group):.0f} s" for name in group[0]["cost"]
    )
    lines = [
        f"## {data}, recipe {recipe}",
        "",
        f"Seeds {seeds}; {group[0]['cost']['trained']['steps']} steps; settings given: "
        f"{' '.join(group[0]['overrides']) or 'none'}. {group[0]['hardware']}. Training took {cost} (mean over seeds). "
        f"{group[0]['n']} test cells: {group[0]['note']}. Verdicts: "
        + "; ".join(r["cost"]["trained"]["verdict"] for r in group)
        + ".",
        "",
        "| row | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS),
    ]  # fmt: skip
    for name in group[0]["rows"]:
        cells = [
            spread([r["rows"][name][c]["value"] for r in group]) if c in group[0]["rows"][name] else "" for c in COLUMNS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| difference | " + " | ".join(f"seed {r['seed']}" for r in group) + " |",
        "|---|" + "---|" * len(group),
    ]
    for name in group[0]["differences"]:
        found = [Measurement(**r["differences"][name]) for r in group]
        lines.append(f"| {name} | " + " | ".join(f"{m.value:+.3f} ± {m.stderr:.3f}" for m in found) + " |")
    return [*lines, ""]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--data", default="simulated", help="simulated, or a folder of scans")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    runner.add_argument("--recipe", default="quickstart")
    runner.add_argument("--control", default="occupancy", help="a recipe, or none")
    runner.add_argument("overrides", nargs="*", help="settings a.b=c, for both recipes")
    runner.set_defaults(run=run)
    commands.add_parser("table").set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
