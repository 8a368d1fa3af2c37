"""What the reliability benchmarks share: runs as commands in processes of their own, kill -9, and what must agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jepa_core.monitor.loggers import read_metrics

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
PATIENCE_S = 240
MEASURED_TIMES = ("time", "samples_per_s", "steps_per_s", "data_wait", "peak_rss_mib")
"""Figures of a line of metrics.jsonl that say how fast a machine was, not what a run did."""

COMMON = [
    *("trainer.device=cpu", "trainer.threads=1", "trainer.log_every=1", "monitor.every=5", "report.samples=0"),
    *("logging.progress=lines", "logging.lines_every=100000", "logging.trackers=[]", "resume=auto"),
]
_SMALL = ["vision.encoder.size=nano", "vision.predictor.width=64", "vision.predictor.depth=1"]


@dataclass(frozen=True)
class Subject:
    """A modality at a size that trains in seconds.

    Attributes:
        modality: name or file.
        steps: of the whole run.
        every: steps between two checkpoints.
        settings: what makes it small.
    """

    modality: str
    steps: int
    every: int
    settings: list[str] = field(default_factory=list)


SUBJECTS = {
    "motion": Subject(str(ROOT / "examples" / "own_modality.py"), 40, 4, ["trainer.batch_size=2"]),
    "causal": Subject(
        "causal", 120, 12, ["trainer.batch_size=2", "data.episodes=6", "data.test_episodes=2", "data.slot_steps=2"]
    ),
    "vision": Subject("vision", 24, 3, ["trainer.batch_size=2", *_SMALL]),
    "audio": Subject(
        "audio",
        24,
        3,
        [
            *("trainer.batch_size=2", "audio.encoder.size=nano", "audio.predictor.width=64"),
            *("audio.predictor.depth=1", "audio.predictor.heads=4", "data.seconds=1.6"),
        ],
    ),
    "video": Subject(
        "video",
        16,
        2,
        [
            *("trainer.batch_size=2", *_SMALL, "vision.predictor.heads=0"),
            *("data.frames=8", "data.height=64", "data.width=64"),
        ],
    ),
    "lidar": Subject(
        "lidar",
        12,
        2,
        ["trainer.batch_size=1", "data.root=simulated", "data.azimuths=96", "data.beams=32", "data.scenes=4"],
    ),
}


def command(subject: Subject, settings: Sequence[str], processes: int = 1) -> list[str]:
    """What a user would type; several processes by torchrun."""
    arguments = [f"modality={subject.modality}", *COMMON, *subject.settings]
    arguments += [f"trainer.max_steps={subject.steps}", f"trainer.checkpoint_every={subject.every}", *settings]
    if processes == 1:
        return [sys.executable, "-m", "jepa_core", "train", *arguments]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, str(ROOT / "tools" / "train.py"), *arguments]


def start(words: Sequence[str], log: Path, more: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a command in a process group of its own; what it says is added to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JEPA_")}
    with log.open("ab") as out:
        return subprocess.Popen(
            list(words),
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**kept, "OMP_NUM_THREADS": "1", **(more or {})},
            process_group=0,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill -9 of a command and of all that it started, launcher first, so that nothing can tidy up."""
    try:
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        everyone = []
    for one in everyone:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(everyone, timeout=20)


def steps_saved(run_dir: Path) -> list[int]:
    """Steps of the checkpoints that a run folder has, lowest first."""
    return sorted(int(path.name[5:]) for path in (run_dir / "checkpoints").glob("step-*"))


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when a checkpoint of ``step`` or later is in place."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not any(saved >= step for saved in steps_saved(run_dir)):
        if process.poll() is not None or time.monotonic() > deadline_s:
            kill(process)
            raise SystemExit(f"no step-{step} in {run_dir}:\n{log.read_text()[-3000:]}")
        time.sleep(0.004)


def train_to_the_end(words: Sequence[str], run_dir: Path, step: int, log: Path) -> None:
    """Trains to the last checkpoint; the probe that follows is cut off, it changes none of what is compared."""
    process = start(words, log)
    wait_for_step(run_dir, step, process, log)
    kill(process)


def last_logged(run_dir: Path) -> int:
    """The last step that metrics.jsonl has a whole line of."""
    lines = (run_dir / "metrics.jsonl").read_text(errors="replace").rpartition("\n")[0].splitlines()
    return int(json.loads(lines[-1])["step"]) if lines else 0


def contents(run_dir: Path, step: int) -> dict[str, Any]:
    """What must agree to the bit: every file of a checkpoint and every logged figure, without measured times."""
    folder = run_dir / "checkpoints" / f"step-{step}"
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    found["optimizer.json"] = (folder / "optimizer.json").read_bytes()
    state = json.loads((folder / "trainer_state.json").read_text())
    found["trainer_state.json"] = {key: value for key, value in state.items() if key != "seconds"}
    rows = read_metrics(run_dir / "metrics.jsonl")
    found["metrics.jsonl"] = [{k: v for k, v in row.items() if k not in MEASURED_TIMES} for row in rows]
    return found


def compare(wanted: dict[str, Any], got: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Names that agree, and names that differ or are there once."""
    names = sorted({*wanted, *got})
    equal = [name for name in names if name in wanted and name in got and repr(wanted[name]) == repr(got[name])]
    return equal, [name for name in names if name not in equal]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"
