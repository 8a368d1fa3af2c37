"""What the learning benchmarks share: training as every user trains, the machine in words, spreads over seeds."""

from __future__ import annotations

import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from jepa_core.config import to_yaml
from jepa_core.contracts import Method, Modality
from jepa_core.settings import RunSettings
from jepa_core.train.checkpoint import load_into, load_model, newest
from jepa_core.train.run import run_training

Cost = dict[str, float | str]


MASKED_AUTOENCODER = [
    "vision.target.policy=pixels",
    "vision.target.normalise=layer",
    "vision.energy=l2",
    "vision.variance_weight=0.0",
]
"""What makes the control of a recipe of images or clips: all else is the recipe's."""


def train(config: RunSettings, modality: Modality, runs: Path, name: str) -> tuple[Method, Cost]:
    """Trains through the trainer that every user runs; returns the frozen method and the run's own figures."""
    config.runs_dir, config.name = str(runs / name), "run"
    before = set((runs / name).glob("*"))
    code = run_training(config, modality, to_yaml(config))
    if code != 0:
        raise SystemExit(f"training ended with exit code {code}")
    (folder,) = set((runs / name).glob("*")) - before
    method: Any = modality.build(config)
    checkpoint = newest(folder, print)
    load_into(method, load_model(checkpoint), str(checkpoint))
    result = json.loads((folder / "result.json").read_text())
    return method.eval(), {key: result[key] for key in ("steps", "seconds", "peak_rss_mib", "verdict")}


def hardware() -> str:
    """Processor, cores and versions, for the head of a table."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"{device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__.split('+')[0]}"


def spread(values: list[float]) -> str:
    """Mean and the range over seeds."""
    if max(values) == min(values):
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} .. {max(values):.3f})"
