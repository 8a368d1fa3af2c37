"""How often the permutation test finds structure in independent data: rows, and random walks permuted as groups.

    python benchmarks/compare/false_positives.py

Writes ``FALSE_POSITIVES.md``.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np

from jepa_core.compare.registry import MEASURES, Measure, Tuning, for_tables
from jepa_core.compare.significance import orders, summarise

HERE = Path(__file__).parent
MEASURED = ("linear_cka", "mutual_knn", "rsa", "procrustes")
ALPHA = 0.05
ROWS, GROUPS, LENGTH, WIDTHS = 64, 24, 8, (12, 8)


def p_value(measure: Measure, x: np.ndarray, y: np.ndarray, codes: np.ndarray | None, seed: int, count: int) -> float:
    """Of one pair of tables."""
    tuning = Tuning()
    measure = for_tables(measure, len(x), [x.shape[1], y.shape[1]])
    left, right = measure.left(x, tuning), measure.right(y, tuning)
    drawn = orders(len(x), count, seed, codes)
    null = np.array([measure.score(left, measure.reorder(right, order)) for order in drawn])
    return summarise(measure.score(left, right), null, ALPHA, 1.0).p_value


def rows(generator: np.random.Generator, width: int) -> np.ndarray:
    """Independent rows."""
    return generator.normal(size=(ROWS, width))


def walks(generator: np.random.Generator, width: int) -> np.ndarray:
    """Random walks one after another; rows of one depend on each other."""
    return generator.normal(size=(GROUPS, LENGTH, width)).cumsum(1).reshape(-1, width)


def rejected(kind: str, pairs: int, permutations: int) -> dict[str, float]:
    """Share of pairs with p up to 0.05, by measure."""
    make = rows if kind == "rows" else walks
    codes = np.repeat(np.arange(GROUPS), LENGTH) if kind == "walks, whole walks permuted" else None
    found: dict[str, list[bool]] = {name: [] for name in MEASURED}
    for pair in range(pairs):
        generator = np.random.default_rng([pair, len(kind)])
        x, y = (make(generator, width) for width in WIDTHS)
        for name in MEASURED:
            found[name].append(p_value(MEASURES[name], x, y, codes, pair, permutations) <= ALPHA)
    return {name: float(np.mean(values)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=199)
    chosen = parser.parse_args()
    started = time.perf_counter()
    kinds = ("rows", "walks, whole walks permuted", "walks, rows permuted (wrong)")
    lines = []
    for kind in kinds:
        pairs = chosen.pairs if "wrong" not in kind else min(chosen.pairs, 100)
        found = rejected(kind, pairs, chosen.permutations)
        lines.append(f"| {kind} | {pairs} | " + " | ".join(f"{100 * found[name]:.1f} %" for name in MEASURED) + " |")
        print(lines[-1], flush=True)
    error = 100 * math.sqrt(ALPHA * (1 - ALPHA) / chosen.pairs)
    text = f"""# False positives of the permutation test

`python benchmarks/compare/false_positives.py --pairs {chosen.pairs} --permutations {chosen.permutations}`,
{time.perf_counter() - started:.0f} s on a shared core, numpy {np.__version__}. Share of independent pairs with
p <= {ALPHA}; one standard error of 5 % over {chosen.pairs} pairs is {error:.1f} %. Rows: {ROWS} Gaussian rows. Walks:
{GROUPS} random walks of {LENGTH} rows. Widths {WIDTHS[0]} and {WIDTHS[1]}.

| data | pairs | {" | ".join(MEASURED)} |
|---|---|{"---|" * len(MEASURED)}
"""
    (HERE / "FALSE_POSITIVES.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
