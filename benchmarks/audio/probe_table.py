"""Sound probe over folds with every control: trains a recipe without each fold, probes it on that fold.

    python benchmarks/audio/probe_table.py run --data /data/esc10 --seeds 0 1 2
    python benchmarks/audio/probe_table.py run --data /data/fsdd --recipe speech data.label=digit data.fold=speaker
    python benchmarks/audio/probe_table.py table

``run`` writes one JSON file a seed into ``results/``; ``table`` writes ``PROBE.md`` from all of them. An encoder never
hears the clips of its test fold. Penalties, and the readout of the row "best readout", are chosen by a cross-validation
inside each training part that keeps recordings together. ``--within FOLD`` sets that fold apart for good and divides
the others instead: to choose settings. Controls: the same encoder untrained with the same readouts, the masked
autoencoder (``--no-mae`` leaves it out), mean and standard deviation over time of the log energies ("raw").
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from jepa_audio.front_ends import sample_rate_of
from jepa_audio.modality import MODALITY
from jepa_audio.probe import Side, clip_features, clip_levels, load_side
from jepa_audio.settings import AudioRun
from jepa_audio.sound_files import FOLD_COLUMN, SoundRecord
from jepa_audio.sources import folds_of, plain_source, sounds_of
from jepa_core.config import compose
from jepa_core.evaluate.protocols import BEST, CrossValidation, Fold, Head, cross_validate
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.plugins import find_recipe
from jepa_core.train.run import build_method

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from common import hardware, train  # noqa: E402  # beside the benchmarks, in no package

HEADS: tuple[Head, ...] = ("linear", "knn_standardised", "knn")
MASKED_AUTOENCODER = [
    *("audio.target.policy=pixels", "audio.target.blocks=0", "audio.target.view=full", "audio.target.normalise=layer"),
    *("audio.energy=l2", "audio.variance_weight=0.0", "audio.agreement.weight=0.0"),
]
Readouts = Mapping[str, Tensor]


def config_for(args: argparse.Namespace, seed: int, fold: str, extra: Sequence[str] = ()) -> AudioRun:
    """The recipe without a fold."""
    given = [f"data.root={args.data}", f"seed={seed}", "logging.trackers=[]", *args.overrides, *extra]
    return compose(AudioRun, find_recipe(MODALITY, args.recipe), [*given, f"data.test_fold={fold}"])


def side_of(config: AudioRun) -> Side:
    """All labelled clips, of every fold."""
    source = plain_source(config.data, sounds_of(config.data).records, sample_rate_of(config.audio.frontend))
    return load_side(source, config.probe.batch_size)


def trained(config: AudioRun) -> tuple[MaskedPrediction, dict[str, Any]]:
    """Trained without the run's own probe; its folder is not kept."""
    config.probe.enabled = False
    with tempfile.TemporaryDirectory() as folder:
        method, cost = train(config, MODALITY, Path(folder), "run")
    return cast(MaskedPrediction, method), cost


def one_fold(args: argparse.Namespace, seed: int, fold: str, side: Side) -> tuple[dict[str, Readouts], Any]:
    """Features of all clips by each encoder of a fold, and what training took."""
    config = config_for(args, seed, fold)
    settings, device = config.probe, torch.device("cpu")
    torch.manual_seed(seed)
    untrained = cast(MaskedPrediction, build_method(config, MODALITY)).eval()
    method, cost = trained(config)
    found = {
        name: clip_features(m, side, settings, device) for name, m in (("untrained", untrained), ("trained", method))
    }
    found["raw"] = {"levels": clip_levels(untrained, side, device)}
    costs = {"trained": cost}
    if not args.no_mae:
        method, costs["mae"] = trained(config_for(args, seed, fold, MASKED_AUTOENCODER))
        found["mae"] = clip_features(method, side, settings, device)
    return found, costs


def folds_to_train(args: argparse.Namespace, records: Sequence[SoundRecord], column: str) -> list[str]:
    """The folds that are held out in turn, or the one that is set apart."""
    folds = list(folds_of(records, column))
    if args.within is not None and args.within not in folds:
        raise SystemExit(f"--within: expected one of {', '.join(folds)}, got {args.within!r}")
    return folds if args.within is None else [args.within]


def run_seed(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """All rows of one seed."""
    config = compose(AudioRun, find_recipe(MODALITY, args.recipe), [f"data.root={args.data}", *args.overrides])
    column, side = config.data.fold or FOLD_COLUMN, side_of(config)
    fold_of = [record.fields[column] for record in side.records]
    found: dict[str, dict[str, Readouts]] = {}
    costs = {}
    for fold in folds_to_train(args, side.records, column):
        found[fold], costs[fold] = one_fold(args, seed, fold, side)
    folds, features = divided(found, fold_of, args.within)
    rows = {
        encoder: cross_validate(readouts, side.labels, folds, side.groups, HEADS)
        for encoder, readouts in features.items()
    }
    return result(args, seed, rows, costs, config)


def divided(
    found: Mapping[str, Mapping[str, Readouts]], fold_of: Sequence[str], within: str | None
) -> tuple[list[Fold], dict[str, dict[str, dict[str, Tensor]]]]:
    """The folds, and the features of each by the encoder that did not hear it: encoder, readout, fold."""
    kept = [place for place, fold in enumerate(fold_of) if fold != within]
    folds = [
        Fold(
            name,
            torch.tensor([place for place in kept if fold_of[place] != name]),
            torch.tensor([place for place in kept if fold_of[place] == name]),
        )
        for name in sorted({fold_of[place] for place in kept})
    ]
    encoders = next(iter(found.values()))
    return folds, {
        encoder: {
            readout: {fold.name: found[within or fold.name][encoder][readout] for fold in folds} for readout in readouts
        }
        for encoder, readouts in encoders.items()
    }


def result(
    args: argparse.Namespace, seed: int, rows: Mapping[str, CrossValidation], costs: Any, config: AudioRun
) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for encoder, outcome in rows.items():
        for score in outcome.scores:
            readout = "best readout" if score.readout == BEST else score.readout
            table.setdefault(f"{encoder}: {readout}", {})[score.head] = {
                "mean": score.mean,
                "by_groups": score.by_groups,
                "folds": score.values,
                "chosen": score.chosen,
            }
    return {
        "data": Path(args.data).name,
        "recipe": args.recipe,
        "within": args.within,
        "seed": seed,
        "overrides": args.overrides,
        "folds": [fold.name for fold in next(iter(rows.values())).folds],
        "steps": config.trainer.max_steps,
        "costs": costs,
        "rows": table,
        "hardware": hardware(),
    }


def run(args: argparse.Namespace) -> None:
    """One JSON file a seed."""
    (HERE / "results").mkdir(exist_ok=True)
    for seed in args.seeds:
        start = time.time()
        found = run_seed(args, seed)
        kind = "" if args.within is None else f"-within{args.within}"
        path = (args.out or HERE / "results") / f"{found['data']}-{args.recipe}{kind}-seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"wrote {path.name} after {time.time() - start:.0f} s")
        for name, heads in found["rows"].items():
            print(f"{name:28}", {head: round(cell["mean"], 3) for head, cell in heads.items()}, flush=True)


# --------------------------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------------------------


def table(args: argparse.Namespace) -> None:
    """PROBE.md from every result: mean over seeds of the mean over folds, differences with their errors."""
    paths = [path for path in sorted((HERE / "results").glob("*-seed*.json")) if not path.name.startswith("ablation-")]
    results = [json.loads(path.read_text()) for path in paths]
    lines = [
        "# Sound probe over folds, with controls", "",
        "Written by `python benchmarks/audio/probe_table.py table`; each block by the `run` command in that script. "
        "Accuracy, mean over folds and seeds [lowest, highest seed]; no encoder heard the fold it is tested on. "
        "`linear` is converged logistic regression, its penalty chosen inside each training part; `kNN` takes 10 "
        "neighbours by cosine of standardised features, `kNN, raw` of features as they are (X-ARES). The error of one "
        "figure, drawing whole recordings, stands in brackets.", "",
    ]  # fmt: skip
    for kind in sorted({(r["data"], r["recipe"], r["within"] or "") for r in results}):
        lines += block([r for r in results if (r["data"], r["recipe"], r["within"] or "") == kind])
    (HERE / "PROBE.md").write_text("\n".join(lines) + "\n")


def block(group: list[dict[str, Any]]) -> list[str]:
    """The tables of one data set and recipe."""
    first = group[0]
    seeds = ", ".join(str(r["seed"]) for r in group)
    took = [cost["trained"]["seconds"] for r in group for cost in r["costs"].values()]
    apart = f"; fold {first['within']} set apart" if first["within"] else ""
    lines = [
        f"## {first['data']}, recipe {first['recipe']}{apart}", "",
        f"Seeds {seeds}; folds {', '.join(first['folds'])}; {first['steps']} steps; settings given: "
        f"{' '.join(first['overrides']) or 'none'}. {first['hardware']}. One training took {min(took):.0f} to "
        f"{max(took):.0f} s, beside other work.", "",
        "| row | linear | kNN | kNN, raw |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in dict.fromkeys(row for r in group for row in r["rows"]):
        found = [r["rows"][row] for r in group if row in r["rows"]]
        name = row if len(found) == len(group) else f"{row} ({len(found)} of {len(group)} seeds)"
        lines.append("| " + " | ".join([name, *(cell([one[head] for one in found]) for head in HEADS)]) + " |")
    lines += ["", "| seed | " + " | ".join(f"trained - untrained, {name}" for name in ("linear", "kNN", "kNN, raw"))]
    lines[-1] += " |"
    lines.append("|---|---|---|---|")
    for r in group:
        for readout in (name.removeprefix("trained: ") for name in r["rows"] if name.startswith("trained: ")):
            pairs = [(r["rows"][f"trained: {readout}"][h], r["rows"][f"untrained: {readout}"][h]) for h in HEADS]
            lines.append(f"| {r['seed']}, {readout} | " + " | ".join(difference(a, b) for a, b in pairs) + " |")
    return [*lines, ""]


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """``a - b`` with the error of two independent figures."""
    return f"{a['mean'] - b['mean']:+.3f} ± {math.hypot(a['by_groups'], b['by_groups']):.3f}"


def cell(found: Sequence[Mapping[str, Any]]) -> str:
    """Mean over seeds, their range and the error of one."""
    values = [one["mean"] for one in found]
    span = f" [{min(values):.3f}, {max(values):.3f}]" if max(values) > min(values) else ""
    return f"{statistics.mean(values):.3f}{span} ({statistics.mean(one['by_groups'] for one in found):.3f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--data", required=True, help="a folder of labelled sounds with folds")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--recipe", default="quickstart")
    runner.add_argument("--within", help="a fold to set apart: choose settings on the others")
    runner.add_argument("--no-mae", action="store_true", help="leave the masked autoencoder out")
    runner.add_argument("--out", type=Path, help="folder of the results; results/ beside this script")
    runner.add_argument("overrides", nargs="*", help="settings a.b=c")
    runner.set_defaults(run=run)
    commands.add_parser("table").set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
