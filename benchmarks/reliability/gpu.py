"""What only a machine with GPUs can show of reliability: the watch's lag, saving, resuming, and methods cut over GPUs.

    python benchmarks/reliability/gpu.py                  # all GPUs there are; writes gpu.md and results/gpu.json
    python benchmarks/reliability/gpu.py --device cpu     # a rehearsal in two CPU processes, printed and not written

Without a GPU it ends with one line and exit code 2. Runs are those of the motion example; those that must agree to the
bit are made with ``torch.use_deterministic_algorithms``. ZeRO needs ``pip install deepspeed``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from harness import RESULTS, ROOT, SUBJECTS, command, compare, contents, kill, start, table, wait_for_step
from safetensors.torch import load_file

HERE = Path(__file__).parent
MOTION = SUBJECTS["motion"]
SHORT = ["motion.persons=8", "data.workers=0", "probe.enabled=false", "trainer.batch_size=4", "trainer.max_steps=20"]
PRECISIONS = ("fp32", "bf16")
LIMIT_S = 540
"""Of one command."""


@dataclass(frozen=True)
class Row:
    """One line of the table; ``held`` is None where it was not run."""

    what: str
    asked: str
    found: str
    held: bool | None


class Bench:
    """All cases on one kind of device.

    Args:
        device: ``cuda`` or ``cpu``.
        processes: of the runs over several.
        folder: where runs lie.
    """

    def __init__(self, device: str, processes: int, folder: Path) -> None:
        self.device, self.processes, self.folder = device, processes, folder

    def arguments(self, name: str, settings: Sequence[str]) -> list[str]:
        """Settings of a run; of two with one key the last counts, so that the device comes after those it replaces."""
        whole = command(MOTION, [*SHORT, *settings])[4:]
        mine = [f"trainer.device={self.device}", f"runs_dir={self.folder}", f"name={name}"]
        keys = {word.partition("=")[0] for word in [*SHORT, *settings, *mine]}
        first = [word for word in whole if word.partition("=")[0] not in keys]
        return [*first, *SHORT, *settings, *mine]

    def deterministic(self, name: str, *settings: str) -> list[str]:
        """A command that trains with deterministic kernels."""
        return [sys.executable, __file__, "train", *self.arguments(name, settings)]

    def trained(self, words: Sequence[str], name: str) -> Path:
        """Runs to the end.

        Raises:
            SystemExit: it failed; with the end of what it said.
        """
        log = self.folder / f"{name}.log"
        process = start(words, log, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            kill(process)
            code = 124
        if code:
            raise SystemExit(f"{name}: exit code {code}: {log.read_text(errors='replace')[-3000:]}")
        return self.folder / name

    # ------------------------------------------------------------------------------------------------- cases

    def watch(self) -> Iterator[Row]:
        """NaN at one step: how many steps more were taken, and what was saved."""
        import faulty_numbers as numbers

        most = 0 if self.device == "cpu" else 1
        for precision in PRECISIONS:
            for fault in numbers.FAULTS[:1] + numbers.FAULTS[4:5] + numbers.FAULTS[7:8]:
                own = (f"trainer.device={self.device}", f"trainer.precision={precision}")
                case = numbers.Fault(fault.name, own, fault.batch, fault.losses, fault.weights, fault.rate)
                with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                    seen = numbers.run(case, Path(folder))
                found = f"exit code {seen['exit_code']}, {seen['further_steps']} steps more, newest checkpoint "
                found += f"step {seen['newest_checkpoint']} of {numbers.STEP}"
                held = seen["exit_code"] == 3 and seen["further_steps"] <= most and seen["all_saved_finite"]
                asked = f"at most {most} steps more, exit code 3, nothing of it saved"
                yield Row(f"{fault.name}, {precision}", asked, found, held)

    def resume(self) -> Iterator[Row]:
        """kill -9 and go on, against a run that nothing happened to."""
        for precision in PRECISIONS:
            own = (f"trainer.precision={precision}", "trainer.checkpoint_every=4")
            whole = self.trained(self.deterministic(f"whole-{precision}", *own), f"whole-{precision}")
            name = f"killed-{precision}"
            words, log = self.deterministic(name, *own), self.folder / f"{name}.log"
            process = start(words, log, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})
            wait_for_step(self.folder / name, 8, process, log)
            kill(process)
            killed = self.trained(words, name)
            yield _bits(f"kill -9 after step 8 and resume=auto, {precision}", whole, killed)

    def background(self) -> Iterator[Row]:
        """Checkpoints written from a copy while training goes on, against those for which it waits."""
        runs = []
        for setting in ("false", "true"):
            name = f"background-{setting}"
            own = ("trainer.checkpoint_every=2", f"trainer.save_in_background={setting}", "trainer.precision=bf16")
            runs.append(self.trained(self.deterministic(name, *own), name))
        yield _bits("trainer.save_in_background=true, bf16", *runs)

    def cut(self) -> Iterator[Row]:
        """FSDP2 and ZeRO, by Accelerate's launcher and the files in ``launch/``, against DDP."""
        kinds = {"fsdp2": "fsdp2.yaml", "zero1": "deepspeed_zero1.yaml", "zero2": "deepspeed_zero2.yaml"}
        asked = "weights of DDP to 1e-3 of each tensor's largest, after 20 steps"
        ddp = None
        for kind, file in kinds.items():
            missing = self._missing(kind)
            if missing:
                yield Row(f"{kind} by launch/{file}", asked, f"not run: {missing}", None)
                continue
            ddp = ddp or self.trained([*self._torchrun(), *self.arguments("ddp", ("trainer.precision=fp32",))], "ddp")
            words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / file)]
            words += ["--num_processes", str(self.processes), str(ROOT / "tools" / "train.py")]
            run = self.trained([*words, *self.arguments(kind, ("trainer.precision=fp32",))], kind)
            far = farthest(run, ddp)
            yield Row(f"{kind} by launch/{file}, {self.processes} processes", asked, f"{far:.1e}", far < 1e-3)

    def _missing(self, kind: str) -> str:
        if self.processes < 2:
            return "it needs two GPUs"
        if kind.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
            return "deepspeed is not installed"
        return ""

    def _torchrun(self) -> list[str]:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        return [*words, str(ROOT / "tools" / "train.py")]


def _bits(what: str, one: Path, two: Path) -> Row:
    _, differ = compare(contents(one, 20), contents(two, 20))
    found = "all equal" if not differ else f"differ: {', '.join(differ)}"
    return Row(what, "every file and figure to the bit", found, not differ)


def farthest(one: Path, two: Path) -> float:
    """The largest difference of two runs' weights, as a fraction of the largest value of the tensor."""
    weights = [load_file(run / "checkpoints" / "step-20" / "model.safetensors") for run in (one, two)]
    apart = [
        (weights[0][n] - value).abs().max() / value.abs().max().clamp(min=1e-12) for n, value in weights[1].items()
    ]
    return float(torch.stack(apart).max())


def page(rows: Sequence[Row], device: str) -> str:
    """The table as Markdown."""
    held = {True: "yes", False: "**no**", None: "not run"}
    lines = [[row.what, row.asked, row.found, held[row.held]] for row in rows]
    head = f"# On GPUs\n\n`python benchmarks/reliability/gpu.py`: {device}, torch {torch.__version__}.\n\n"
    return head + table(["what", "asked", "found", "held"], lines)


def train(arguments: Sequence[str]) -> int:
    """``jepa train`` with deterministic kernels: what the cases that compare bits start."""
    from jepa_core.cli import main as jepa

    torch.use_deterministic_algorithms(True)
    return int(jepa(["train", *arguments]) or 0)


def main() -> int:
    """All cases, and the page."""
    if sys.argv[1:2] == ["train"]:
        return train(sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", choices=("watch", "resume", "background", "cut"), nargs="*", default=[])
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu.py: expected a CUDA device, torch sees none: run it on a machine with GPUs", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = 2 if options.device == "cpu" else torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.device, processes, Path(folder))
        cases: dict[str, Callable[[], Iterator[Row]]] = {
            "watch": bench.watch,
            "resume": bench.resume,
            "background": bench.background,
            "cut": bench.cut,
        }
        rows = []
        for name, case in cases.items():
            for row in case() if not options.only or name in options.only else ():
                print(f"{row.held}: {row.what}: {row.found}", flush=True)
                rows.append(row)
    machine = "CPU" if options.device == "cpu" else f"{processes} x {torch.cuda.get_device_name()}"
    if options.device == "cuda" and not options.only:
        (HERE / "gpu.md").write_text(page(rows, machine), encoding="utf-8")
        (RESULTS / "gpu.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    print(page(rows, machine))
    return int(any(row.held is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
