"""Writes RELIABILITY.md from the figures of the other files here: ``python benchmarks/reliability/page.py``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import RESULTS, SUBJECTS, table

HERE = Path(__file__).parent
PAGE, FURTHER = HERE.parent / "RELIABILITY.md", HERE / "HOSTILE.md"


def read(name: str) -> Any:
    """A result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def resume() -> Iterator[str]:
    """Byte comparisons, and other numbers of processes."""
    yield (HERE / "resume.md").read_text()
    rows = []
    for name in SUBJECTS:
        if not (RESULTS / f"resume-{name}.json").exists():
            continue
        for each in read(f"resume-{name}"):
            cells = [name, each["workers"], each["accumulation"], each["processes"], each["steps"]]
            cells += [each["killed_after"], each["resumed_from"], len(each["equal"])]
            rows.append([*cells, ", ".join(each["different"]) or "none"])
    head = "subject|workers|accumulation|processes|steps|killed after|resumed from|equal files|different files"
    yield table(head.split("|"), rows)
    yield (HERE / "worlds.md").read_text()
    rows = [
        [e["change"], e["resumed_from"], e["consumed"], "yes" if e["in_order"] else "no", e["lost"], e["repeated"]]
        for e in read("worlds")
    ]
    yield table(["processes x batch", "changed after step", "samples", "in order", "lost", "repeated"], rows)


def processes() -> Iterator[str]:
    """Several processes against one: training, tables, and samples that they do not divide."""
    yield (HERE / "processes.md").read_text()
    rows: list[list[object]] = []
    tables: list[list[object]] = []
    for name in SUBJECTS:
        if not (RESULTS / f"processes-{name}.json").exists():
            continue
        found = read(f"processes-{name}")
        pairs = zip(found["training"][::2], found["training"][1::2], strict=True)  # the first step, the last one
        rows += [[name, *_training_row(first, last)] for first, last in pairs]
        for e in found["embeddings"]:
            told = "bitwise" if e["bitwise"] else f"{e['apart']:.1e}"
            tables.append([name, e["processes"], e["batch"], e["samples"], "yes" if e["same_samples"] else "no", told])
    head = "subject|processes|micro-batches|batch|numbers|loss|gradients|clipped|online weights|EMA target|"
    yield table((head + "batch-norm statistics|logged figures|all processes alike").split("|"), rows)
    yield (HERE / "processes_tables.md").read_text()
    yield table(["subject", "processes", "samples at a time", "samples", "each once, in order", "vectors"], tables)
    yield (HERE / "uneven.md").read_text()
    rows = [
        [
            *(e["what"], e["processes"], e["batch"] or "-", e["steps"] or "-", e["samples"], e["lost"], e["repeated"]),
            "yes" if e["equal"] else "no",
        ]
        for e in read("uneven")
    ]
    yield table(["what", "processes", "batch", "steps", "samples", "lost", "repeated", "as one process"], rows)


def _training_row(first: dict[str, Any], last: dict[str, Any]) -> list[object]:
    """Differences after the first and after the last observed step."""
    case = first["case"]
    who = "1, reversed" if case["order"] == "reversed" else case["processes"]
    cells: list[object] = [who, case["accumulation"], first["batch"], case["dtype"]]
    for name, value in first["differences"].items():
        absent = not first["worst"][name]
        cells.append("-" if absent else f"{_size(value)}, {_size(last['differences'][name])}")
    cells.append(f"{_size(first['metrics'][0])}, {_size(last['metrics'][0])}")
    return [*cells, "yes" if first["alike"] and last["alike"] else "no"]


def _size(value: float) -> str:
    return "bitwise" if value == 0 else f"{value:.0e}"


def kills() -> Iterator[str]:
    """What each series of kills came to."""
    yield (HERE / "kills.md").read_text()
    found, rows = read("kills"), []
    for series in ("direct", "background"):
        for aim in ("write", "step", "any"):
            mine = [k for k in found["kills"] if (k["series"], k["aim"]) == (series, aim)]
            said = [k for k in mine if k["resumed_from"] is not None]
            rows.append(
                [
                    *(series, aim, len(mine), sum(k["inside_write"] for k in mine), sum(k["torn"] for k in mine)),
                    f"{sum(k['resumed_from'] == k['before'] for k in said)} of {len(said)}",
                    sum(k["newest"] < k["before"] for k in mine),
                    max(k["lost"] for k in mine),
                    ", ".join(found[f"files that differ, {series}"]) or "none",
                ]
            )
    head = "saving|aimed at|kills|inside a write|torn|resumed from the newest|checkpoints lost|most steps lost|"
    head += "different files"
    yield table(head.split("|"), rows)


def checkpoints() -> Iterator[str]:
    """Disks, signals, and what saving costs."""
    yield (HERE / "checkpoints.md").read_text()
    rows = [
        [
            *(e["event"], e["mode"], e["exit_code"], e["seconds"], e["whole"] or "none", e["torn"], e["left"]),
            ", ".join(e["different"]) or "none",
        ]
        for e in (*read("storage"), *read("storage_two"))
    ]
    head = "event|saving|exit code|s to the end|whole checkpoints|torn|unfinished|different files after resume"
    yield table(head.split("|"), rows)
    lines = dict.fromkeys(f"    {e['said']}" for e in (*read("storage"), *read("storage_two")) if e["exit_code"] == 5)
    yield "What a failing disk is answered with:\n\n" + "\n".join(lines) + "\n"
    if not (RESULTS / "saving_cost.json").exists():
        return
    yield (HERE / "saving_cost.md").read_text()
    cost = read("saving_cost")
    yield table(
        ["trainable weights", "MiB", "direct: s", "background: s that training waits", "s until it is written"],
        [
            [name, e["mib"], e["direct_s"], e["background_wait_s"], e["background_whole_s"]]
            for name, e in cost["rows"].items()
        ],
    )


def numbers() -> Iterator[str]:
    """Faults and false alarms."""
    yield (HERE / "faulty_numbers.md").read_text()
    found = read("numbers")
    rows = [
        [
            *(e["fault"], e["exit_code"], e["further_steps"] if e["exit_code"] else "not stopped"),
            *(e["newest_checkpoint"], "yes" if e["all_saved_finite"] else "no", e["said"] or "-"),
        ]
        for e in found["faults"]
    ]
    head = f"fault at step {found['bad_step']}|exit code|further steps|newest checkpoint|all saved values finite|said"
    yield table(head.split("|"), rows)
    yield "Healthy runs, for comparison with `trainer.max_weight_growth=1.25`:\n"
    yield table(
        ["subject", "steps", "peak learning rate", "largest growth in one step"],
        [[e["subject"], e["steps"], e["learning_rate"], e["largest"]] for e in found["healthy"]],
    )
    yield from growth()
    yield "What it costs, each recipe at its own batch size (`python benchmarks/reliability/watch_cost.py`):\n"
    yield table(
        ["subject", "weights", "step: ms", "watch: ms", "share"],
        [[k, e["weights"], e["step_ms"], e["watch_ms"], f"{e['share']:.2%}"] for k, e in read("watch_cost").items()],
    )


def load() -> Iterator[str]:
    """Starts with, and epochs over, a million samples."""
    yield (HERE / "load.md").read_text()
    found = read("load")
    head = "layout|samples|first list: s|list again: s|first batch again: s|grown, first: MiB|again: MiB|kept: MiB|"
    head += "command: s|of 1,000 samples: s"
    yield table(
        head.split("|"),
        [
            [
                *(layout, e["first"]["samples"], e["first"]["list_s"], e["next"]["list_s"], e["next"]["first_batch_s"]),
                *(e["first"]["grown_mib"], e["next"]["grown_mib"], e["kept_mib"]),
                *(e["command_s"], e["command_of_a_thousand_s"]),
            ]
            for layout, e in found["starts"].items()
        ],
    )
    yield (HERE / "load_epochs.md").read_text()
    head = "epochs|samples read|own memory at first: MiB|at the end: MiB|speed at the end, fresh = 1 (quarters)"
    yield table(head.split("|"), [[name, *_epochs(each)] for name, each in found["epochs"].items()])


def _epochs(found: dict[str, Any]) -> list[Any]:
    rows, ratios = found["rows"], found["ratios"]
    own = [" and ".join(f"{mib:.0f}" for mib in row["own_mib"]) for row in (rows[0], rows[-1])]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return [rows[-1]["samples"], *own, f"{middle:.3f} ({low:.3f} .. {high:.3f})"]


def growth() -> Iterator[str]:
    """Of longer runs and larger models."""
    if not (RESULTS / "growth.json").exists():
        return
    yield (HERE / "growth.md").read_text()
    head = "run|steps|peak learning rate|trained weights|largest growth|at step|after the first ten|alarms"
    rows = [list(each.values()) for each in read("growth")]
    yield table(head.split("|"), rows)


def main() -> None:
    """The page, and after it what is written beside it."""
    sections = (resume, processes, kills, checkpoints, numbers, load)
    parts = [(HERE / "head.md").read_text(), *(part for section in sections for part in section())]
    if FURTHER.exists():
        parts.append(FURTHER.read_text())
    PAGE.write_text("\n".join(parts))
    print(PAGE)


if __name__ == "__main__":
    main()
