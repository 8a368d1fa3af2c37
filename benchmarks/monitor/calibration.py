"""How often the monitor's verdict is right: runs made to fail and healthy ones, on samples of all modalities.

    python benchmarks/monitor/calibration.py                         # all runs; takes hours on two cores
    python benchmarks/monitor/calibration.py --modalities motion --faults "momentum 1" --seeds 0

Each run's verdict is held against what was done to it and, where that does not settle it, against its features on data
as evaluation sees them, measured after the run by other code than the monitor's. Runs that are in the results file are
not made again. Writes benchmarks/monitor/results/calibration.json and CALIBRATION.md beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from faults import FAULTS, Fault, Faulty

from jepa_core.config import compose, to_yaml
from jepa_core.contracts import Embedding, Modality
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.errors import CollapseError, DivergenceError
from jepa_core.evaluate.features import LAST, layer_embeddings
from jepa_core.monitor.loggers import read_metrics
from jepa_core.monitor.verdict import DIVERGING, HEALTHY, PARTIAL, TOTAL, judge_history
from jepa_core.plugins import find_modality, find_recipe
from jepa_core.targets import EmaTarget
from jepa_core.train.checkpoint import load_into, load_model, newest
from jepa_core.train.run import build_method, run_training

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "calibration.json"
COMMON = [
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "data.workers=0",
    "logging.trackers=[]",
    "logging.progress=off",
    "trainer.threads=1",
]
SMALL = {
    "motion": ["motion.persons=8", "trainer.batch_size=16"],
    "causal": ["trainer.batch_size=16", "data.episodes=64", "data.test_episodes=8"],
    "vision": ["trainer.batch_size=16", "data.height=36", "data.width=36"],
    "audio": ["trainer.batch_size=8"],
    "video": ["trainer.batch_size=8"],
    "lidar": ["trainer.batch_size=4", "data.root=simulated", "data.scenes=32", "data.azimuths=128"],
}
STEPS = {"motion": 150, "causal": 150, "vision": 150, "audio": 120, "video": 100, "lidar": 80}
MEASUREMENTS = 25
ABOUT = """\
Runs made to fail and healthy ones on data of all modalities, a hundred steps or so each, judged by the monitor as any
run is: `python benchmarks/monitor/calibration.py --seeds 0 1`, healthy runs also with seeds 2 to 4; one CPU thread.

What is right: where the fault leaves no doubt, its name (no stop-gradient and constant inputs: partial or total
collapse; momentum 1: target frozen; predictor bypass: predictor ignores its input, or a collapse). Where it may or may
not end badly (momentum 0, stop-gradient alone, learning rate x 100), what the features say at the end, online and
target, on data as evaluation sees them, by code that is not the monitor's: spread below 0.05 or no variance between
samples is total collapse, spread or rank below a quarter of the untrained encoder's partial collapse, both above half
of it healthy; between a quarter and half healthy and partial are both right, and so are partial and total for a spread
between 0.05 and 0.15. The alarm lines of the verdict were set on seed 0; seed 1 was looked at afterwards, and nothing
was changed then. An encoder of objects that passes slots on has no weights, so four of the faults do not exist there.
A cell: right / runs, and what was said."""
EXAMPLE = HERE.parents[1] / "examples" / "own_modality.py"

# What the features say, by the same lines for all: of tokens on data as evaluation sees them. Between KEPT and LOST of
# what the untrained encoder has, "healthy" and "partial collapse" are both right; between NEARLY and TOTAL_BELOW
# "partial" and "total" are: at such a border data with and without augmentation and masks may stand on either side.
TOTAL_BELOW, NEARLY, SAME_BELOW, LOST, KEPT = 0.05, 0.15, 1e-3, 0.25, 0.5


def configured(name: str, fault: Fault, seed: int, runs: Path) -> tuple[Modality, Any]:
    """Modality and settings of a run."""
    modality = find_modality(str(EXAMPLE) if name == "motion" else name)
    steps = STEPS[name]
    recipe = find_recipe(modality, "quickstart")
    common = [*COMMON, *SMALL[name], f"trainer.max_steps={steps}", f"seed={seed}", f"runs_dir={runs}", "name=run"]
    common += [f"monitor.every={max(1, steps // MEASUREMENTS)}", "trainer.log_every=10"]
    rate = compose(modality.schema, recipe, common).optimizer.lr
    return modality, compose(modality.schema, recipe, [*common, *(s.format(lr=100 * rate) for s in fault.settings)])


def one_run(name: str, fault_name: str, seed: int, kept: Path | None) -> dict[str, Any]:
    """Trains, asks the monitor, measures the features; the run's metrics are copied into ``kept``, if given."""
    fault, runs = FAULTS[fault_name], Path(tempfile.mkdtemp())
    start_s = time.perf_counter()
    try:
        modality, config = configured(name, fault, seed, runs)
        faulty = cast(Modality, Faulty(modality, fault, STEPS[name]))
        ended = "done"
        try:
            run_training(config, faulty, to_yaml(config))
        except (DivergenceError, CollapseError) as error:
            ended = type(error).__name__
        rows = read_metrics(runs / "run" / "metrics.jsonl")
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(runs / "run" / "metrics.jsonl", metrics_of(kept, name, fault_name, seed))
        verdict = judge_history(rows)
        state = DIVERGING if ended == "DivergenceError" else verdict.state
        truth = features_say(config, faulty, runs / "run") if ended == "done" else {"finite": 0.0}
        return {
            "modality": name,
            "fault": fault_name,
            "seed": seed,
            "verdict": state,
            "sentence": verdict.sentence,
            "first_alarm": first_alarm(rows),
            "steps": STEPS[name],
            "ended": ended,
            "features": truth,
            "seconds": time.perf_counter() - start_s,
        }
    finally:
        shutil.rmtree(runs, ignore_errors=True)


def metrics_of(kept: Path, name: str, fault_name: str, seed: int) -> Path:
    """Where the metrics of a run are kept."""
    return kept / f"{name}-{fault_name.replace(' ', '-')}-{seed}.jsonl"


def judged_again(run: dict[str, Any], kept: Path) -> dict[str, Any]:
    """The run with the verdict that the monitor as it stands gives on the metrics kept."""
    rows = read_metrics(metrics_of(kept, run["modality"], run["fault"], run["seed"]))
    verdict = judge_history(rows)
    state = DIVERGING if run["ended"] == "DivergenceError" else verdict.state
    return {**run, "verdict": state, "sentence": verdict.sentence, "first_alarm": first_alarm(rows)}


def first_alarm(rows: list[dict[str, Any]]) -> int | None:
    """The step at which the alarm that lasted to the end was first raised; None without one."""
    judged = [(int(rows[n]["step"]), judge_history(rows[: n + 1]).alarm) for n in range(len(rows))]
    lasting = list(itertools.takewhile(lambda pair: pair[1], reversed(judged)))
    return lasting[-1][0] if lasting else None


@torch.no_grad()
def features_say(config: Any, modality: Modality, run: Path) -> dict[str, float]:
    """Spread, rank and share between samples of the tokens of one batch of data, trained and untrained."""
    torch.manual_seed(0)
    trained = build_method(config, modality)
    checkpoint = newest(run, print)
    load_into(trained, load_model(checkpoint), str(checkpoint))
    untrained = build_method(config, modality)
    # Real data, whatever the run was given.
    source = cast(Any, modality)._modality.sources(config)
    if cast(Any, modality)._fault.constant_inputs:
        source = modality.sources(config)
    batch = Loader(source, Sampler(len(source), 12345, 32), 12345).peek()
    found: dict[str, float] = {}
    for name, method in (("trained", trained), ("untrained", untrained)):
        for encoder in ("online", "target"):
            if encoder == "target" and not isinstance(cast(Any, method).target, EmaTarget):
                continue
            embedding = layer_embeddings(method.eval(), batch, (LAST,), encoder)[LAST]
            found |= {f"{name}/{encoder}/{figure}": value for figure, value in token_figures(embedding).items()}
    return found


def token_figures(embedding: Embedding) -> dict[str, float]:
    """Figures of tokens ``[B, N, D]`` at valid sites, in float64 and with singular values."""
    features = embedding.features.double()
    finite = bool(torch.isfinite(features).all())
    if not finite:
        return {"finite": 0.0}
    valid = torch.ones(features.shape[:2], dtype=torch.bool)
    if embedding.sites is not None:
        valid = embedding.sites.valid_mask()
    rows = features[valid]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:2048]]
    unit = torch.nn.functional.normalize(rows, dim=1)
    spectrum = torch.linalg.svdvals(rows - rows.mean(0))
    share = spectrum / spectrum.sum().clamp(min=1e-300)
    pooled = torch.where(valid[..., None], features, 0.0).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
    return {
        "finite": 1.0,
        "spread": float(unit.std(0).mean() * rows.shape[1] ** 0.5),
        "rank": float(torch.special.entr(share).sum().exp()),
        "between_samples": float(pooled.var(0).sum() / rows.var(0).sum().clamp(min=1e-300)),
    }


def right_verdicts(run: dict[str, Any]) -> tuple[str, ...]:
    """The verdicts that name a run rightly."""
    fault, figures = FAULTS[run["fault"]], run["features"]
    if fault.named_by:
        return tuple(fault.named_by)
    finite = [value for name, value in figures.items() if name.endswith("finite")]
    if run["ended"] == "DivergenceError" or not all(finite):
        return (DIVERGING,)
    return max((said_of(figures, encoder) for encoder in ("online", "target")), key=SEVERITY.index)


def said_of(figures: dict[str, float], encoder: str) -> tuple[str, ...]:
    """What an encoder's features say of the run."""
    if f"trained/{encoder}/rank" not in figures:
        return (HEALTHY,)
    now = {name: figures[f"trained/{encoder}/{name}"] for name in ("spread", "rank", "between_samples")}
    share = {name: value / figures[f"untrained/{encoder}/{name}"] for name, value in now.items()}
    if now["spread"] < TOTAL_BELOW or (now["between_samples"] < SAME_BELOW and share["between_samples"] < LOST):
        return SEVERITY[-1]
    if now["spread"] < NEARLY:
        return SEVERITY[3]
    lowest = min(share["spread"], share["rank"])
    return SEVERITY[2] if lowest < LOST else SEVERITY[1] if lowest < KEPT else SEVERITY[0]


SEVERITY: tuple[tuple[str, ...], ...] = (
    (HEALTHY,),
    (HEALTHY, PARTIAL),
    (PARTIAL, DIVERGING),
    (PARTIAL, TOTAL, DIVERGING),
    (TOTAL, DIVERGING),
)


def table(runs: list[dict[str, Any]]) -> str:
    """The page: by fault and modality, then totals."""
    names = list(dict.fromkeys(run["modality"] for run in runs))
    lines = ["# Is the verdict right?", "", ABOUT, ""]
    lines += ["| made to be | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for fault in FAULTS:
        cells = []
        for name in names:
            own = [run for run in runs if (run["modality"], run["fault"]) == (name, fault)]
            right = sum(run["verdict"] in right_verdicts(run) for run in own)
            said = ", ".join(sorted({run["verdict"] for run in own}))
            cells.append(f"{right}/{len(own)}: {said}" if own else "")
        lines.append(f"| {fault} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *totals(runs), "", *wrong(runs)]) + "\n"


def totals(runs: list[dict[str, Any]]) -> list[str]:
    """How many were named rightly, and when."""
    right = sum(run["verdict"] in right_verdicts(run) for run in runs)
    either = sum(right_verdicts(run) in (SEVERITY[1], SEVERITY[3]) for run in runs)
    sides = {
        "made healthy": [run for run in runs if run["fault"] == "healthy"],
        "broken but with features that are well": [
            run for run in runs if run["fault"] != "healthy" and right_verdicts(run) == (HEALTHY,)
        ],
    }
    lines = [f"- {right} of {len(runs)} runs ({right / len(runs):.1%}) are named rightly; in {either} two names are."]
    for name, those in sides.items():
        false = sum(run["verdict"] in (PARTIAL, TOTAL) for run in those)
        lines.append(f"- {false} of {len(those)} runs {name} are called collapsed.")
    well = [run for those in sides.values() for run in those]
    warned = [run["first_alarm"] / run["steps"] for run in runs if run["first_alarm"] and run not in well]
    if warned:
        lines.append(
            f"- The alarm that lasted came at {statistics.mean(warned):.2f} of a run on average, at {max(warned):.2f} "
            f"at the latest ({len(warned)} runs)."
        )
    return lines


def wrong(runs: list[dict[str, Any]]) -> list[str]:
    """Every run that is named wrongly, in the monitor's own words."""
    return [
        f"Wrong: {run['modality']}, {run['fault']}, seed {run['seed']} (right: {', '.join(right_verdicts(run))}): "
        f"{run['sentence']}"
        for run in runs
        if run["verdict"] not in right_verdicts(run)
    ]


def main() -> None:
    """Makes the runs that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--modalities", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--metrics", type=Path, help="folder that keeps the metrics of the runs made")
    parser.add_argument("--judge-again", action="store_true", help="judge the metrics kept; make no run")
    parser.add_argument("--table", action="store_true", help="write the table of what is there; make no run")
    given = parser.parse_args()
    runs = json.loads(given.results.read_text()) if given.results.is_file() else []
    done = {(run["modality"], run["fault"], run["seed"]) for run in runs}
    if given.judge_again:
        runs = [judged_again(run, given.metrics) for run in runs]
        given.results.write_text(json.dumps(runs, indent=1), encoding="utf-8")
    wanted = [] if given.table or given.judge_again else itertools.product(given.modalities, given.faults, given.seeds)
    for name, fault, seed in wanted:
        if (name, fault, seed) in done or name in FAULTS[fault].not_for:
            continue
        run = one_run(name, fault, seed, given.metrics)
        runs.append(run)
        print(
            f"{name}, {fault}, seed {seed}: {run['verdict']} (right: {', '.join(right_verdicts(run))}), first alarm "
            f"{run['first_alarm']} of {run['steps']}, {run['seconds']:.0f} s\n  {run['sentence']}",
            flush=True,
        )
        given.results.parent.mkdir(parents=True, exist_ok=True)
        given.results.write_text(json.dumps(runs, indent=1), encoding="utf-8")
    if runs:
        (given.results.parent.parent / "CALIBRATION.md").write_text(table(runs), encoding="utf-8")
        print(table(runs))


if __name__ == "__main__":
    sys.exit(main())
