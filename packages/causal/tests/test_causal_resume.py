"""A run that is killed without warning and taken up again ends where one that was left alone ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepa_causal.modality import MODALITY
from jepa_causal.settings import CausalRun
from jepa_core.config import compose, to_yaml
from jepa_core.plugins import find_recipe
from jepa_core.train.run import run_training

STEPS, EVERY = 400, 5
PATIENCE_S = 300

SCRIPT = """
import sys
from jepa_causal.modality import MODALITY
from jepa_core.config import compose, to_yaml
from jepa_core.plugins import find_recipe
from jepa_core.train.run import run_training

config = compose(MODALITY.schema, find_recipe(MODALITY, "quickstart"), sys.argv[1:])
sys.exit(run_training(config, MODALITY, to_yaml(config)))
"""
"""What ``jepa train`` does, also where the package is on the path and not installed."""


def settings(runs: Path, name: str, steps: int) -> list[str]:
    """Small enough for seconds; the masks, windows and actions of every step come from the run's seed and counters."""
    return [
        f"runs_dir={runs}",
        f"name={name}",
        "resume=auto",
        f"trainer.max_steps={steps}",
        f"trainer.checkpoint_every={EVERY}",
        "trainer.log_every=1",
        "trainer.batch_size=2",
        "trainer.device=cpu",
        "trainer.threads=1",
        "optimizer.warmup=0",
        "optimizer.lr_start=1",
        "optimizer.lr_end=1",  # the same rate whatever the number of steps
        "data.workers=0",
        "data.world=two_rooms",
        "data.episodes=4",
        "data.test_episodes=0",
        "data.steps=12",
        "monitor.every=1000",
        "logging.trackers=[]",
    ]


def trained(runs: Path, name: str, steps: int) -> tuple[dict[str, torch.Tensor], float]:
    """Weights and last loss of a run that is taken up or begun in this process."""
    config = compose(CausalRun, find_recipe(MODALITY, "quickstart"), settings(runs, name, steps))
    assert run_training(config, MODALITY, to_yaml(config)) == 0
    rows = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
    (weights,) = (runs / name / "checkpoints" / f"step-{steps}").glob("model.safetensors")
    return load_file(weights), [row["loss"] for row in rows if "loss" in row][-1]


def kill_after_a_checkpoint(runs: Path, name: str) -> int:
    """Starts the run in a process of its own and kills it; returns the last step that it saved."""
    command = [sys.executable, "-c", SCRIPT, *settings(runs, name, STEPS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline, folder = time.monotonic() + PATIENCE_S, runs / name / "checkpoints"
    while not list(folder.glob("step-*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return max(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
def test_killed_run_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    saved = kill_after_a_checkpoint(tmp_path, "killed")
    steps = saved + 3 * EVERY
    (weights, loss), (whole, loss_of_whole) = (trained(tmp_path, name, steps) for name in ("killed", "whole"))
    assert loss == loss_of_whole and weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
