"""Peak memory of embedding 100,000 samples against 1,000: a table of any size is written within the same bounds.

    python benchmarks/monitor/embedding_memory.py --folder <scratch folder>

Trains the example modality for 20 steps (a simulated sensor gives any number of samples) and embeds with it; one
process each, so that each has its own peak. Writes ``EMBEDDING_MEMORY.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from common import hardware  # noqa: E402  # beside this folder

EXAMPLE = HERE.parents[1] / "examples" / "own_modality.py"
WINDOWS, ACTIVITIES = 20, 5
BOUND = 1.5
COMMON = ["trainer.threads=1", "data.workers=0", "logging.progress=off", "logging.trackers=[]"]

MEASURE = """
import json, resource, sys, time
from jepa_core.cli import main
started = time.perf_counter()
code = main(sys.argv[1:])
peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"code": code, "seconds": time.perf_counter() - started, "peak_mib": peak_mib}))
"""


def jepa(*arguments: str) -> dict[str, float]:
    """One command in a process of its own: its time and peak memory."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if found["code"] != 0:
        raise SystemExit(done.stderr[-2000:])
    return found


def embedded(run: Path, folder: Path, samples: int, pooling: str) -> dict[str, float]:
    """Embeds so many samples, and reads how many rows the table has."""
    import pyarrow.parquet as pq

    table = folder / f"{pooling}-{samples}.parquet"
    found = jepa(
        "embed",
        str(run),
        f"out={table}",
        "split=all",
        f"pooling={pooling}",
        f"motion.persons={samples // (WINDOWS * ACTIVITIES)}",
        f"motion.windows={WINDOWS}",
        *COMMON,
    )
    file = pq.ParquetFile(table)
    found |= {"samples": float(samples), "rows": float(file.metadata.num_rows), "mib": table.stat().st_size / 2**20}
    table.unlink()
    return found


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    given = parser.parse_args()
    run = given.folder / "run"
    if not run.is_dir():
        options = [f"runs_dir={given.folder}", "name=run", "trainer.max_steps=20", "probe.enabled=false", *COMMON]
        jepa("train", f"modality={EXAMPLE}", *options)
    lines = [
        "# Memory of embedding",
        "",
        "`python benchmarks/monitor/embedding_memory.py --folder <scratch folder>`; windows of motion of the example",
        f"modality, 64 numbers a vector, one thread. {hardware()}.",
        "",
        "| pooling | samples | rows written | table, MiB | seconds | peak memory, MiB | over the first |",
        "|---|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for pooling in ("mean", "tokens"):
        found = [embedded(run, given.folder, size, pooling) for size in given.sizes]
        for each in found:
            ratio = each["peak_mib"] / found[0]["peak_mib"]
            worst = max(worst, ratio)
            lines.append(
                f"| {pooling} | {each['samples']:,.0f} | {each['rows']:,.0f} | {each['mib']:,.1f} | "
                f"{each['seconds']:,.0f} | {each['peak_mib']:,.0f} | {ratio:.2f} |"
            )
    lines += ["", f"Worst ratio {worst:.2f}; the bound is {BOUND}."]
    (HERE / "EMBEDDING_MEMORY.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    sys.exit(worst > BOUND)


if __name__ == "__main__":
    main()
