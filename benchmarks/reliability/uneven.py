"""Samples that no number of processes divides: training, probes and tables of several processes lose and repeat none.

    python benchmarks/reliability/uneven.py     # writes results/uneven.json

90 samples are no multiple of a step's 8 or 12. The list of what each process consumed is held against the sampler's
order over whole epochs; probes are held against those of one process with the same weights.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import RESULTS, command
from observed import together
from worlds import SUBJECT, consumed, order

from jepa_core.monitor.loggers import read_metrics

SAMPLES, EPOCHS = 90, 4
MOTION = ["motion.persons=8", "motion.windows=3"]
"""90 windows of six persons; those of two are held back for the probe."""


@dataclass(frozen=True)
class Row:
    """One way to use samples.

    Attributes:
        what: training or a probe.
        steps: optimiser steps of training; 0 of what has none.
        samples: used, over all processes.
        lost, repeated: against what one process uses.
        equal: the order of samples, or the figures, are those of one process.
    """

    what: str
    processes: int
    batch: int
    steps: int
    samples: int
    lost: int
    repeated: int
    equal: bool


def settings(folder: Path, name: str, batch: int, steps: int) -> list[str]:
    """Of a run."""
    own = [f"runs_dir={folder}", f"name={name}", f"trainer.batch_size={batch}", f"trainer.max_steps={steps}"]
    return [*own, *MOTION, "data.workers=0", "trainer.checkpoint_every=0", "probe.every=100000"]


def train(folder: Path, processes: int, batch: int, steps: int) -> Path:
    """Trains; the ids that were consumed lie in ``<name>-ids``."""
    name = f"{processes}x{batch}"
    record = folder / f"{name}-ids"
    record.mkdir()
    words = command(SUBJECT, settings(folder, name, batch, steps))
    more = {"RECORD_IDS": str(record), "OBSERVE": str(record)}
    together(words[words.index("train") :], processes, folder / f"{name}.log", more)
    return folder / name


def training(folder: Path, processes: int, batch: int) -> Row:
    """Whole epochs, whose last batches are uneven."""
    steps = SAMPLES * EPOCHS // (processes * batch)
    run_dir = train(folder, processes, batch, steps)
    rows = consumed(folder / f"{run_dir.name}-ids", 1, steps)
    got, wanted = [sample for _, _, ids in rows for sample in ids], order(SAMPLES, SAMPLES * EPOCHS, MOTION)
    lost, repeated = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    assert set(Counter(wanted).values()) == {EPOCHS}
    counts = (len(got), sum(lost.values()), sum(repeated.values()))
    return Row("training, 4 epochs of 90 samples", processes, batch, steps, *counts, got == wanted)


def online_probe(folder: Path, processes: int, batch: int) -> Row:
    """Figures before the first step, where weights have the same bits whatever the number of processes."""
    found = []
    for name in ("1x12", f"{processes}x{batch}"):
        first = read_metrics(folder / name / "metrics.jsonl")[0]
        assert first["step"] == 0
        found.append({key: value for key, value in first.items() if key.startswith("probe/")})
    apart = int(found[1]["probe/samples"] - found[0]["probe/samples"])
    used = int(found[1]["probe/samples"])
    return Row("probe in training", processes, batch, 0, used, max(0, -apart), max(0, apart), found[0] == found[1])


def probe(folder: Path, processes: int) -> Row:
    """``jepa probe`` of one run, by one and by several processes."""
    found = []
    for count in (1, processes):
        out = folder / f"probe-{count}.json"
        log = folder / f"probe-{count}.log"
        together(["probe", str(folder / "1x12"), f"out={out}"], count, log)
        assert log.read_text().count(str(out)) == 1, "more than one process wrote"
        found.append(json.loads(out.read_text()))
    used, wanted = int(found[1]["n"]), int(found[0]["n"])
    return Row("jepa probe", processes, 0, 0, used, max(0, wanted - used), max(0, used - wanted), found[0] == found[1])


def main() -> None:
    """One, two and three processes."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for processes, batch in ((1, 12), (2, 4), (3, 4)):
            rows.append(training(folder, processes, batch))
            print(rows[-1], flush=True)
        rows += [online_probe(folder, 2, 4), online_probe(folder, 3, 4), probe(folder, 2)]
    for row in rows[3:]:
        print(row, flush=True)
    (RESULTS / "uneven.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if not all(row.equal for row in rows):
        raise SystemExit("samples or figures differ")


if __name__ == "__main__":
    main()
