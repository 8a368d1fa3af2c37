"""What monitor, log and progress cost as a share of a training step; the budget of all together is 2 %.

    python benchmarks/monitor/cost.py [--modalities vision] [--steps 30] [--device cpu] [key=value ...]

The step is the recipe's own (forward, backward, optimiser, target). Each diagnostic is timed alone, on the rows of that
step, and divided by ``monitor.every`` steps; the log by ``trainer.log_every`` steps, and the bar is drawn at a fixed
rate. With all modalities on a CPU it writes ``COST.md``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jepa_core.config import compose
from jepa_core.contracts import Losses
from jepa_core.data.loader import Loader
from jepa_core.data.move import to_device
from jepa_core.data.sampler import Sampler
from jepa_core.distributed import drawn_rows
from jepa_core.methods import diagnosis
from jepa_core.monitor import metrics
from jepa_core.monitor.collapse import CollapseMonitor
from jepa_core.plugins import find_modality, find_recipe
from jepa_core.train.optim import build_optimizer
from jepa_core.train.run import build_method

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from common import hardware  # noqa: E402  # beside this folder
from upkeep import Upkeep  # noqa: E402  # beside this file

BUDGET = 0.02
MONITOR = "all diagnostics together"
UPKEEP = ("finite weights, gradients and losses", "log: metrics.jsonl, TensorBoard", "progress bar")
ALL = ["audio", "causal", "lidar", "video", "vision"]


def seconds(work: Callable[[], Any], times: int, device: torch.device) -> float:
    """Median of single runs, the device waited for."""
    taken = []
    for _ in range(times + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start_s)
    return statistics.median(taken[2:])


class Step:
    """A training step of a configuration, repeated on one batch."""

    def __init__(self, config: Any, modality: Any, device: torch.device) -> None:
        self.method = build_method(config, modality).to(device).train()
        source = modality.sources(config)
        sampler = Sampler(len(source), config.seed, config.trainer.batch_size)
        self.batch = to_device(Loader(source, sampler, config.seed).peek(), device)
        self.optimizer, _, _ = build_optimizer(self.method.parameter_groups(), config.optimizer, device)
        self.count = 0

    def __call__(self) -> Losses:
        self.count += 1
        losses: Losses = self.method(self.batch, self.count)
        losses.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(self.count)
        return losses


def diagnostics(step: Step, config: Any) -> dict[str, Callable[[], Any]]:
    """Every diagnostic by name, on the rows of the last step."""
    method = step.method
    collect, given = method._watch, []
    method._watch = lambda *parts: given.append(parts) or collect(*parts)
    losses = step()
    method._watch = collect
    rows = drawn_rows(losses.monitor["target"])[: config.monitor.rows]
    seen = method._seen
    eigenvalues = metrics._gram_eigenvalues(rows, 1e-7)
    work: dict[str, Callable[[], Any]] = {
        "rows and tokens put aside": lambda: collect(*given[-1]),
        "std of raw features": lambda: metrics.dimension_std(rows),
        "std of normalised features": lambda: metrics.normalised_std(rows),
        "mean pairwise cosine": lambda: metrics.mean_pairwise_cosine(rows),
        "eigenvalues (for all ranks)": lambda: metrics._gram_eigenvalues(rows, 1e-7),
        "RankMe, from eigenvalues": lambda: metrics.entropy_rank(eigenvalues.sqrt(), 1e-7),
        "alpha-ReQ, from eigenvalues": lambda: metrics._slope_above_zero(eigenvalues.flip(0)),
        "relative error": lambda: diagnosis.relative_error(method.energy, *drawn_rows(seen.rows).chunk(2, dim=1)),
        "use of the context": lambda: diagnosis.context_use(seen, method.predictor),
    }
    if seen.whole is not None:
        work["share between samples"] = lambda: diagnosis.sample_share(*seen.whole)
    if seen.views is not None:
        work["LiDAR rank of views"] = lambda: metrics.lidar_rank(seen.views[: diagnosis.VIEWED])
    if "weights" in method.diagnose():
        work["online to target"] = lambda: diagnosis.target_motion(method.target.encoder, method.encoder, 0.99)
    monitor = CollapseMonitor(config.monitor)
    work[MONITOR] = lambda: (
        collect(*given[-1]),
        monitor.observe(1, losses.monitor, {"loss": 1.0}, method.diagnose()),
    )
    return {name: torch.no_grad()(each) for name, each in work.items()}


def measured(name: str, given: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Times of a modality's step and of each diagnostic, in seconds, and how often each comes in a step."""
    modality, device = find_modality(name), torch.device(given.device)
    config: Any = compose(modality.schema, find_recipe(modality, given.recipe), overrides)
    step = Step(config, modality, device)
    step_s = seconds(step, given.steps, device)
    every = max(config.monitor.every, 1)
    found = {what: (seconds(work, given.steps, device), 1 / every) for what, work in diagnostics(step, config).items()}
    with tempfile.TemporaryDirectory() as folder:
        upkeep = Upkeep(step.method, step.batch, step(), Path(folder))
        for what, (work, often) in upkeep.work(config.trainer.log_every).items():
            found[what] = seconds(work, given.steps, device), often(step_s)
    return {"modality": name, "batch": config.trainer.batch_size, "step_s": step_s, "every": every, "found": found}


def share(run: dict[str, Any], what: str) -> float:
    """Of the steps."""
    taken, often = run["found"][what]
    return float(taken * often / run["step_s"])


def whole_share(run: dict[str, Any]) -> float:
    """Of the monitor with all its diagnostics, of log, watch and progress."""
    return sum(share(run, what) for what in (MONITOR, *UPKEEP))


def table(runs: list[dict[str, Any]]) -> list[str]:
    """A row a diagnostic, a column a modality: milliseconds, and the share of the steps that it is for."""
    heads = [f"{run['modality']}, batch {run['batch']}, step {1e3 * run['step_s']:.0f} ms" for run in runs]
    lines = ["| diagnostic | " + " | ".join(heads) + " |", "|---|" + "---|" * len(runs)]
    for name in dict.fromkeys(name for run in runs for name in run["found"]):
        cells = [
            f"{1e3 * run['found'][name][0]:.2f} ms, {share(run, name):.2%}" if name in run["found"] else ""
            for run in runs
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "| monitor, watch, log and bar | " + " | ".join(f"{whole_share(run):.2%}" for run in runs) + " |"]


def main() -> None:
    """Measures, prints, writes the page where all modalities are measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--modalities", nargs="+", default=ALL)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    given, overrides = parser.parse_known_args()
    runs = [measured(name, given, overrides) for name in given.modalities]
    shares = [whole_share(run) for run in runs]
    every = ", ".join(sorted({str(run["every"]) for run in runs}))
    page = [
        "# What monitor, log and progress cost",
        "",
        f"`python benchmarks/monitor/cost.py {' '.join(sys.argv[1:])}`: medians of {given.steps} on {given.device}, "
        f"{hardware()}; recipes {given.recipe}, measured every {every} steps.",
        "",
        *table(runs),
        "",
        f"All together at most {max(shares):.2%} of the steps; the budget is {BUDGET:.0%}.",
    ]
    print("\n".join(page))
    if given.modalities == ALL and given.device == "cpu":
        (HERE / "COST.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    sys.exit(max(shares) > BUDGET)


if __name__ == "__main__":
    main()
