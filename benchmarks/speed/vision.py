"""Speed of an I-JEPA and a V-JEPA pretraining step against the released code, on equal weights, inputs and masks.

    python benchmarks/speed/vision.py --reference DIR --threads 2
    python benchmarks/speed/vision.py --reference DIR --threads 1 --clock processor   # on a machine that is not idle

DIR holds the checkouts ``ijepa`` and ``jepa`` of facebookresearch. The losses of both are compared first, over steps
that train. Writes ``VISION.md`` and ``results/vision.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vision_ours
import vision_references
from driver import CLOCKS, TOTAL, Pair, Side, Timed, alternate, machine, spread
from vision_cases import CASES, STAGES, Case

HERE = Path(__file__).parent
CHECKOUTS = {"ijepa": "ijepa", "vjepa": "jepa"}


@dataclass(frozen=True)
class Variant:
    """How our side computes.

    Attributes:
        name: for the table.
        settings: beyond the case's own.
        precision: of our side; the reference's is always float32.
        tolerance: of the losses, as a share; None = other mathematics, nothing is compared.
    """

    name: str
    settings: tuple[str, ...]
    precision: str
    tolerance: float | None


PACKED = ("vision.predictor.sequences=packed",)
VARIANTS = {
    "same": Variant("same mathematics", (), "fp32", 1e-5),
    "packed": Variant("packed predictor: other mathematics", PACKED, "fp32", None),
    "bf16": Variant("same mathematics in bf16", (), "bf16", 1e-2),
    "packed-bf16": Variant("packed predictor in bf16", PACKED, "bf16", None),
}


def compare(ours: Timed, theirs: Timed, tolerance: float | None) -> None:
    """Refuses to time two sides that do not compute the same."""
    if ours.facts["lengths"] != theirs.facts["lengths"]:
        raise SystemExit(f"masks differ: {ours.facts['lengths']} and {theirs.facts['lengths']}")
    for step, (a, b) in enumerate(zip(ours.facts["losses"], theirs.facts["losses"], strict=True), start=1):
        if tolerance is not None and abs(a - b) > tolerance * step * abs(b):
            raise SystemExit(f"not the same mathematics: loss of step {step} is {a} and {b}")


def measure(case: Case, variants: list[Variant], args: argparse.Namespace) -> list[Pair]:
    """The rows of a case."""
    with tempfile.TemporaryDirectory(prefix="jepa-speed-") as folder:
        shared = {"case": case, "folder": folder, "steps": args.steps}
        theirs = {**shared, "reference": str(args.reference / CHECKOUTS[case.family]), "precision": "fp32"}
        ours = [
            Side(
                each.name,
                vision_ours.build,
                {**shared, "settings": each.settings, "precision": each.precision},
                args.threads,
                args.clock,
            )
            for each in variants
        ]
        return alternate(
            Side(case.family, vision_references.build, theirs, args.threads, args.clock),
            ours,
            args.turns,
            args.warm_up,
            lambda number, a, b: compare(a, b, variants[number].tolerance),
        )


def ratio_line(case: Case, variant: Variant, pair: Pair) -> str:
    """A row of the first table."""
    return f"| {case.name} | {variant.name} | {spread(pair.ratios)} | {pair.memory:.2f} |"


def stage_line(name: str, timed: Timed, whole: float) -> str:
    """A row of the second table: seconds of each stage, in per cent of the reference's step."""
    shares = " | ".join(f"{100 * timed.median(stage) / whole:.1f}" for stage in (*STAGES, TOTAL))
    return f"| {name} | {shares} |"


def record(pair: Pair) -> dict[str, Any]:
    """For the JSON file."""
    return {
        "ratios": pair.ratios,
        "memory_ratio": pair.memory,
        "peak_mib": [pair.ours.peak_mib, pair.theirs.peak_mib],
        "losses": [pair.ours.facts["losses"], pair.theirs.facts["losses"]],
        "lengths": pair.ours.facts["lengths"],
        "stages": [pair.ours.stages, pair.theirs.stages],
    }


def page(kept: dict[str, Any]) -> str:
    """The page, from what is in the JSON file."""
    pairs = {key: {name: restored(each) for name, each in rows.items()} for key, rows in kept["rows"].items()}
    lines = [HEAD.format(**kept["how"])]
    for key, rows in pairs.items():
        lines += [ratio_line(CASES[key], VARIANTS[name], pair) for name, pair in rows.items()]
    lines += ["", STAGES_HEAD]
    for key, rows in pairs.items():
        first = next(iter(rows.values()))
        whole = first.theirs.median()
        lines += [f"| {CASES[key].name} | {' | '.join((*STAGES, TOTAL))} |", "|---|" + "---|" * (len(STAGES) + 1)]
        lengths = next(iter(kept["rows"][key].values()))["lengths"]
        lines += [stage_line(f"released code, lengths {'; '.join(map(str, lengths))}", first.theirs, whole)]
        lines += [stage_line(VARIANTS[name].name, pair.ours, whole) for name, pair in rows.items()] + [""]
    return "\n".join(lines) + "\n" + (HERE / "vision_reading.md").read_text()


def restored(kept: dict[str, Any]) -> Pair:
    """The inverse of :func:`record`."""
    sides = [Timed({}, stages, peak) for stages, peak in zip(kept["stages"], kept["peak_mib"], strict=True)]
    return Pair(*sides)


HEAD = """# Speed of a vision pretraining step against the released code

`python benchmarks/speed/vision.py --reference DIR --threads {threads} --clock {clock} --turns {turns} --steps {steps}`,
DIR with the checkouts of facebookresearch/ijepa and /jepa.
{where}.

Ratio: samples a second, ours over the released code's in float32, median and range over {turns} turns that alternate,
each side in its own process, in seconds of {clock} time. Weights, inputs, masks and lengths are the same; where the
mathematics is the same, the losses of steps that train were equal to 1e-5 (bf16: 1e-2) before anything was timed. The
step: normalisation, both encoders, predictor, loss, backward, AdamW, moving average, and what either project reads of
the gradients. Memory: our peak over theirs, above what the process had after its imports.

| step | ours | ratio | memory |
|---|---|---|---|"""

STAGES_HEAD = """Stages, in per cent of the released code's step. Lengths: for each mask its context tokens, target
blocks and targets of a block.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="folder of the checkouts; without it the page is written anew")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="processor: for one thread only")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn, each with its own masks")
    args = parser.parse_args()
    if args.clock == "processor" and args.threads != 1:
        parser.error("--clock processor adds up what threads take: expected --threads 1, or --clock wall")
    file = HERE / "results" / "vision.json"
    file.parent.mkdir(exist_ok=True)
    how = {key: getattr(args, key) for key in ("threads", "clock", "turns", "steps")} | {"where": machine(args.threads)}
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"how": None}
    if args.reference is not None and kept["how"] != how:
        kept = {"how": how, "rows": {}}  # rows that were measured otherwise do not belong in the same table
    for key in args.cases if args.reference is not None else ():
        pairs = measure(CASES[key], [VARIANTS[name] for name in args.variants], args)
        kept["rows"][key] = {name: record(pair) for name, pair in zip(args.variants, pairs, strict=True)}
        file.write_text(json.dumps(kept, indent=1) + "\n")
        for name, pair in zip(args.variants, pairs, strict=True):
            print(ratio_line(CASES[key], VARIANTS[name], pair), flush=True)
    (HERE / "VISION.md").write_text(page(kept))


if __name__ == "__main__":
    main()
