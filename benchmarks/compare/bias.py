"""What CKA says of independent data: debiased near 0, biased far above it.

    python benchmarks/compare/bias.py

Writes ``BIAS.md``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from jepa_core.compare import linear_cka, linear_cka_biased, mutual_knn_centred

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--width", type=int, default=768)
    chosen = parser.parse_args()
    started, n, d = time.perf_counter(), chosen.rows, chosen.width
    found: dict[str, list[float]] = {"debiased CKA": [], "biased CKA": [], "mutual kNN, k = 10": []}
    measures = (linear_cka, linear_cka_biased, mutual_knn_centred)
    for seed in range(chosen.draws):
        x, y = np.random.default_rng(seed).normal(size=(2, n, d))
        for values, measure in zip(found.values(), measures, strict=True):
            values.append(measure(x, y))
    theory = {"debiased CKA": 0.0, "biased CKA": d / (n + d), "mutual kNN, k = 10": 10 / (n - 1)}
    lines = [
        f"| {name} | "
        + " | ".join(f"{x:.4f}" for x in (theory[name], np.mean(v), np.std(v, ddof=1), np.min(v), np.max(v)))
        + " |"
        for name, v in found.items()
    ]
    text = f"""# Independent data

`python benchmarks/compare/bias.py --draws {chosen.draws} --rows {n} --width {d}`,
{time.perf_counter() - started:.0f} s on a shared core, numpy {np.__version__}.
{chosen.draws} pairs of independent Gaussian tables, n = {n}, d = {d}.

| measure | by theory | mean | standard deviation | lowest | highest |
|---|---|---|---|---|---|
"""
    (HERE / "BIAS.md").write_text(text + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
