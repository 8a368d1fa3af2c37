"""Whether a step has become slower: each quickstart recipe against a yardstick, compared with what was stored before.

    make bench-quick                                         # under five minutes; exit code 1 where a step is slower
    python benchmarks/speed/quick.py --store [--rounds 5]    # measures this machine anew, noise included

The yardstick is a training step of torch's own transformer encoder, in the same process and in turns with ours, and
never changes. A ratio is the yardstick's processor time over ours, on one thread: above what is stored, ours has become
faster. Ratios differ between processors and versions of torch, so that each pair of them has its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).parent
STORED = HERE / "results" / "quick.json"
RECIPES = ("audio", "causal", "lidar", "video", "vision")
TURNS, WARM_UP = 7, 2
LEAST_NOISE = 0.03
"""A slower step by less than this is never called one."""
NOISES = 3.0
"""How many times the noise between rounds a ratio may fall."""


def machine() -> str:
    """Processor and version of torch."""
    name = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, torch {'.'.join(torch.__version__.split('.')[:2])}"


class Yardstick:
    """A training step of ``nn.TransformerEncoder``: six blocks of width 192 on ``[4, 196, 192]``."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        block = nn.TransformerEncoderLayer(192, 3, 768, 0.0, "gelu", batch_first=True, norm_first=True)
        self.model = nn.TransformerEncoder(block, 6, enable_nested_tensor=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4)
        self.rows = torch.randn(4, 196, 192)

    def __call__(self) -> None:
        self.model(self.rows).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def our_step(name: str) -> Callable[[], None]:
    """An optimiser step of a quickstart recipe, on one batch of its own data."""
    from jepa_core.config import compose
    from jepa_core.data.loader import Loader
    from jepa_core.data.sampler import Sampler
    from jepa_core.plugins import find_modality, find_recipe
    from jepa_core.train import optim
    from jepa_core.train.run import build_method

    modality = find_modality(name)
    config: Any = compose(modality.schema, find_recipe(modality, "quickstart"), [f"modality={name}"])
    method, source = build_method(config, modality).train(), modality.sources(config)
    batch = Loader(source, Sampler(len(source), config.seed, config.trainer.batch_size), config.seed).peek()
    groups = list(method.parameter_groups())
    optimizer, _, _ = optim.build_optimizer(groups, config.optimizer, torch.device("cpu"))
    steps = iter(range(1, 10**9))
    method.watched = False

    def step() -> None:
        number = next(steps)
        method(batch, number).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(number)

    return step


def measure_recipe(name: str) -> dict[str, float]:
    """The median ratio of a recipe, and milliseconds of its step."""
    torch.set_num_threads(1)
    yardstick, ours = Yardstick(), our_step(name)
    ratios, taken = [], []
    for turn in range(WARM_UP + TURNS):
        yard_s, ours_s = _processor_s(yardstick), _processor_s(ours)
        if turn >= WARM_UP:
            ratios.append(yard_s / ours_s)
            taken.append(ours_s)
    return {"ratio": statistics.median(ratios), "step_ms": 1e3 * statistics.median(taken)}


def _processor_s(work: Callable[[], None]) -> float:
    begin_s = time.process_time()
    work()
    return time.process_time() - begin_s


def measure_round() -> dict[str, float]:
    """Every recipe's ratio, each in a process of its own."""
    found = {}
    environment = {key: value for key, value in os.environ.items() if key != "JEPA_DATA"} | {"OMP_NUM_THREADS": "1"}
    for name in RECIPES:
        words = [sys.executable, __file__, "--recipe", name]
        said = subprocess.run(words, capture_output=True, text=True, env=environment)
        if said.returncode:
            raise SystemExit(f"{name}: {said.stderr[-2000:]}")
        row = json.loads(said.stdout.splitlines()[-1])
        print(f"{name}: {row['step_ms']:.0f} ms a step, ratio {row['ratio']:.4f}", flush=True)
        found[name] = row["ratio"]
    return found


def noise_of(ratios: list[float]) -> float:
    """How far rounds lie from their median, as a share of it: the largest distance."""
    middle = statistics.median(ratios)
    return max(abs(ratio / middle - 1) for ratio in ratios)


def store(rounds: int) -> None:
    """Measures several rounds and keeps their medians and their noise."""
    found = [measure_round() for _ in range(rounds)]
    kept = json.loads(STORED.read_text()) if STORED.exists() else {}
    kept[machine()] = {
        name: {
            "ratio": round(statistics.median(each[name] for each in found), 5),
            "noise": round(noise_of([each[name] for each in found]), 4),
        }
        for name in RECIPES
    }
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"stored for {machine()}: {STORED}")


def slower(found: Mapping[str, float], stored: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each recipe whose step has become slower by more than the noise."""
    lines = []
    for name, ratio in found.items():
        if name not in stored:
            continue
        allowed = max(LEAST_NOISE, NOISES * stored[name]["noise"])
        change = ratio / stored[name]["ratio"] - 1
        if change < -allowed:
            lines.append(f"{name}: a step is {-change:.1%} slower than stored, beyond the noise of {allowed:.1%}")
    return lines


def main() -> None:
    """Compares, or stores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", choices=RECIPES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recipe:
        print(json.dumps(measure_recipe(args.recipe)))
        return
    if args.store:
        store(args.rounds)
        return
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if machine() not in stored:
        raise SystemExit(f"nothing is stored for {machine()}: run benchmarks/speed/quick.py --store on it first")
    if lines := slower(measure_round(), stored[machine()]):
        raise SystemExit("\n".join(lines))
    print("no step has become slower")


if __name__ == "__main__":
    main()
