"""What the tests across packages share: the repository, a quick run's settings, the command in a process of its own."""

from pathlib import Path

import pytest
from running import Runner

ROOT = Path(__file__).resolve().parents[1]
QUICK = [
    "modality=lidar",
    "trainer.max_steps=2",
    "trainer.batch_size=2",
    "trainer.log_every=1",
    "trainer.device=cpu",
    "trainer.threads=1",
    "data.root=simulated",
    "data.scenes=8",
    "data.azimuths=64",
    "data.beams=32",
    "data.workers=0",
    "probe.train_scans=3",
    "probe.test_scans=3",
    "monitor.every=1",
    "name=quick",
]
"""The smallest run that goes all the way to a report."""


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def quick() -> list[str]:
    """Arguments of ``jepa train`` for a run of seconds."""
    return list(QUICK)


@pytest.fixture(scope="session")
def run() -> Runner:
    """Runs commands in processes of their own."""
    return Runner()
