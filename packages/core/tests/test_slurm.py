"""The SLURM example with stand-ins for SLURM's own commands: time runs out, it saves, queues again, finishes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"
STEPS, TASKS = 24, 2
SETTINGS = [
    *(f"modality={ROOT / 'examples' / 'own_modality.py'}", f"trainer.max_steps={STEPS}", "trainer.device=cpu"),
    *("trainer.batch_size=2", "trainer.threads=1", "data.workers=0", "motion.persons=4", "motion.windows=1"),
    *("probe.enabled=false", "report.samples=0", "monitor.every=0", "logging.trackers=[]", "logging.progress=off"),
]

# Starts the tasks of a step as srun does, notes them where scancel finds them, and fails as the worst of them.
SRUN = """#!/bin/bash
echo "srun $*" >> "$FAKE/calls"
shift
pids=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_ID=0 "$@" &
    pids+=($!)
done
echo "${pids[@]}" > "$FAKE/tasks"
worst=0
for pid in "${pids[@]}"; do wait "$pid" || worst=$?; done
exit $worst
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >> "$FAKE/calls"
kill -TERM $(cat "$FAKE/tasks")
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$FAKE/calls"
if [[ $1 == show ]]; then echo 127.0.0.1; fi
"""


class Cluster:
    """A folder with stand-ins for ``srun``, ``scancel`` and ``scontrol``, first in the path."""

    def __init__(self, folder: Path, name: str) -> None:
        self.runs, self.name, self.fake = folder, name, folder / f"slurm-{name}"
        self.fake.mkdir()
        for command, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
            (self.fake / command).write_text(text)
            (self.fake / command).chmod(0o755)

    def start(self, restarts: int, *settings: str, most: int = 20) -> subprocess.Popen[str]:
        """What SLURM starts on the first machine, the batch script's own shell."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here", "SLURM_NTASKS": str(TASKS)}
        job |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        own = {"FAKE": str(self.fake), "NAME": self.name, "RUNS_DIR": str(self.runs), "PYTHON": sys.executable}
        own |= {"MOST_RESTARTS": str(most), "PATH": f"{self.fake}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            ["bash", str(SCRIPT), *SETTINGS, *settings],
            env={**kept, **job, **own},
            cwd=self.runs,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def called(self, command: str) -> list[str]:
        """Calls of a stand-in."""
        return [line for line in (self.fake / "calls").read_text().splitlines() if line.startswith(command)]

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.runs / self.name / "checkpoints" / f"step-{STEPS}" / "model.safetensors")


def told_that_time_runs_out(job: subprocess.Popen[str], run_dir: Path) -> str:
    """USR1 to the batch shell once training is under way, as ``--signal=B:USR1`` sends it."""
    until_s = time.monotonic() + 200
    while not list((run_dir / "checkpoints").glob("step-*")):
        if job.poll() is not None or time.monotonic() > until_s:
            job.kill()
            pytest.fail(f"no checkpoint: {job.communicate()[0]}")
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    return job.communicate(timeout=200)[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_whose_time_runs_out_is_queued_again_and_ends_as_one_that_had_time(tmp_path: Path) -> None:
    alone = Cluster(tmp_path, "alone")
    job = alone.start(0)
    said = job.communicate(timeout=250)[0]
    assert job.returncode == 0, said
    assert not alone.called("scontrol requeue") and (tmp_path / "alone" / "result.json").exists()

    cut = Cluster(tmp_path, "cut")
    job = cut.start(0, "trainer.checkpoint_every=2")
    said = told_that_time_runs_out(job, tmp_path / "cut")
    assert job.returncode == 0, said
    assert cut.called("scancel") == [f"scancel --signal=TERM {os.getpid()}.0"]
    assert cut.called("scontrol requeue") == [f"scontrol requeue {os.getpid()}"]
    assert not (tmp_path / "cut" / "result.json").exists()
    assert not (tmp_path / "cut" / "checkpoints" / f"step-{STEPS}").exists()

    job = cut.start(1, "trainer.checkpoint_every=2")
    said = job.communicate(timeout=250)[0]
    assert job.returncode == 0, said
    assert len(cut.called("scontrol requeue")) == 1 and (tmp_path / "cut" / "result.json").exists()
    assert all(torch.equal(value, cut.weights()[name]) for name, value in alone.weights().items())


@pytest.mark.parametrize(("code", "restarts", "again"), [(6, 0, True), (6, 3, False), (2, 0, False), (0, 0, False)])
def test_only_a_lost_machine_is_tried_again_and_not_for_ever(
    tmp_path: Path, code: int, restarts: int, again: bool
) -> None:
    cluster = Cluster(tmp_path, "run")
    (cluster.fake / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
    job = cluster.start(restarts, most=3)
    said = job.communicate(timeout=20)[0]
    assert job.returncode == code and bool(cluster.called("scontrol requeue")) == again
    assert ("not put back" in said) == (code == 6 and not again)


def test_the_example_passes_shellcheck() -> None:
    beside = str(Path(sys.executable).parent)  # where the development environment has it
    shellcheck = shutil.which("shellcheck", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
