"""The page of ``paired.py``: tables of what video and sound of the same sentences share, and how to read them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "whole": "Whole clips: both sides also tell when speech begins and ends",
    "speech": "Speech alone: cut from the first word to the last, brought to one length",
}
STRUCTURE = {
    "linear_cka a - b": "CKA, debiased",
    "mutual_knn a - b": "mutual kNN, k = 10",
    "cknna a - b": "CKNNA, k = 10",
    "rsa a - b": "RSA",
    "cca_squared a - b": "CCA squared, 30 components",
}
Row = Sequence[Mapping[str, Any]]


def page(found: Mapping[str, Any], reading: str) -> str:
    """The page of the results; ``reading``: what is said of them."""
    return "\n".join([*head(found), reading.strip(), "", *tables(found), *baseline(found), *timing(found), ""])


def head(found: Mapping[str, Any]) -> list[str]:
    """What was done."""
    seeds = " ".join(map(str, found["seeds"]))
    runs = "; ".join(
        f"{name}: {run['steps']} steps, {run['seconds'] / 60:.0f} min" for name, run in found["runs"].items()
    )
    return [
        "# Video and sound of the same sentence",
        "",
        f"Written by `benchmarks/compare/paired.py` (commands in its head), seeds {seeds}; 200 test clips of grid-s1, "
        f"{found['permutations']} permutations. One speaker, one room: what is said holds for this set only.",
        "",
        "Trained encoders: V-JEPA (recipe grid_s1) and Audio-JEPA (recipe speech, its variance of clip features off), "
        "each on its side of the 700 training clips alone, without labels or pairs, on a core shared with other work. "
        f"{runs}. Both were trained on whole clips; they see speech alone as they are. Untrained: the same encoders as "
        "drawn. Raw: "
        "25 steps of 16 x 16 pixels, 25 steps of 40 log-mel bins. Steps: the mean token of each of at most 25 steps of "
        "time, side by side; clip mean: of all tokens, what `jepa embed` writes. All but clip means and words are "
        "reduced to 150 principal components of the training clips. Words: which of 51 words stand in the six places "
        "of a sentence.",
        "",
        "In each cell: the mean over seeds; in round brackets the calibrated score (0 at the 5 % threshold of the "
        "permutations, 1 for the best possible), or n.s. where p is above .05; the range over seeds; in square "
        "brackets what the 95 % intervals of all seeds cover.",
        "",
    ]


def tables(found: Mapping[str, Any]) -> list[str]:
    """Retrieval and structure of both kinds."""
    lines = []
    for kind, title in TITLES.items():
        rows = {name.partition(", ")[2]: row for name, row in found["rows"].items() if name.startswith(f"{kind}, ")}
        lines += [f"## {title}", ""]
        lines += ["Retrieval by CCA of the training clips: a finds b, then b finds a. By chance R@1 .005, R@10 .05,"]
        lines += ["median rank 100.5, MRR .029.", ""]
        lines += ["| a / b | R@1 | R@10 | MedR | MRR | R@1 back | R@10 back | MedR back | MRR back |", "|---" * 9 + "|"]
        lines += [f"| {name} | " + " | ".join(retrieval_cells(row)) + " |" for name, row in rows.items()]
        lines += ["", "| a / b | " + " | ".join(STRUCTURE.values()) + " |", "|---" * (len(STRUCTURE) + 1) + "|"]
        lines += [f"| {name} | " + " | ".join(cell(row, key) for key in STRUCTURE) + " |" for name, row in rows.items()]
        lines.append("")
    return lines


def retrieval_cells(row: Row) -> list[str]:
    """Both directions of retrieval."""
    cells = []
    for direction in ("a -> b", "b -> a"):
        cells += [cell(row, f"retrieval_R@1 {direction}"), plain(row, f"retrieval_R@10 {direction}")]
        cells += [f"{mean(row, f'MedR {direction}'):.1f}", plain(row, f"retrieval_MRR {direction}")]
    return cells


def mean(row: Row, key: str, what: str = "value") -> float:
    """Over the seeds."""
    return statistics.mean(one[key][what] for one in row)


def plain(row: Row, key: str) -> str:
    """A value alone."""
    return f"{mean(row, key):.3f}"


def cell(row: Row, key: str) -> str:
    """A value with its calibrated score, its range over seeds and its interval."""
    above = sum(one[key]["p_value"] <= 0.05 for one in row)
    score = f"{mean(row, key, 'calibrated'):.2f}" if above == len(row) else "n.s."
    if 0 < above < len(row):
        score = f"n.s. in {len(row) - above} of {len(row)}"
    values = [one[key]["value"] for one in row]
    seeds = f" {min(values):.3f} to {max(values):.3f}" if len(set(values)) > 1 else ""
    low, high = min(one[key]["ci_low"] for one in row), max(one[key]["ci_high"] for one in row)
    return f"{mean(row, key):.3f} ({score}){seeds} [{low:.2f}, {high:.2f}]"


def baseline(found: Mapping[str, Any]) -> list[str]:
    """The data's own baseline: canonical directions that are not weighed."""
    lines = [
        "## Raw with raw, canonical directions not weighed", "",
        "As the baseline that comes with the data, which says: R@1 .135 to .150, R@10 .475 to .505, median rank 10 to "
        "12; back .150 to .160 and .475 to .495.", "",
        "| clips | directions | R@1 | R@10 | MedR | R@1 back | R@10 back | MedR back |", "|---" * 8 + "|",
    ]  # fmt: skip
    for kind, held in found["unweighed"].items():
        for count, both in held.items():
            cells = [f"{both[side][name]:.3f}" for side in ("a -> b", "b -> a") for name in ("R@1", "R@10", "MedR")]
            lines.append(f"| {kind} | {count} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def timing(found: Mapping[str, Any]) -> list[str]:
    """How well the features tell when speech begins, ends and how long it takes."""
    lines = [
        "## What the features tell about timing", "",
        "R2 on the test clips of ridge regression from features to when speech begins, ends and how long it takes.", "",
        "| features | begins | ends | length |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, values in found["timing"].items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return lines
