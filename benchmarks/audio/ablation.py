"""What each choice of a recipe is worth: one setting changed at a time, on the same recordings.

    python benchmarks/audio/ablation.py run --data /data/esc10 --seeds 0 1
    python benchmarks/audio/ablation.py run --data /data/fsdd --recipe speech --apart theo --seeds 0
    python benchmarks/audio/ablation.py table

An encoder is trained on all folds but ``--apart``, and probed by a cross-validation of those that it was trained on:
the labels of the fold that is set apart are never used. ``run`` writes one JSON file for each change and seed into
``results/`` and leaves out what is there; ``table`` writes ``ABLATION.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from probe_table import MASKED_AUTOENCODER, side_of

from jepa_audio.modality import MODALITY
from jepa_audio.probe import Side, clip_features
from jepa_audio.settings import AudioRun
from jepa_audio.sound_files import FOLD_COLUMN
from jepa_core.config import compose
from jepa_core.evaluate.protocols import BEST, cross_validate, k_folds
from jepa_core.plugins import find_recipe
from jepa_core.train.run import build_method

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from common import hardware, train  # noqa: E402  # beside the benchmarks, in no package

HEADS = ("linear", "knn_standardised")
READOUTS = ("mean", "frequency", "frequency_std")
LAST = ["audio.target.blocks=0", "audio.target.normalise=layer"]
WIDE = ["audio.frontend.hop_length=320"]

Changes = dict[str, tuple[str, list[str]]]

EVENTS: Changes = {
    "base": ("the recipe, log energies normalised by measured levels", []),
    "target-masked": ("target encoder hears only what is hidden (M2D)", ["audio.target.view=masked"]),
    "momentum-0.9": ("EMA momentum from .9", ["audio.target.momentum_start=0.9"]),
    "momentum-0.999": ("EMA momentum from .999", ["audio.target.momentum_start=0.999"]),
    "no-ema": ("no EMA: the encoder's own features, gradient stopped", ["audio.target.policy=stop_gradient"]),
    "hop-20": ("hop of 20 ms, crops as long", WIDE),
    "hop-20-long": ("hop of 20 ms, as many tiles", [*WIDE, "data.seconds=1.92"]),
    "hop-40": ("hop of 40 ms, as many tiles", ["audio.frontend.hop_length=640", "data.seconds=3.84"]),
    "target-layer": ("target: blocks layer-normed, not instance-normed", ["audio.target.block_norm=layer"]),
    "target-last": ("target: last layer, each vector normalised (Audio-JEPA's code)", LAST),
    "target-raw": ("target: last layer as it is (Audio-JEPA's paper)", ["audio.target.blocks=0"]),
    "input-raw": (
        "log energies as they are: what the recipe does now",
        ["audio.frontend.mean=0", "audio.frontend.std=1"],
    ),
    "mask-blocks": ("masks: rectangles (I-JEPA)", ["audio.masking.kind=multiblock"]),
    "mask-time": ("masks: whole steps of time", ["audio.masking.kind=time", "audio.masking.length=1"]),
    "mask-inverse": (
        "masks: blocks stay visible (EAT)",
        ["audio.masking.kind=inverse_block", "audio.masking.length=2"],
    ),
    "ratio-0.5": ("half hidden", ["audio.masking.ratio=0.5"]),
    "no-agreement": ("no agreement of views", ["audio.agreement.weight=0"]),
    "variance": (
        "variance and covariance instead of agreement",
        ["audio.agreement.weight=0", "audio.variance_weight=1"],
    ),
    "no-crop": ("no time-frequency crops", ["audio.augment.scale_min=1"]),
    "init-normal": ("linear layers from N(0, 0.02)", ["audio.encoder.init=normal"]),
    "init-torch": ("linear layers as torch makes them", ["audio.encoder.init=torch"]),
    "stem-mlp": ("MLP stem", ["audio.encoder.stem=mlp"]),
    "mae": ("masked autoencoder: log energies are predicted", MASKED_AUTOENCODER),
}
WORDS: Changes = {
    "base": ("the recipe", []),
    "views-agree": (
        "two crops that agree, as in quickstart",
        ["data.views=2", "audio.agreement.weight=1", "audio.augment.scale_min=0.5", "audio.variance_weight=0"],
    ),
    "centre-data": ("clips keep their level", ["audio.frontend.centre=data"]),
    "tiles": ("tiles of 8 bins instead of strips of all 40", ["audio.frontend.patch_bins=8"]),
    "no-variance": ("no variance and covariance", ["audio.variance_weight=0"]),
    "init-normal": ("linear layers from N(0, 0.02)", ["audio.encoder.init=normal"]),
}
CHANGES: dict[str, Changes] = {"quickstart": EVENTS, "speech": WORDS}
"""What is changed, by recipe, in words and as settings."""
GIVEN = {
    "quickstart": ["audio.frontend.mean=null", "audio.frontend.std=null"],
    "speech": ["data.label=digit", "data.fold=speaker"],
}
"""What all changes of a recipe share: columns of the data; measured levels, as the quickstart had them before."""


def config_for(args: argparse.Namespace, change: str, seed: int) -> AudioRun:
    """The recipe with one change, without the fold that is set apart."""
    given = [
        *(f"data.root={args.data}", f"data.test_fold={args.apart}", f"seed={seed}", "logging.trackers=[]"),
        *(f"trainer.max_steps={args.steps}", *GIVEN[args.recipe], *args.overrides, *CHANGES[args.recipe][change][1]),
    ]
    return compose(AudioRun, find_recipe(MODALITY, args.recipe), given)


def score(config: AudioRun, method: Any, side: Side, apart: str) -> dict[str, dict[str, float]]:
    """Accuracy by readout and head, mean over the folds that the encoder was trained on."""
    fold_of = [record.fields[config.data.fold or FOLD_COLUMN] for record in side.records]
    kept = torch.tensor([place for place, fold in enumerate(fold_of) if fold != apart])
    features = {
        name: found[kept] for name, found in clip_features(method, side, config.probe, torch.device("cpu")).items()
    }
    outcome = cross_validate(
        features, side.labels[kept], k_folds([fold_of[i] for i in kept.tolist()]), side.groups[kept], HEADS
    )
    table: dict[str, dict[str, float]] = {}
    for one in outcome.scores:
        if one.readout != BEST:
            table.setdefault(one.readout, {})[one.head] = one.mean
    return table


def only_mean(config: AudioRun) -> AudioRun:
    """The same, probing the mean token alone."""
    return replace(config, probe=replace(config.probe, readouts=["mean"]))


def run_one(args: argparse.Namespace, change: str, seed: int, side: Side) -> dict[str, Any]:
    """One training and its scores beside those of the same encoder untrained."""
    config = config_for(args, change, seed)
    config.probe.enabled = False
    untrained = build_method(config, MODALITY).eval()
    with tempfile.TemporaryDirectory() as folder:
        method, cost = train(config, MODALITY, Path(folder), "run")
    return {
        "data": Path(args.data).name,
        "recipe": args.recipe,
        "change": change,
        "settings": CHANGES[args.recipe][change][1],
        "overrides": args.overrides,
        "seed": seed,
        "apart": args.apart,
        "cost": cost,
        "trained": score(config, method, side, args.apart),
        "untrained": score(only_mean(config), untrained, side, args.apart),
        "hardware": hardware(),
    }


def run(args: argparse.Namespace) -> None:
    """Every change and seed that has no file yet."""
    torch.set_num_threads(args.threads)
    (HERE / "results").mkdir(exist_ok=True)
    side = side_of(config_for(args, "base", 0))
    for seed in args.seeds:
        for change in args.changes or CHANGES[args.recipe]:
            path = HERE / "results" / f"ablation-{args.recipe}-{change}-seed{seed}.json"
            if path.exists():
                continue
            start = time.time()
            found = run_one(args, change, seed, side)
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{path.name} after {time.time() - start:.0f} s: {found['trained']}", flush=True)


def table(args: argparse.Namespace) -> None:
    """ABLATION.md from every result."""
    results = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("ablation-*.json"))]
    lines = [
        "# What each choice of the small recipes of sound is worth", "",
        "Written by `python benchmarks/audio/ablation.py table`; the figures by its `run` command. Linear / nearest "
        "neighbours on standardised features; means over seeds [lowest, highest].", "",
    ]  # fmt: skip
    for recipe in CHANGES:
        found = [one for one in results if one["recipe"] == recipe]
        if found:
            lines += block(recipe, found)
    (HERE / "ABLATION.md").write_text("\n".join(lines))


def block(recipe: str, results: list[dict[str, Any]]) -> list[str]:
    """The table of one recipe."""
    first, readouts = results[0], [name for name in READOUTS if name in results[0]["trained"]]
    seeds = ", ".join(map(str, sorted({one["seed"] for one in results})))
    lines = [
        f"## {recipe}, {first['data']}", "",
        f"Trained on all folds but {first['apart']} for {first['cost']['steps']} steps; accuracy of a cross-validation "
        "of the folds trained on. The labels of the fold set apart are not used, and no encoder was kept from the "
        f"clips it is scored on, so these figures choose settings and are no result. Seeds {seeds}; drawing "
        "recordings alone gives one figure a standard error of about .025: differences below .05 mean little. "
        f"{first['hardware']}; settings given: {' '.join(first['overrides']) or 'none'}; seconds beside others.", "",
        f"| change | {' | '.join(readouts)} | untrained, mean | seconds |", "|---" * (len(readouts) + 3) + "|",
    ]  # fmt: skip
    for change, (words, _) in CHANGES[recipe].items():
        found = [one for one in results if one["change"] == change]
        if not found:
            continue
        cells = [pair([one["trained"][readout] for one in found]) for readout in readouts]
        seconds = statistics.mean(one["cost"]["seconds"] for one in found)
        own = pair([one["untrained"]["mean"] for one in found])
        lines.append(f"| {words} | {' | '.join(cells)} | {own} | {seconds:.0f} |")
    return [*lines, ""]


def pair(found: list[dict[str, float]]) -> str:
    """Linear / kNN: means, and the range of the linear one where there are more seeds."""
    means = [statistics.mean(one[head] for one in found) for head in HEADS]
    spans = [
        "" if len(found) < 2 else f" [{min(one[head] for one in found):.2f}, {max(one[head] for one in found):.2f}]"
        for head in HEADS
    ]
    return " / ".join(f"{mean:.3f}{span}" for mean, span in zip(means, spans, strict=True))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--data", required=True, help="a folder of labelled sounds with folds, ESC-10 for the page")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    runner.add_argument("--recipe", choices=list(CHANGES), default="quickstart")
    runner.add_argument("--apart", default="5", help="the fold whose labels are not used")
    runner.add_argument("--steps", type=int, default=600)
    runner.add_argument("--threads", type=int, default=1)
    runner.add_argument("--changes", nargs="+", choices=sorted({*EVENTS, *WORDS}), help="some of them only")
    runner.add_argument("overrides", nargs="*", help="settings a.b=c for all of them")
    runner.set_defaults(run=run)
    commands.add_parser("table").set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
