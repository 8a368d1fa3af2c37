"""What a checkpoint costs: how long training stands still for it, direct and in the background, and what it takes.

    python benchmarks/reliability/saving_cost.py [folder]     # writes results/saving_cost.json

The state is that of a method whose target is a copy of its encoder, with AdamW: four float32 numbers for each trainable
weight. Background: the copy in memory is what training waits for; the write that follows it shares the cores.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness import RESULTS

from jepa_core.train.checkpoint import Checkpoint
from jepa_core.train.saving import BackgroundSaver, Saver

SIZES = {"0.4 M": 400_000, "6 M": 6_000_000, "22 M": 22_000_000, "86 M": 86_000_000}
REPEATS = 3
LAYER = 600_000
"""Weights of one tensor, about as large as in a ViT-S."""


def state(weights: int) -> Checkpoint:
    """Random tensors in layers."""
    layers = {f"layer{k}": min(LAYER, weights - start) for k, start in enumerate(range(0, weights, LAYER))}
    model = {f"{part}.{name}": torch.randn(size) for part in ("encoder", "target") for name, size in layers.items()}
    moments = {f"{name}/{entry}": torch.randn(size) for entry in ("m", "v") for name, size in layers.items()}
    return Checkpoint(1, model, moments, {"state": {}}, [{}], {})


def measure(weights: int, folder: Path) -> dict[str, float]:
    """Seconds, medians of a few."""
    stored = state(weights)
    direct, copied, written = [], [], []
    for number in range(REPEATS):
        stored.step = 2 * number
        begun_s = time.perf_counter()
        Saver(folder, 1).save(stored, None)
        direct.append(time.perf_counter() - begun_s)
        stored.step, saver, begun_s = 2 * number + 1, BackgroundSaver(folder, 1), time.perf_counter()
        saver.save(stored, None)
        copied.append(time.perf_counter() - begun_s)
        saver.wait()
        written.append(time.perf_counter() - begun_s)
    size = sum(path.stat().st_size for path in (folder / "checkpoints" / f"step-{stored.step}").iterdir())
    return {
        "mib": round(size / 2**20, 1),
        "direct_s": round(statistics.median(direct), 3),
        "background_wait_s": round(statistics.median(copied), 3),
        "background_whole_s": round(statistics.median(written), 3),
    }


def main() -> None:
    """All sizes."""
    rows = {}
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        for label, weights in SIZES.items():
            folder = Path(name) / label.replace(" ", "")
            folder.mkdir()
            rows[label] = measure(weights, folder)
            print(label, rows[label], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {"threads": torch.get_num_threads(), "peak_rss_gib": round(peak, 2), "rows": rows}
    (RESULTS / "saving_cost.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
