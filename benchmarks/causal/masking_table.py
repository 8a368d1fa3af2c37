"""What hiding histories does to a predictor of slots: no, one or two masked objects, tokens or tubes, with controls.

    python benchmarks/causal/masking_table.py run --seeds 0 1 2
    python benchmarks/causal/masking_table.py run --slots learned --seeds 0 1 2
    python benchmarks/causal/masking_table.py run --variants none object1 --seeds 0 --set trainer.max_steps=200
    python benchmarks/causal/masking_table.py table

``run`` trains each variant of a recipe (``quickstart`` for slots made of states, ``pixels`` for learned ones), scores
it on the episodes that were held back and writes one JSON file a run; ``table`` writes ``MASKING.md`` from all of them.
All variants and seeds see the same episodes and slots: what differs is the mask, the weights they start from and the
order of the windows. Learned slots are made once and kept in ``--cache``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jepa_causal.evaluation import COPY, LINEAR, STRAIGHT, TRAINED, UNTRAINED, evaluate
from jepa_causal.modality import MODALITY
from jepa_causal.scoring import COMPLETION, CONTACT, COUNTERFACTUAL, FACTUAL, FG_ARI, FREE, LEFT_IN, OVERLAP, SLOTS
from jepa_causal.settings import CausalRun
from jepa_core.config import compose
from jepa_core.plugins import find_recipe
from jepa_core.train.outcome import probe_summary
from jepa_core.train.run import build_method

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from common import hardware, spread, train  # noqa: E402  # beside the benchmarks, in no package

RECIPES = {"state": "quickstart", "learned": "pixels"}
KINDS = ("object", "token", "tube")
NONE = "none"
VARIANTS = {NONE: ("object", 0)} | {f"{kind}{count}": (kind, count) for kind in KINDS for count in (1, 2)}
COLUMNS = (CONTACT, FREE, COMPLETION, COUNTERFACTUAL)
SHOWN = 0.0005
"""What the three digits of the table can tell apart."""

SEPARATES = 0.8
"""FG-ARI from which slots separate objects well enough to be predicted."""

IGNORED = LEFT_IN.format(TRAINED)
CONTROLS = {
    UNTRAINED: "untrained (starts as a copy)",
    COPY: "copy last / copy anchor",
    STRAIGHT: "constant velocity",
    LINEAR: LINEAR,
    FACTUAL: "true factual future",
    SLOTS: "true slots (the probe's own error)",
}


def config_for(args: argparse.Namespace, variant: str, seed: int) -> CausalRun:
    """The recipe with this variant's mask."""
    kind, most = VARIANTS[variant]
    given = [f"seed={seed}", "logging.trackers=[]", "probe.enabled=false", f"causal.masking.kind={kind}"]
    if args.slots == "learned":
        given.append(f"data.root={args.cache}")
    given += [f"causal.masking.masked_objects=[0,{most}]", *args.overrides]
    return compose(CausalRun, find_recipe(MODALITY, RECIPES[args.slots]), given)


def run_one(args: argparse.Namespace, variant: str, seed: int) -> dict[str, Any]:
    """One training, scored."""
    config = config_for(args, variant, seed)
    torch.manual_seed(seed)
    untrained: Any = build_method(config, MODALITY)
    with tempfile.TemporaryDirectory() as folder:
        method, cost = train(config, MODALITY, Path(folder), "run")
    table = evaluate(config, method, untrained.eval(), torch.device("cpu"))
    return {
        "slots": args.slots,
        "variant": variant,
        "seed": seed,
        "overrides": args.overrides,
        "steps": config.trainer.max_steps,
        "history": config.causal.history,
        "future": config.causal.future,
        "episodes": [config.data.episodes, config.data.test_episodes],
        "cost": cost,
        "probe": probe_summary(table),
        "hardware": hardware(),
    }


def run(args: argparse.Namespace) -> None:
    """One JSON file a run."""
    args.results.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for variant in args.variants:
            found = run_one(args, variant, seed)
            path = args.results / f"masking-{args.slots}-{variant}-seed{seed}.json"
            path.write_text(json.dumps(found, indent=1) + "\n")
            row = found["probe"]["rows"][TRAINED]
            figures = {column: round(cell["value"], 3) for column, cell in row.items()}
            print(f"wrote {path.name} after {found['cost']['seconds']:.0f} s of training: {figures}", flush=True)


# --------------------------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------------------------

Results = Sequence[Mapping[str, Any]]


def table(args: argparse.Namespace) -> None:
    """MASKING.md from every result."""
    results = [json.loads(path.read_text()) for path in sorted(args.results.glob("masking-*.json"))]
    if not results:
        raise SystemExit(f"{args.results}: expected results of the command run, got none")
    lines = [
        "# Hiding histories: forecast, completion, counterfactual", "",
        "Written by `python benchmarks/causal/masking_table.py table`; each block by the `run` command in that script. "
        "Root mean squared distance in widths of the box, lower is better: mean over seeds (lowest .. highest seed). "
        "The forecast and the counterfactual are scored at the last predicted step, the completion at the hidden ones. "
        "`none` hides only the future (OC-JEPA); `object1` hides the history of no or one object after its first step, "
        "`object2` of none to two; `token` and `tube` hide as many slots, scattered or in one run of steps.", "",
    ]  # fmt: skip
    for slots in [kind for kind in RECIPES if any(r["slots"] == kind for r in results)]:
        lines += block([r for r in results if r["slots"] == slots])
    (args.results.parent / "MASKING.md").write_text("\n".join(lines) + "\n")


def block(group: Results) -> list[str]:
    """Table and reading of one kind of slots."""
    first = group[0]
    seeds = sorted({r["seed"] for r in group})
    took = [r["cost"]["seconds"] for r in group]
    facts = (
        f"Recipe {RECIPES[first['slots']]}, seeds {', '.join(map(str, seeds))}, {first['steps']} steps, history "
        f"{first['history']}, future {first['future']}, {first['episodes'][0]} training and {first['episodes'][1]} "
        f"test episodes; settings given: {' '.join(first['overrides']) or 'none'}. {first['hardware']}. One training "
        f"took {min(took):.0f} to {max(took):.0f} s, beside other work. {quality(first)}"
    )
    lines = [f"## Slots: {first['slots']}", "", facts.strip(), ""]
    lines.append("| row | " + " | ".join(COLUMNS) + " | counterfactual, object left in |")
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for variant in variants_of(group):
        runs = [r for r in group if r["variant"] == variant]
        cells = [cell(runs, TRAINED, column) for column in COLUMNS] + [cell(runs, IGNORED, COUNTERFACTUAL)]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    for row, name in CONTROLS.items():
        lines.append(f"| {name} | " + " | ".join(cell(group, row, column) for column in COLUMNS) + " | - |")
    counts = first["probe"]["note"].split("left out). ")[-1].split("; errors")[0]
    return [*lines, "", f"{counts}.", "", reading(group), ""]


def variants_of(group: Results) -> list[str]:
    """Those that were run, in the order of the table."""
    return [variant for variant in VARIANTS if any(r["variant"] == variant for r in group)]


def quality(result: Mapping[str, Any]) -> str:
    """What is known of learned slots."""
    row = result["probe"]["rows"][SLOTS]
    if FG_ARI not in row:
        return ""
    found = f"The slots' FG-ARI is {row[FG_ARI]['value']:.2f}, their mBO {row[OVERLAP]['value']:.2f}"
    poor = row[FG_ARI]["value"] < SEPARATES
    return f"{found}: below {SEPARATES}, so that little can be read from what follows." if poor else f"{found}."


def values(runs: Results, row: str, column: str) -> list[float]:
    """The figure of each run; empty where the row has no such column."""
    found = [r["probe"]["rows"].get(row, {}).get(column) for r in runs]
    return [one["value"] for one in found if one is not None]


def cell(runs: Results, row: str, column: str) -> str:
    """Mean and range; a dash where there is no such figure."""
    found = values(runs, row, column)
    return spread(found) if found else "-"


# --------------------------------------------------------------------------------------------------------------------
# The paragraph: every sentence is a comparison of figures in the table
# --------------------------------------------------------------------------------------------------------------------


def reading(group: Results) -> str:
    """What the table says, in sentences that follow from it."""
    arms = variants_of(group)

    def of(variant: str, column: str, row: str = TRAINED) -> list[float]:
        return values([r for r in group if r["variant"] == variant], row, column)

    sentences = [compared(column, {arm: found for arm in arms if (found := of(arm, column))}) for column in COLUMNS]
    sentences.append(against_anchor({arm: of(arm, COMPLETION) for arm in arms}, values(group, COPY, COMPLETION)))
    contact = {arm: of(arm, CONTACT) for arm in arms}
    sentences.append(against_controls(contact, {row: values(group, row, CONTACT) for row in (COPY, STRAIGHT, LINEAR)}))
    told = {arm: of(arm, COUNTERFACTUAL) for arm in arms}
    sentences.append(uses_removal(told, {arm: of(arm, COUNTERFACTUAL, IGNORED) for arm in arms}))
    return " ".join(sentence for sentence in sentences if sentence)


Figures = Mapping[str, list[float]]
"""One figure a seed, by variant."""


def compared(column: str, found: Figures) -> str:
    """Which variant errs least on average, and which lie apart from ``none`` in every seed."""
    if len(found) < 2:
        return ""
    means = {arm: statistics.mean(figures) for arm, figures in found.items()}
    best = min(means, key=lambda arm: means[arm])
    sentence = f"*{column.capitalize()}*: the least error is that of {best} ({means[best]:.3f})"
    if NONE not in found:
        return f"{sentence}."
    masked = {arm: figures for arm, figures in found.items() if arm != NONE}
    below = [arm for arm, figures in masked.items() if max(figures) < min(found[NONE]) - SHOWN]
    above = [arm for arm, figures in masked.items() if min(figures) > max(found[NONE]) + SHOWN]
    return f"{sentence}; in all seeds better than none: {listed(below)}; in all seeds worse: {listed(above)}."


def against_anchor(found: Figures, anchor: Sequence[float]) -> str:
    """Whether anybody fills hidden histories in better than by the first step."""
    if not anchor or not any(found.values()):
        return ""
    better = [arm for arm, figures in found.items() if figures and max(figures) < min(anchor) - SHOWN]
    return f"Copying the anchor completes with an error of {anchor[0]:.3f}; better in all seeds: {listed(better)}."


def against_controls(found: Figures, controls: Figures) -> str:
    """Whether anybody forecasts contacts better than the best control that knows nothing of other objects."""
    known = {CONTROLS[row]: figures for row, figures in controls.items() if figures}
    if not known or not any(found.values()):
        return ""
    best = min(known, key=lambda name: statistics.mean(known[name]))
    better = [arm for arm, figures in found.items() if figures and max(figures) < min(known[best]) - SHOWN]
    return (
        f"The best control of the forecast at contacts is {best} ({statistics.mean(known[best]):.3f}); better in all "
        f"seeds: {listed(better)}."
    )


def uses_removal(told: Figures, ignored: Figures) -> str:
    """Which variants gain, in every seed by what the table can show, from being told of the removal."""
    gains = {arm: [i - t for t, i in zip(told[arm], ignored[arm], strict=True)] for arm in told if told[arm]}
    if not gains:
        return ""
    lower = [f"{arm} (by {statistics.mean(gain):.3f})" for arm, gain in gains.items() if min(gain) > SHOWN]
    return f"Being told of the removal lowers the counterfactual error in all seeds of: {listed(lower)}."


def listed(names: Iterable[str]) -> str:
    """Names in a row."""
    return ", ".join(names) or "nobody"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner, writer = commands.add_parser("run"), commands.add_parser("table")
    for command, action in ((runner, run), (writer, table)):
        command.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON files")
        command.set_defaults(run=action)
    runner.add_argument("--slots", choices=RECIPES, default="state")
    runner.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--cache", type=Path, default=Path("runs/slots"), help="folder of learned slots")
    runner.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="a.b=c", help="settings")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
