"""Two machines, tried for real: two network namespaces of one host, joined by a cable that can be pulled.

    sudo python benchmarks/reliability/machines.py --folder <scratch folder>     # Linux, root, about fifteen minutes

Each case trains the example sensor with one process a machine through ``torchrun``: the weights against those of one
process on the joined batch, a worker that is killed, one that is killed where restarts are allowed, a cable that is
pulled; the last two under both ways in which machines find each other. Writes ``MACHINES.md``, the words of which
above and below the table lie in ``machines_head.md`` and ``machines_cable.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, kill, table
from safetensors.torch import load_file

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "own_modality.py"
MACHINES = ("jepakit-a", "jepakit-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CABLES = ("jepakit-va", "jepakit-vb")
LIMIT_S = 240
TIMEOUT_S = 30
STEPS, SAVE_EVERY, KILL_AFTER = 60, 10, 20
_SHOWN = {"steps": STEPS, "every": SAVE_EVERY, "after": KILL_AFTER, "timeout": TIMEOUT_S, "limit": LIMIT_S}


@contextmanager
def two_machines() -> Iterator[None]:
    """Two namespaces with a cable between them."""
    _remove()
    for name in MACHINES:
        _ip("netns", "add", name)
    _ip("link", "add", CABLES[0], "type", "veth", "peer", "name", CABLES[1])
    for name, cable, address in zip(MACHINES, CABLES, ADDRESSES, strict=True):
        _ip("link", "set", cable, "netns", name)
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
        _ip("-n", name, "link", "set", cable, "up")
        _ip("-n", name, "link", "set", "lo", "up")
    try:
        yield
    finally:
        _remove()


def _remove() -> None:
    for name in MACHINES:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def settings(runs: Path, batch: int) -> list[str]:
    """The run, the same in every case but for the samples a process takes."""
    return [
        f"modality={EXAMPLE}",
        f"runs_dir={runs}",
        "name=run",
        f"trainer.batch_size={batch}",
        f"trainer.max_steps={STEPS}",
        f"trainer.checkpoint_every={SAVE_EVERY}",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.log_every=1",
        f"trainer.timeout_s={TIMEOUT_S}",
        "data.workers=0",
        "motion.persons=8",
        "motion.windows=4",
        "probe.enabled=false",
        "logging.trackers=[]",
        "logging.progress=off",
        "resume=auto",
    ]


def meeting(number: int, runs: Path, backend: str) -> list[str]:
    """How a machine's ``torchrun`` finds the other: ``c10d``, ``c10d, retries`` or ``static``."""
    if backend == "static":
        return ["--node_rank", str(number), "--master_addr", ADDRESSES[0], "--master_port", "29517"]
    # A namespace has no name of its own, by which torchrun would know the host of the meeting.
    found = ["--rdzv_backend", "c10d", "--rdzv_id", runs.name, "--rdzv_endpoint", f"{ADDRESSES[0]}:29517"]
    return [*found, "--rdzv_conf", f"is_host={number == 0}", "--local_addr", ADDRESSES[number]]


def machine(number: int, runs: Path, restarts: int, backend: str) -> subprocess.Popen[bytes]:
    """One machine's ``torchrun``, in a session of its own."""
    command = ["ip", "netns", "exec", MACHINES[number], sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes", "2", "--nproc_per_node", "1", "--max_restarts", str(restarts)]
    command += [*meeting(number, runs, backend), "-m", "jepa_core", "train", *settings(runs, 4)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLES[number]}
    log = (runs / f"machine-{number}.log").open("w")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


@dataclass(frozen=True)
class Case:
    """What is tried.

    Attributes:
        what: words for the table.
        harm: done once a checkpoint stands: ``worker`` or ``cable`` of the second machine; empty = nothing.
        restarts: ``--max_restarts``.
        backend: how the machines find each other, ``c10d`` or ``static``.
        tcp_retries: ``net.ipv4.tcp_retries2`` of both machines; 0 = as the kernel has it.
    """

    what: str
    harm: str = ""
    restarts: int = 0
    backend: str = "c10d"
    tcp_retries: int = 0


CASES = {
    "two": Case("nothing"),
    "killed": Case("worker of the second machine killed (-9)", "worker"),
    "restarted": Case("the same, three restarts allowed", "worker", 3),
    "restarted-static": Case("the same", "worker", 3, "static"),
    "cable": Case("cable pulled", "cable"),
    "cable-retries": Case("the same, `net.ipv4.tcp_retries2=6`", "cable", tcp_retries=6),
    "cable-static": Case("the same", "cable", backend="static"),
}


@dataclass(frozen=True)
class Ended:
    """What a case came to: exit codes and seconds from what was done to it, the last step, words of the logs."""

    codes: tuple[int | None, ...]
    seconds: tuple[float, ...]
    steps: int
    said: tuple[str, ...]


def run_case(runs: Path, case: Case) -> Ended:
    """Trains on two machines."""
    runs.mkdir(parents=True)
    with two_machines():
        if case.tcp_retries:
            for name in MACHINES:
                _ip("netns", "exec", name, "sysctl", "-qw", f"net.ipv4.tcp_retries2={case.tcp_retries}")
        both = [machine(number, runs, case.restarts, case.backend) for number in range(2)]
        try:
            if case.harm:
                _wait_for(runs / "run" / "checkpoints" / f"step-{KILL_AFTER}", both)
                _harm(case.harm, both[1])
            return _ends(both, runs)
        finally:
            for process in both:
                kill(process)


def _wait_for(path: Path, both: list[subprocess.Popen[bytes]]) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not path.exists():
        if time.monotonic() > until_s or any(process.poll() is not None for process in both):
            raise SystemExit(f"{path}: expected a checkpoint, got none within {LIMIT_S} s; see the logs beside it")
        time.sleep(0.02)


def _harm(harm: str, second: subprocess.Popen[bytes]) -> None:
    if harm == "cable":
        _ip("-n", MACHINES[1], "link", "set", CABLES[1], "down")
        return
    # The worker is the child of torchrun, which ip has become by now.
    children = subprocess.run(["pgrep", "-P", str(second.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(children.split()[0]), signal.SIGKILL)


def _ends(both: list[subprocess.Popen[bytes]], runs: Path) -> Ended:
    start_s, ended = time.monotonic(), [float("nan")] * 2
    while time.monotonic() - start_s < LIMIT_S and any(process.poll() is None for process in both):
        for number, process in enumerate(both):
            if process.poll() is not None and ended[number] != ended[number]:
                ended[number] = time.monotonic() - start_s
        time.sleep(0.05)
    ended = [time.monotonic() - start_s if each != each else each for each in ended]
    steps = [int(path.name.removeprefix("step-")) for path in (runs / "run" / "checkpoints").glob("step-*")]
    said = [line.strip() for n in range(2) for line in (runs / f"machine-{n}.log").read_text().splitlines()]
    ours = tuple(dict.fromkeys(line for line in said if line.startswith(("jepa:", "jepa (process"))))
    return Ended(tuple(process.poll() for process in both), tuple(ended), max(steps, default=0), ours)


def one_process(runs: Path) -> Path:
    """The run without machines: one process takes the joined batch."""
    command = [sys.executable, "-m", "jepa_core", "train", *settings(runs, 8)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    return runs / "run"


def farthest(one: Path, two: Path) -> float:
    """The largest difference of any weight after the last step."""
    weights = [load_file(run / "checkpoints" / f"step-{STEPS}" / "model.safetensors") for run in (one, two)]
    return max(float((weights[0][name].double() - weights[1][name].double()).abs().max()) for name in weights[0])


def main() -> None:
    """The cases named, or all, into ``results/machines.json``; then the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="as they are called in CASES; none = all")
    given = parser.parse_args()
    folder = given.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    one, path = one_process(folder / "one"), RESULTS / "machines.json"
    for name in given.cases or CASES:
        ended = run_case(folder / name, CASES[name])
        far = farthest(one, folder / name / "run") if ended.steps == STEPS else None
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, name: {**asdict(ended), "far": far}}, indent=1) + "\n")
        print(name, ended, far, flush=True)
    write_page(json.loads(path.read_text()))


def write_page(found: dict[str, dict[str, Any]]) -> None:
    """``MACHINES.md``."""
    lines = [(HERE / "machines_head.md").read_text().format(torch=torch.__version__, **_SHOWN)]
    head = (
        "what was done|machines find each other by|exit codes|seconds|last checkpoint|farthest weight from one process"
    )
    known = [(case, found[name]) for name, case in CASES.items() if name in found]
    lines += [table(head.split("|"), [_cells(case, ended) for case, ended in known])]
    lines.append("What jepakit itself said in each case:\n")
    for case, ended in known:
        said = " / ".join(f"`{line}`" for line in ended["said"]) or "nothing"
        lines.append(f"- {case.what} ({case.backend}): {said}")
    lines.append("\n" + (HERE / "machines_cable.md").read_text())
    (HERE / "MACHINES.md").write_text("\n".join(lines), encoding="utf-8")


def _cells(case: Case, ended: dict[str, Any]) -> list[str]:
    codes = ", ".join("still running" if code is None else str(code) for code in ended["codes"])
    far = "–" if ended["far"] is None else f"{ended['far']:.1e}"
    seconds = ", ".join(f"{each:.0f}" for each in ended["seconds"])
    return [case.what, case.backend, codes, seconds, f"step {ended['steps']}", far]


if __name__ == "__main__":
    main()
