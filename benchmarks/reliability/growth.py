"""How much the weights grow in one step of runs to which nothing is done, at the settings that people train with.

    python benchmarks/reliability/growth.py                 # trains all; writes results/growth.json
    python benchmarks/reliability/growth.py record LOG train modality=causal    # a command of jepa, its norms in LOG
    python benchmarks/reliability/growth.py LOGS            # out of LOGS/<run>.growth; what has none is left out

Quickstarts are the recipes as they ship, from the first step on. Published recipes take a few steps with small
batches, with the peak learning rate from the first step on, which their warm-up of thousands of steps does not have.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from faulty_numbers import replaced
from harness import RESULTS

from jepa_core.cli import main as jepa
from jepa_core.config import compose
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.plugins import find_modality, find_recipe
from jepa_core.settings import TrainerSettings
from jepa_core.train import optim
from jepa_core.train.run import build_method
from jepa_core.train.watch import Growth

QUICKSTARTS = ("causal", "audio", "vision", "video", "lidar")
PUBLISHED: dict[str, tuple[str, list[str]]] = {
    "ViT-S-16": ("ijepa_vitb16", ["vision.encoder.size=small"]),
    "ViT-B-16": ("ijepa_vitb16", []),
}
STEPS, BATCH = 12, 2


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        run: its name.
        steps: taken.
        learning_rate: the highest of the schedule.
        weights: how many.
        largest: growth in one step, as a factor.
        largest_at: that step.
        largest_later: growth after the first ten steps.
        alarms: steps at which the watch would have stopped the run.
    """

    run: str
    steps: int
    learning_rate: float
    weights: int
    largest: float
    largest_at: int
    largest_later: float
    alarms: int


@contextmanager
def recorded(log: Path) -> Iterator[None]:
    """Writes step, norm before and after, and the floor of every step, a line each."""
    judge = Growth.judge
    with log.open("w", buffering=1) as file:

        def judged(self: Growth, step: int, weights: float) -> str | None:
            file.write(f"{step} {self._weights!r} {weights!r} {self._floor!r}\n")
            return judge(self, step, weights)

        with replaced(Growth, "judge", judged):
            yield


def row(run: str, log: Path, learning_rate: float) -> Row:
    """What a log comes to."""
    lines = [[float(word) for word in line.split()] for line in log.read_text().splitlines()]
    floor = lines[0][3]
    growth = Growth(lines[0][1], TrainerSettings().max_weight_growth, floor)
    alarms = sum(growth.judge(int(step), after) is not None for step, _, after, _ in lines)
    factors = [1 + (after - before) / max(before, floor) for _, before, after, _ in lines]
    return Row(
        run,
        len(lines),
        learning_rate,
        round((floor / optim.USUAL_DEVIATION) ** 2),
        round(max(factors), 5),
        1 + factors.index(max(factors)),
        round(max(factors[10:], default=1.0), 5),
        alarms,
    )


def quickstart(name: str, log: Path) -> Row:
    """Of a log; the run is trained where there is none."""
    modality = find_modality(name)
    config: Any = compose(modality.schema, find_recipe(modality, "quickstart"), [f"modality={name}"])
    if not log.is_file():
        with recorded(log):
            jepa(["train", f"modality={name}", f"runs_dir={log.parent}", "logging.trackers=[]", "logging.progress=off"])
    return row(f"{name}, quickstart", log, config.optimizer.lr)


def published(name: str, log: Path) -> Row:
    """A few steps at the peak rate on one batch of the package's own pictures, in the recipe's size."""
    modality = find_modality("vision")
    recipe = find_recipe(modality, PUBLISHED[name][0])
    config: Any = compose(modality.schema, recipe, ["modality=vision", *PUBLISHED[name][1]])
    if not log.is_file():
        with recorded(log):
            _take_steps(config, modality)
    return row(f"{name}, peak rate at once", log, config.optimizer.lr)


def _take_steps(config: Any, modality: Any) -> None:
    method, source = build_method(config, modality).train(), modality.sources(config)
    batch = Loader(source, Sampler(len(source), config.seed, BATCH), config.seed).peek()
    groups = list(method.parameter_groups())
    optimizer, _, _ = optim.build_optimizer(groups, config.optimizer, torch.device("cpu"))
    watched = Growth(float(optim.weight_norm(groups)), 0, optim.usual_norm(groups))
    rates = optim.Rates(config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.beta1)
    for step in range(1, STEPS + 1):
        optim.apply_rates(optimizer, rates)
        method(batch, step).total.backward()
        optim.clip_gradients(groups, config.trainer.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step)
        watched.judge(step, float(optim.weight_norm(groups)))


def main() -> None:
    """See the head of this file."""
    words = sys.argv[1:]
    if words[:1] == ["record"]:
        with recorded(Path(words[1])):
            sys.exit(jepa(words[2:]))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(words[0] if words else made)
        every = [(name, quickstart) for name in QUICKSTARTS] + [(name, published) for name in PUBLISHED]
        places = [(name, measure, folder / f"{name}.growth") for name, measure in every]
        rows = [measure(name, log) for name, measure, log in places if not words or log.is_file()]
    for each in rows:
        print(each)
    (RESULTS / "growth.json").write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
