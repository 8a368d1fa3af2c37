"""What each diagnostic of the monitor costs as a share of a training step; the budget of all together is 2 %.

    python benchmarks/monitor/cost.py [--modality vision] [--steps 30] [--device cpu] [key=value ...]

The step is the recipe's own (forward, backward, optimiser, target). Each diagnostic is timed alone, on the rows of that
step, and divided by ``monitor.every`` steps. Writes a table to standard output and, with --out, JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
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
from jepa_core.methods import diagnosis
from jepa_core.monitor import metrics
from jepa_core.monitor.collapse import CollapseMonitor
from jepa_core.plugins import find_modality, find_recipe
from jepa_core.train.optim import build_optimizer
from jepa_core.train.run import build_method

BUDGET = 0.02


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
    rows = losses.monitor["target"][: config.monitor.rows]
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
        "relative error": lambda: diagnosis.relative_error(method.energy, seen.predicted, seen.target),
        "use of the context": lambda: diagnosis.context_use(seen, method.predictor),
    }
    if seen.whole is not None:
        work["share between samples"] = lambda: diagnosis.sample_share(*seen.whole)
    if seen.views is not None:
        work["LiDAR rank of views"] = lambda: metrics.lidar_rank(seen.views[: diagnosis.VIEWED])
    if "weights" in method.diagnose():
        work["online to target"] = lambda: diagnosis.target_motion(method.target.encoder, method.encoder, 0.99)
    monitor = CollapseMonitor(config.monitor)
    work["all together"] = lambda: (
        collect(*given[-1]),
        monitor.observe(1, losses.monitor, {"loss": 1.0}, method.diagnose()),
    )
    return {name: torch.no_grad()(each) for name, each in work.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--modality", default="vision")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given, overrides = parser.parse_known_args()
    modality, device = find_modality(given.modality), torch.device(given.device)
    config: Any = compose(modality.schema, find_recipe(modality, given.recipe), overrides)
    step = Step(config, modality, device)
    step_s = seconds(step, given.steps, device)
    every = max(config.monitor.every, 1)
    found = {name: seconds(work, given.steps, device) for name, work in diagnostics(step, config).items()}
    keep_s = found["all together"] / every / step_s
    print(
        f"{given.modality} {given.recipe}, batch {config.trainer.batch_size}, {device}, "
        f"{torch.get_num_threads()} threads; a step takes {1e3 * step_s:.1f} ms, measured every {every} steps\n"
    )
    print("| diagnostic | ms | share of the steps it is for |\n|---|---|---|")
    for name, taken in found.items():
        print(f"| {name} | {1e3 * taken:.2f} | {taken / every / step_s:.2%} |")
    print(f"\n{'within' if keep_s < BUDGET else 'BEYOND'} the budget of {BUDGET:.0%}")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        figures = {"step_s": step_s, "every": every, "seconds": found, "share": keep_s}
        given.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
