"""Several processes against one on the joined batch: losses, gradients, weights, targets, statistics, embeddings.

    python benchmarks/reliability/processes.py [motion causal ...]     # writes results/processes-<subject>.json

Every run takes the same samples with the same masks: B at once in one process, or B / P in each of P. What differs is
measured after the first and after the last observed step; one more run of one process takes the samples of each batch
in reversed order, and so shows what the order of sums alone does to the same figures.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from harness import MEASURED_TIMES, RESULTS, SUBJECTS, command
from observed import STEPS, together
from safetensors.torch import load_file
from torch import Tensor

from jepa_core.monitor.loggers import read_metrics

BATCHES = {"lidar": 4}
SMALLER = {"motion": ["motion.persons=4", "motion.windows=6"]}
BATCH = 12
"""Samples of a step; divisible by 2 and 3 processes, and by two micro-batches of 2."""
WHOLE_PRODUCT = ("motion", "causal", "vision")
CLIPPED = {"motion": 0.05}
"""Gradient norms that each step has more of."""
FLOOR = 1e-3
"""Differences are taken relative to the largest entry of a tensor, but at least to this share of its group's largest:
a gradient that is 0 but for rounding has nothing to be relative to."""
GROUPS = ("loss", "gradient", "clipped", "online", "target", "statistics")
FIRST_SAMPLES = ("monitor/prediction/context_use", "monitor/samples/share")
"""Figures of the first samples of a batch: others, in a batch that is reversed."""


@dataclass(frozen=True)
class Case:
    """Runs that are compared: ``processes`` and micro-batches, or the reversed order, in one dtype."""

    processes: int = 1
    accumulation: int = 1
    dtype: str = "float32"
    order: str = "as given"

    @property
    def reference(self) -> Case:
        """One process on the joined batch."""
        return replace(self, processes=1, order="as given")

    @property
    def name(self) -> str:
        """Of the run folder."""
        return f"{self.processes}-{self.accumulation}-{self.dtype}-{self.order.split()[0]}"


@dataclass(frozen=True)
class Row:
    """A case against its reference.

    Attributes:
        batch: samples of a step, over all processes and micro-batches.
        step: optimiser step after which it was looked at.
        differences: largest relative difference of each group; 0 where all bits are equal.
        worst: tensor that has it.
        alike: whether all processes hold the same bits.
        metrics: largest relative difference of the logged figures, and which one has it.
        unlike: logged figures that are not there in both, or whose counts differ.
    """

    case: Case
    batch: int
    step: int
    differences: dict[str, float]
    worst: dict[str, str]
    alike: bool
    metrics: tuple[float, str]
    unlike: list[str]


def cases(subject: str) -> list[Case]:
    """References come first."""
    pairs = [(1, "float32"), (2, "float32"), (1, "float64"), (2, "float64")]
    pairs = {"lidar": pairs[:3], "audio": pairs[::3], "video": pairs[::3]}.get(subject, pairs)
    found = [Case(1, *pair) for pair in pairs] + [Case(order="reversed")] + [Case(2, *pair) for pair in pairs]
    return [*found, Case(3)] if subject in WHOLE_PRODUCT else found


def train(subject: str, case: Case, folder: Path) -> Path:
    """Trains to the last observed step."""
    own, batch = folder / case.name, BATCHES.get(subject, BATCH)
    own.mkdir(parents=True)
    settings = [f"runs_dir={own}", "name=run", "data.workers=0", f"trainer.clip_norm={CLIPPED.get(subject, 0.01)}"]
    settings += ["probe.enabled=false", "trainer.precision=fp32"]  # native is bf16 where the CPU multiplies in it
    settings += [f"trainer.batch_size={batch // case.processes // case.accumulation}", "monitor.every=1"]
    settings += [f"trainer.accumulation={case.accumulation}", "trainer.max_weight_growth=0"]
    sized = replace(
        SUBJECTS[subject], steps=STEPS[-1], every=0, settings=[*SUBJECTS[subject].settings, *SMALLER.get(subject, [])]
    )
    words = command(sized, settings)
    more = {"OBSERVE": str(own), "OBSERVE_DTYPE": case.dtype, "OBSERVE_ORDER": case.order}
    together(words[words.index("train") :], case.processes, folder / f"{case.name}.log", more)
    return own


def relative(wanted: dict[str, Tensor], got: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of any tensor, and which; see ``FLOOR``."""
    assert set(wanted) == set(got), sorted(set(wanted) ^ set(got))
    if not wanted:
        return 0.0, ""
    largest = {name: float(value.double().abs().max()) if value.numel() else 0.0 for name, value in wanted.items()}
    floor = FLOOR * max(largest.values())
    found = {}
    for name, value in wanted.items():
        apart = (value.double() - got[name].double()).abs()
        found[name] = float(apart.max()) / max(largest[name], floor, 1e-300) if apart.numel() else 0.0
    worst = max(found, key=lambda name: found[name])
    return found[worst], worst


def group(found: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a group."""
    return {key.partition("/")[2]: value for key, value in found.items() if key.startswith(f"{name}/")}


def logged(folder: Path, step: int) -> dict[str, float]:
    """The figures of a step without measured times."""
    rows = [row for row in read_metrics(folder / "run" / "metrics.jsonl") if row["step"] == step]
    return {key: value for key, value in rows[-1].items() if key not in (*MEASURED_TIMES, "step")}


def metrics(case: Case, wanted: dict[str, float], got: dict[str, float]) -> tuple[tuple[float, str], list[str]]:
    """The largest relative difference of figures, and names of figures that one of both lacks or counts otherwise."""
    left_out = FIRST_SAMPLES if case.order == "reversed" else ()
    unlike = sorted(set(wanted) ^ set(got))
    apart = {}
    for name in sorted(set(wanted) & set(got)):
        if name in left_out:
            continue
        if name.rpartition("/")[2] in ("rows", "dimensions", "finite") and wanted[name] != got[name]:
            unlike.append(name)
        apart[name] = abs(wanted[name] - got[name]) / max(abs(wanted[name]), 1e-6)
    worst = max(apart, key=lambda name: apart[name])
    return (apart[worst], worst), unlike


def compared(case: Case, batch: int, folder: Path) -> list[Row]:
    """One row a step."""
    rows = []
    for step in STEPS:
        wanted = load_file(folder / case.reference.name / f"{step}-0.safetensors")
        got = [load_file(folder / case.name / f"{step}-{place}.safetensors") for place in range(case.processes)]
        found = {name: relative(group(wanted, name), group(got[0], name)) for name in GROUPS}
        alike = all(torch.equal(each[name], got[0][name]) for each in got for name in got[0])
        figures = [logged(folder / one.name, step) for one in (case.reference, case)]
        far, unlike = metrics(case, *figures)
        differences = {name: value for name, (value, _) in found.items()}
        worst = {name: tensor for name, (_, tensor) in found.items()}
        rows.append(Row(case, batch, step, differences, worst, alike, far, unlike))
        print(rows[-1], flush=True)
    return rows


# --------------------------------------------------------------------------------------------------------------------
# Embeddings
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of several processes against that of one.

    Attributes:
        samples: of the table of one process.
        same_samples: the same names in the same order, each once.
        bitwise: whether all vectors have the same bits.
        apart: the largest difference relative to the largest entry.
    """

    processes: int
    batch: int
    samples: int
    same_samples: bool
    bitwise: bool
    apart: float


def embedded(run_dir: Path, split: str, out: Path, processes: int, batch: int) -> Path:
    """What ``jepa embed`` writes, in so many processes."""
    settings = [str(run_dir), f"out={out}", f"split={split}", f"trainer.batch_size={batch}", "data.workers=0"]
    together(["embed", *settings], processes, out.with_suffix(".log"))
    return out


def tables(subject: str, folder: Path, run_dir: Path) -> list[Table]:
    """Two and three processes; 7 samples at a time divide no data set of these."""
    import numpy as np

    from jepa_core.evaluate.tables import read_table

    rows = []
    whole = subject in WHOLE_PRODUCT
    for batch in (4, 7) if whole else (7,):
        split = "test" if subject in ("lidar", "video") else "all"
        one = read_table(embedded(run_dir, split, folder / f"one-{batch}.parquet", 1, batch))
        names = one.sample_id.tolist()
        for processes in (2, 3):
            got = read_table(embedded(run_dir, split, folder / f"{processes}-{batch}.parquet", processes, batch))
            same = got.sample_id.tolist() == names and len(set(names)) == len(names)
            apart = float(np.abs(got.vectors - one.vectors).max() / np.abs(one.vectors).max()) if same else float("nan")
            bitwise = same and got.vectors.tobytes() == one.vectors.tobytes()
            rows.append(Table(processes, batch, len(names), same, bitwise, apart))
            print(rows[-1], flush=True)
    return rows


def measure(subject: str, folder: Path) -> dict[str, object]:
    """All cases of a subject."""
    rows: list[Row] = []
    for case in cases(subject):
        train(subject, case, folder)
        if case != case.reference:
            rows += compared(case, BATCHES.get(subject, BATCH), folder)
    found = tables(subject, folder, folder / Case().name / "run")
    return {"training": [asdict(row) for row in rows], "embeddings": [asdict(row) for row in found]}


def write(subject: str) -> None:
    """Measures a subject into its file."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(subject, Path(folder))
    (RESULTS / f"processes-{subject}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Every subject named, or all, each in a process of its own: reading tables starts threads, which do not fork."""
    for name in sys.argv[1:] or list(SUBJECTS):
        process = multiprocessing.get_context("fork").Process(target=write, args=(name,))
        process.start()
        process.join()
        if process.exitcode != 0:
            sys.exit(f"{name}: failed")


if __name__ == "__main__":
    main()
