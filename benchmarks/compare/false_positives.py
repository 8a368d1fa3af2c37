"""How often the permutation test finds structure in independent data: rows, and random walks permuted as groups.

    python benchmarks/compare/false_positives.py --kind rows|walks|walks_by_rows

Keeps its figures in ``results/`` and writes ``FALSE_POSITIVES.md`` from all there are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from jepa_core.compare.registry import MEASURES, Measure, Tuning, for_tables
from jepa_core.compare.significance import orders, summarise

HERE = Path(__file__).parent
MEASURED = ("linear_cka", "mutual_knn", "rsa", "procrustes")
ALPHA = 0.05
ROWS, GROUPS, LENGTH, WIDTHS = 64, 24, 4, (12, 8)
KINDS = {
    "rows": "rows, rows permuted",
    "walks": "walks, whole walks permuted",
    "walks_by_rows": "walks, rows permuted: wrong",
}


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


def rejected(kind: str, pairs: int, permutations: int, names: list[str]) -> dict[str, float]:
    """Share of pairs with p up to 0.05, by measure."""
    make = rows if kind == "rows" else walks
    codes = np.repeat(np.arange(GROUPS), LENGTH) if kind == "walks" else None
    found: dict[str, list[bool]] = {name: [] for name in names}
    for pair in range(pairs):
        generator = np.random.default_rng([pair, len(kind)])
        x, y = (make(generator, width) for width in WIDTHS)
        for name in names:
            found[name].append(p_value(MEASURES[name], x, y, codes, pair, permutations) <= ALPHA)
    return {name: float(np.mean(values)) for name, values in found.items()}


def write() -> None:
    """``FALSE_POSITIVES.md`` from all results there are."""
    lines = []
    for kind, words in KINDS.items():
        path = HERE / "results" / f"{kind}.json"
        if path.is_file():
            held = json.loads(path.read_text())
            cells = [f"{100 * held['rates'][name]:.1f} %" if name in held["rates"] else "" for name in MEASURED]
            lines.append(f"| {words} | {held['pairs']} | {' | '.join(cells)} |")
    text = f"""# False positives of the permutation test

`python benchmarks/compare/false_positives.py --kind rows|walks|walks_by_rows`,
199 permutations, numpy {np.__version__}.
Share of independent pairs with p <= {ALPHA}; one standard error of 5 % over 1000 pairs is 0.7 %.
Rows: {ROWS} Gaussian rows. Walks: {GROUPS} random walks of {LENGTH} rows. Widths {WIDTHS[0]} and {WIDTHS[1]}.
An empty cell was not measured.

| data | pairs | {" | ".join(MEASURED)} |
|---|---|{"---|" * len(MEASURED)}
"""
    (HERE / "FALSE_POSITIVES.md").write_text(text + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--measures", default=",".join(MEASURED))
    chosen = parser.parse_args()
    rates = rejected(chosen.kind, chosen.pairs, chosen.permutations, chosen.measures.split(","))
    path = HERE / "results" / f"{chosen.kind}.json"
    path.parent.mkdir(exist_ok=True)
    held = {"pairs": chosen.pairs, "permutations": chosen.permutations, "rates": rates}
    path.write_text(json.dumps(held, indent=1) + "\n")
    write()
    print(path.read_text())


if __name__ == "__main__":
    main()
