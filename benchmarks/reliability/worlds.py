"""Another number of processes: the samples that were consumed, in order, none lost, none twice.

    python benchmarks/reliability/worlds.py     # writes results/worlds.json

The first part of a run is killed at a random moment; what it consumed after its last checkpoint is consumed again by
the second part, on another number of processes. The list of both is held against the order that the sampler gives.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import RESULTS, Subject, command, kill, start, steps_saved, train_to_the_end, wait_for_step

from jepa_core.data.sampler import Sampler

STEPS, EVERY, PERSONS, WINDOWS = 60, 4, 4, 6
SUBJECT = Subject(
    str(Path(__file__).parent / "recording.py"),
    STEPS,
    EVERY,
    [f"motion.persons={PERSONS}", f"motion.windows={WINDOWS}", "trainer.max_weight_growth=0"],
)
"""90 samples: 60 steps of 4 samples are more than two epochs, so that the change falls into the middle of one."""


@dataclass(frozen=True)
class Row:
    """One change of the number of processes; ``lost`` and ``repeated`` count samples against the sampler's order."""

    change: str
    resumed_from: int
    consumed: int
    in_order: bool
    lost: int
    repeated: int


def consumed(folder: Path, first: int, last: int) -> list[tuple[int, int, list[str]]]:
    """(step, process, ids) of the micro-batches of steps ``first`` to ``last``, as they follow in the order."""
    lines = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    # Within a process micro-batches stand in the order they were taken; over processes: micro-batch, then rank.
    grouped: dict[tuple[int, int], list[list[str]]] = {}
    for line in lines:
        if first <= line["step"] <= last:
            grouped.setdefault((line["step"], line["process"]), []).append(line["ids"])
    out = []
    for step in range(first, last + 1):
        ranks = [grouped[key] for key in sorted(key for key in grouped if key[0] == step)]
        out += [(step, r, ids) for micro in zip(*ranks, strict=True) for r, ids in enumerate(micro)]
    return out


def measure(folder: Path, before: tuple[int, int], after: tuple[int, int], draw: random.Random) -> Row:
    """Each part: (processes, batch size)."""
    name = f"{before[0]}-to-{after[0]}-{after[1]}"
    log = folder / f"{name}.log"
    parts = []
    for processes, batch in (before, after):
        own = [f"runs_dir={folder}", f"name={name}", f"trainer.batch_size={batch}", "data.workers=0"]
        parts.append(command(SUBJECT, own, processes))
    records = [folder / f"{name}-{part}" for part in ("first", "second")]
    for record in records:
        record.mkdir()
    process = start(parts[0], log, {"RECORD_IDS": str(records[0])})
    wait_for_step(folder / name, EVERY * draw.randrange(4, 9), process, log)
    time.sleep(draw.uniform(0, 0.3))
    kill(process)
    saved = max(steps_saved(folder / name))
    os.environ["RECORD_IDS"] = str(records[1])
    train_to_the_end(parts[1], folder / name, STEPS, log)
    rows = consumed(records[0], 1, saved) + consumed(records[1], saved + 1, STEPS)
    got = [sample for _, _, ids in rows for sample in ids]
    state = json.loads((folder / name / "checkpoints" / f"step-{STEPS}" / "trainer_state.json").read_text())
    wanted = order(state["shape"]["samples of the data set"], len(got))
    lost, repeated = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    change = f"{before[0]} x {before[1]} to {after[0]} x {after[1]}"
    return Row(change, saved, len(got), got == wanted, sum(lost.values()), sum(repeated.values()))


def order(total: int, count: int, settings: Sequence[str] = tuple(SUBJECT.settings)) -> list[str]:
    """Names of the first ``count`` samples in the sampler's order."""
    from recording import MODALITY

    from jepa_core.config import compose

    config = compose(MODALITY.schema, None, [s for s in settings if s.startswith("motion.")])
    source, sampler = MODALITY.sources(config), Sampler(total, config.seed, 1)
    assert len(source) == total
    return [source.sample_id(sampler.draw(position).index) for position in range(count)]


def main() -> None:
    """2 to 1 with the same and with half the samples a step, and 1 to 2."""
    draw, rows = random.Random("worlds"), []
    with tempfile.TemporaryDirectory() as folder:
        for before, after in (((2, 2), (1, 4)), ((2, 2), (1, 2)), ((1, 4), (2, 2))):
            rows.append(measure(Path(folder), before, after, draw))
            print(rows[-1], flush=True)
    (RESULTS / "worlds.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    sys.exit(0 if all(row.in_order for row in rows) else "samples differ")


if __name__ == "__main__":
    main()
