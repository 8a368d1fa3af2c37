"""What looking at every step costs: the watch's share of an optimiser step, on the CPU.

    python benchmarks/reliability/watch_cost.py      # writes results/watch_cost.json

Every recipe as it ships (``quickstart``), batch size and all; seconds are the least of a few, so that other work on the
machine counts as little as it can.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from harness import RESULTS, SUBJECTS

from jepa_core.config import compose
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.plugins import find_modality, find_recipe
from jepa_core.train import optim
from jepa_core.train.control import Control
from jepa_core.train.run import build_method
from jepa_core.train.schedule import rates_at
from jepa_core.train.watch import FiniteWatch

REPEATS = 5


def measure(name: str) -> dict[str, float]:
    """Milliseconds of a step, and of the watch in it."""
    modality = find_modality(SUBJECTS[name].modality)
    config: Any = compose(modality.schema, find_recipe(modality, "quickstart"), [f"modality={SUBJECTS[name].modality}"])
    method, source = build_method(config, modality).train(), modality.sources(config)
    batch = Loader(source, Sampler(len(source), config.seed, config.trainer.batch_size), config.seed).peek()
    groups = list(method.parameter_groups())
    optimizer, _, _ = optim.build_optimizer(groups, config.optimizer, torch.device("cpu"))
    watch = FiniteWatch(Control(), optim.weight_norm(groups), 1e9)
    rates = rates_at(1, config.trainer.max_steps, config.optimizer)
    optim.apply_rates(optimizer, rates)
    steps, watched = [], []
    for step in range(1, REPEATS + 1):
        begun_s = time.perf_counter()
        losses = method(batch, step)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step)
        steps.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        watch.allows(step, optim.differing_rate(optimizer, rates), [batch])
        watch.note(step, [losses.total], torch.tensor(1.0), optim.weight_norm(groups), [batch])
        watch.is_broken()
        watched.append(time.perf_counter() - begun_s)
    return {
        "weights": sum(p.numel() for group in groups for _, p in group.parameters),
        "step_ms": round(1e3 * min(steps), 2),
        "watch_ms": round(1e3 * min(watched), 3),
        "share": round(min(watched) / min(steps), 4),
    }


def main() -> None:
    """All subjects."""
    rows = {}
    for name in SUBJECTS:
        rows[name] = measure(name)
        print(name, rows[name], flush=True)
    (RESULTS / "watch_cost.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
