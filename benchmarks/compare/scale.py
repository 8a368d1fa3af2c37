"""Time and memory of exact debiased CKA of two large Parquet tables in one pass, and of the whole comparison.

    python benchmarks/compare/scale.py --folder <scratch folder> --rows 1000000 --threads 2

Makes both tables in the folder unless they are there. Writes ``SCALE.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
WIDTHS = (768, 512)
CHUNK = 20_000


def make(folder: Path, rows: int) -> list[Path]:
    """Two tables that share eight directions, written a chunk at a time."""
    from jepa_core.evaluate.table_writer import Rows, TableWriter, table_schema

    paths = [folder / f"{name}-{rows}.parquet" for name in ("a", "b")]
    mixing = [np.random.default_rng(side).normal(size=(8, width)) for side, width in enumerate(WIDTHS)]
    for side, path in enumerate(paths):
        if path.is_file():
            continue
        with TableWriter(path.with_suffix(".part"), table_schema(WIDTHS[side], False, False, {})) as writer:
            for start in range(0, rows, CHUNK):
                count = min(CHUNK, rows - start)
                shared = np.random.default_rng([1, start]).normal(size=(count, 8))
                noise = np.random.default_rng([2 + side, start]).standard_normal((count, WIDTHS[side]), np.float32)
                vectors = (shared @ mixing[side]).astype(np.float32) + 4 * noise
                names = [f"s{row:08d}" for row in range(start, start + count)]
                writer.add(Rows(names, [None] * count, [None] * count, "last", "mean", vectors))
        os.replace(path.with_suffix(".part"), path)
    return paths


MEASURE = """
import json, resource, sys, time
from jepa_core.compare import compare
started, cpu = time.perf_counter(), time.process_time()
found = compare(sys.argv[1], sys.argv[2], measures=tuple(sys.argv[3].split(",")))
print(json.dumps({
    "seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu,
    "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    "scores": [[s.title, s.value, s.ci_low, s.ci_high, s.n] for s in found.scores],
}))
"""


def measure(paths: list[Path], measures: str, threads: int) -> dict:
    """One comparison in a process of its own, for its peak memory."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(variables, str(threads))}
    command = [sys.executable, "-c", MEASURE, *map(str, paths), measures]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    paths = make(chosen.folder, chosen.rows)
    lines = []
    for measures in ("linear_cka", "linear_cka,mutual_knn"):
        found = measure(paths, measures, chosen.threads)
        scores = "; ".join(f"{t} {v:.4f} ({a:.4f} .. {b:.4f}), n = {n}" for t, v, a, b, n in found["scores"])
        lines.append(f"| {measures} | {found['seconds']:.0f} | {found['cpu']:.0f} | {found['gb']:.2f} | {scores} |")
        print(lines[-1], flush=True)
    load = os.getloadavg()[0]
    text = f"""# Large tables

`python benchmarks/compare/scale.py --rows {chosen.rows} --threads {chosen.threads}`, {os.cpu_count()} cores,
load {load:.1f} when it ended, numpy {np.__version__}. {chosen.rows} x {WIDTHS[0]} against {chosen.rows} x {WIDTHS[1]}
float32 from Parquet (zstd), joined on `sample_id`.

| measures | seconds | CPU seconds | peak memory, GB | result |
|---|---|---|---|---|
"""
    (HERE / "SCALE.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
