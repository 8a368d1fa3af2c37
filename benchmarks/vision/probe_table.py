"""Image probe with every control: trains a recipe and its masked autoencoder, probes both beside what never learned.

    python benchmarks/vision/probe_table.py run --data ../shared/data/images/clothing10 --seeds 0 1 2
    python benchmarks/vision/probe_table.py run --data ../shared/data/images/cifar10 --recipe cifar10 --seeds 0 1 2
    python benchmarks/vision/probe_table.py table

``run`` writes one JSON file a seed into ``results/``; ``table`` writes ``PROBE.md`` from all of them. Nothing is chosen
on the test images: recipes are fixed before, penalties by cross-validation inside the training split.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch

from jepa_core.config import compose
from jepa_core.contracts import Measurement
from jepa_core.methods.masked import MaskedPrediction
from jepa_vision.modality import MODALITY
from jepa_vision.probe import ImageProbe
from jepa_vision.settings import VisionRun
from jepa_vision.sources import images_of, size_of, splits_of

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from common import MASKED_AUTOENCODER, hardware, spread, train  # noqa: E402  # beside the benchmarks, in no package

Row = dict[str, Measurement]
COLUMNS = ("linear", "kNN", "linear, 2x2", "kNN, 2x2")
# Hand-made features on the same split, from the data's READMEs: what is worth knowing beside ours.
HAND_MADE = {
    "clothing10": "HOG: logistic regression .677, kNN .503; raw 16 x 16 pixels .409, .419",
    "cifar10": "all 50,000 training images, HOG + colour: logistic regression .589; HOG .524, kNN .485",
}


def config_for(data: str, recipe: str, seed: int, overrides: list[str]) -> VisionRun:
    """The recipe as a user would run it."""
    return compose(VisionRun, MODALITY.recipes / f"{recipe}.yaml", [f"data.root={data}", f"seed={seed}", *overrides])


def trained(config: VisionRun, runs: Path, name: str) -> tuple[MaskedPrediction, dict[str, Any]]:
    """Trained without the run's own probe: this script probes."""
    config.probe.enabled = False
    method, cost = train(config, MODALITY, runs, name)
    return cast(MaskedPrediction, method), cost


def run_seed(
    data: str, recipe: str, seed: int, runs: Path, overrides: list[str], raw: Row | None
) -> tuple[dict[str, Any], Row]:
    """All rows of one seed, and the row of the pictures themselves: ``raw``, where another seed has measured it."""
    config = config_for(data, recipe, seed, overrides)
    # Before training: without its probe a run would hold back nothing from data that name no test split.
    splits = splits_of(config, images_of(config))
    probe = ImageProbe(splits, size_of(config), config.probe, torch.device("cpu"))
    torch.manual_seed(seed)
    untrained = cast(MaskedPrediction, MODALITY.build(config)).eval()
    if raw is None:
        probe.add_raw()
    else:
        probe.rows["raw"] = raw
    probe.add("untrained", untrained)
    name, costs = Path(data).name, {}
    method, costs["trained"] = trained(config, runs, f"{name}-{recipe}-{seed}")
    probe.add("trained", method)
    control = config_for(data, recipe, seed, [*overrides, *MASKED_AUTOENCODER])
    method, costs["mae"] = trained(control, runs, f"{name}-{recipe}-mae-{seed}")
    probe.add("mae", method)
    rows = {row: {column: vars(found) for column, found in figures.items()} for row, figures in probe.rows.items()}
    found = {
        "data": name,
        "recipe": recipe,
        "seed": seed,
        "overrides": overrides,
        "n": len(probe.test.labels),
        "note": probe.table().note,
        "rows": rows,
        "cost": costs,
        "hardware": hardware(),
    }
    return found, probe.rows["raw"]


def run(args: argparse.Namespace) -> None:
    """One JSON file a seed."""
    (HERE / "results").mkdir(exist_ok=True)
    raw: Row | None = None
    for seed in args.seeds:
        start = time.time()
        found, raw = run_seed(args.data, args.recipe, seed, args.runs, args.overrides, raw)
        path = HERE / "results" / f"{found['data']}-{args.recipe}-seed{seed}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"wrote {path.name} after {time.time() - start:.0f} s")


def table(args: argparse.Namespace) -> None:
    """PROBE.md from every result: mean over seeds and range, differences with the error of each seed."""
    results = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*-seed*.json"))]
    lines = [
        "# Image probe, with controls", "",
        "Written by `python benchmarks/vision/probe_table.py table`; each block by the `run` command in that script.",
        "Accuracy on the data's own test split. Mean over seeds, range in brackets; a difference carries the error of "
        "two independent samples of images (the images are the same, so the true error is smaller).", "",
    ]  # fmt: skip
    for data, recipe in sorted({(r["data"], r["recipe"]) for r in results}):
        lines += block([r for r in results if (r["data"], r["recipe"]) == (data, recipe)])
    (HERE / "PROBE.md").write_text("\n".join(lines) + "\n")


def block(group: list[dict[str, Any]]) -> list[str]:
    """The tables of one data set and recipe."""
    first = group[0]
    seeds = ", ".join(str(r["seed"]) for r in group)
    cost = "; ".join(
        f"{name} {statistics.mean(r['cost'][name]['seconds'] for r in group):.0f} s" for name in first["cost"]
    )
    lines = [
        f"## {first['data']}, recipe {first['recipe']}",
        "",
        f"Seeds {seeds}; {first['cost']['trained']['steps']} steps; settings given: "
        f"{' '.join(first['overrides']) or 'none'}. {first['hardware']}. Training took {cost} (mean over seeds). "
        f"{first['note'].capitalize()}. Verdicts: " + "; ".join(r["cost"]["trained"]["verdict"] for r in group) + ".",
        "",
        *([f"Hand-made features: {HAND_MADE[first['data']]}.", ""] if first["data"] in HAND_MADE else []),
        "| row | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for row, figures in first["rows"].items():
        cells = [spread([r["rows"][row][c]["value"] for r in group]) if c in figures else "" for c in COLUMNS]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += ["", "| difference | " + " | ".join(f"seed {r['seed']}" for r in group) + " |"]
    lines.append("|---|" + "---|" * len(group))
    for other in (name for name in first["rows"] if name != "trained"):
        for column in (c for c in COLUMNS if c in first["rows"][other]):
            cells = [difference(r["rows"]["trained"][column], r["rows"][other][column]) for r in group]
            lines.append(f"| trained - {other}, {column} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def difference(a: dict[str, float], b: dict[str, float]) -> str:
    """``a - b`` with the error of two independent figures."""
    return f"{a['value'] - b['value']:+.3f} ± {math.hypot(a['stderr'], b['stderr']):.3f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--data", required=True, help="a folder of labelled images")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    runner.add_argument("--recipe", default="quickstart")
    runner.add_argument("overrides", nargs="*", help="settings a.b=c, for both recipes")
    runner.set_defaults(run=run)
    commands.add_parser("table").set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
