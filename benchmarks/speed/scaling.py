"""How an I-JEPA step scales: with batch, sequence, model and processes here, and on paper to 512 GPUs.

    python benchmarks/speed/scaling.py [--device cuda] [--threads 1] [--steps 5]     # writes SCALING.md

Each row is a process of its own. Utilisation is the model's floating-point operations (counted by torch's own counter
in a forward and backward pass) over what the same process reaches in large matrix products of the same type.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE, FOUND = HERE / "SCALING.md", HERE / "results" / "scaling.json"
BASE: Mapping[str, Any] = {"size": "tiny", "side": 224, "batch": 8}
SWEEPS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "batch": [{"batch": batch} for batch in (1, 2, 4, 8, 16)],
    "sequence": [{"side": side} for side in (96, 160, 224, 320)],
    "model": [{"size": size} for size in ("nano", "tiny", "small")],
}
CUDA_BASE: Mapping[str, Any] = {"size": "large", "side": 224, "batch": 64}
CUDA_SWEEPS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "batch": [{"batch": batch} for batch in (8, 16, 32, 64, 128)],
    "sequence": [{"side": side} for side in (160, 224, 320, 448)],
    "model": [{"size": size} for size in ("small", "base", "large", "huge")],
}
PAPER = {"ViT-S/16": "small", "ViT-B/16": "base", "ViT-L/16": "large"}
GPUS = (8, 64, 512)
GPU_BATCH, GPU_FLOPS, GPU_SHARE, NODE_GPUS = 64, 989e12, 0.4, 8
"""On paper: samples of a GPU, its bf16 rate (H100, dense), the share of it that a step reaches, GPUs of a machine."""
NODE_BYTES, NET_BYTES = 450e9, 50e9
"""On paper: bytes a second of each GPU to others of its machine (NVLink 4) and of other machines (400 Gb/s)."""


# --------------------------------------------------------------------------------------------------------------------
# One row, in a process of its own
# --------------------------------------------------------------------------------------------------------------------


def build(wanted: Mapping[str, Any]) -> tuple[Any, Any]:
    """The method of a row, and the batch that it is given."""
    from jepa_core.config import compose
    from jepa_core.contracts import Batch
    from jepa_vision.modality import MODALITY
    from jepa_vision.settings import VisionRun

    side, count = wanted["side"], wanted["batch"]
    more = [f"vision.encoder.size={wanted['size']}", f"data.height={side}", f"data.width={side}"]
    more += ["vision.predictor.depth=6", "vision.encoder.patch=16"]
    config = compose(VisionRun, MODALITY.recipes / "ijepa_vitb16.yaml", more)
    torch.manual_seed(0)
    method: Any = MODALITY.build(config).train().to(wanted["device"])
    method.watched = False
    inputs = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8).to(wanted["device"])
    seeds = torch.arange(count, device=wanted["device"])
    return (method, config), Batch(inputs, seeds, tuple(map(str, range(count))), batch_seed=0)


def measure_row(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of a step, memory, operations and utilisation."""
    from torch.utils.flop_counter import FlopCounterMode

    from jepa_core.train import optim
    from jepa_core.train.meter import peak_rss_mib

    torch.set_num_threads(wanted["threads"])
    base_mib, on_gpu = peak_rss_mib(), wanted["device"] == "cuda"
    (method, config), batch = build(wanted)
    groups = list(method.parameter_groups())
    optimizer, _, _ = optim.build_optimizer(groups, config.optimizer, torch.device(wanted["device"]))

    def loss(number: int) -> Any:
        with torch.autocast(wanted["device"], torch.bfloat16, enabled=wanted["precision"] == "bf16"):
            return method(batch, number).total

    def step(number: int) -> None:
        loss(number).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(number)

    with FlopCounterMode(display=False) as counter:
        loss(1).backward()
    optimizer.zero_grad(set_to_none=True)
    step(1)
    step_s = statistics.median(_timed(lambda n=n: step(n), on_gpu) for n in range(2, 2 + wanted["steps"]))
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_rss_mib() - base_mib
    rate = matrix_rate(wanted["device"], wanted["precision"])
    return {
        **wanted,
        "tokens": (wanted["side"] // 16) ** 2,
        "parameters": sum(p.numel() for group in groups for _, p in group.parameters),
        "target_parameters": sum(p.numel() for p in method.target.parameters()),
        "step_s": step_s,
        "samples_per_s": wanted["batch"] / step_s,
        "gflop": counter.get_total_flops() / 1e9,
        "peak_mib": peak,
        "matrix_gflops": rate / 1e9,
        "utilisation": counter.get_total_flops() / step_s / rate,
    }


def matrix_rate(device: str, precision: str) -> float:
    """Operations a second of large matrix products."""
    side = 8192 if device == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    times = [_timed(lambda: a @ a, device == "cuda") for _ in range(12)]
    return 2 * side**3 / statistics.median(times[2:])


def _timed(work: Callable[[], Any], on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    begin_s = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begin_s


def in_new_process(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A row, measured by this file in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(wanted["threads"])}
    words = [sys.executable, __file__, "--row", json.dumps(dict(wanted))]
    said = subprocess.run(words, capture_output=True, text=True, env=environment)
    if said.returncode:
        raise SystemExit(f"{dict(wanted)}: {said.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


# --------------------------------------------------------------------------------------------------------------------
# Several processes
# --------------------------------------------------------------------------------------------------------------------


def process_rate(processes: int, batch: int, steps: int) -> float:
    """Samples a second of a whole training command, between its first and its last logged step."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["modality=vision", f"runs_dir={folder}", "name=run", f"trainer.batch_size={batch}"]
        settings += [f"trainer.max_steps={steps}", "trainer.device=cpu", "trainer.threads=1", "trainer.log_every=1"]
        settings += ["monitor.every=0", "report.samples=0", "probe.enabled=false", "logging.progress=lines"]
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        words += [str(ROOT / "tools" / "train.py"), *settings]
        said = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder
        )
        if said.returncode:
            raise SystemExit(said.stderr[-2000:])
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        rates = [row["samples_per_s"] for row in map(json.loads, lines) if "samples_per_s" in row]
        return statistics.median(rates[2:])


def measure_processes(steps: int) -> dict[str, Any]:
    """Strong scaling (the same joint batch) and weak (the same batch a process), each pair three times in turn."""
    found: dict[str, Any] = {}
    for name, alone, shared in (("strong", 16, 8), ("weak", 8, 8)):
        pairs = [(process_rate(1, alone, steps), process_rate(2, shared, steps)) for _ in range(3)]
        found[name] = {"batches": [alone, shared], "rates": pairs, "gain": [two / one for one, two in pairs]}
    return found


# --------------------------------------------------------------------------------------------------------------------
# On paper
# --------------------------------------------------------------------------------------------------------------------


def on_paper(row: Mapping[str, Any], gpus: int) -> dict[str, float]:
    """Bytes that each GPU sends in a step and the time they take, beside the time of the arithmetic.

    DDP: a ring all-reduce of float32 gradients. FSDP2: the weights are gathered forward and backward and the gradients
    scattered, the target is gathered forward; each is a ring. Both are compared with arithmetic that waits for none.
    """
    share = (gpus - 1) / gpus
    ddp = 2 * share * 4 * row["parameters"]
    fsdp = share * 4 * (3 * row["parameters"] + row["target_parameters"])
    speed = NODE_BYTES if gpus <= NODE_GPUS else NET_BYTES
    compute_s = row["gflop"] * 1e9 / row["batch"] * GPU_BATCH / (GPU_FLOPS * GPU_SHARE)
    return {
        "compute_ms": compute_s * 1e3,
        "ddp_mib": ddp / 2**20,
        "ddp_ms": ddp / speed * 1e3,
        "fsdp_mib": fsdp / 2**20,
        "fsdp_ms": fsdp / speed * 1e3,
    }


# --------------------------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------------------------

ABOUT = """One step of I-JEPA (four blocks of targets, predictor of six blocks, AdamW, moving average), patches of 16.
Memory is the peak above that of the imports. Utilisation: counted operations over the rate of large matrix products in
the same process.
"""
PROCESSES = """Whole training commands of the quickstart recipe, a thread a process, gloo, three pairs in turn.

"""
ON_PAPER = """Nothing here was run. {batch} samples a GPU at {share} of {flops} TFLOP/s; each GPU sends {inside} GB/s
inside a machine of {node} and {beyond} GB/s beyond it. Parameters and operations are those of our methods at 224 px,
counted. DDP: a ring all-reduce of float32 gradients, which overlaps with the backward pass. FSDP2: weights gathered
forward and backward, gradients scattered, the target gathered once. Where sending takes longer than the arithmetic,
more samples a GPU or accumulation (gradients are sent once a step) are the way out.

"""


def table(head: str, rows: Sequence[Sequence[Any]]) -> str:
    """Markdown."""
    names = head.split("|")
    lines = [names, ["---"] * len(names), *[[str(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(found: Mapping[str, Any]) -> str:
    """The figures in words and tables."""
    parts = [
        "# Scaling\n",
        f"    {found['command']}\n",
        f"{found['machine']}. {ABOUT}",
    ]
    head = "ViT|px|tokens|batch|samples/s|s a step|peak MiB|GFLOP a step|matrix GFLOP/s|utilisation"
    for name, rows in found["sweeps"].items():
        parts += [f"## By {name}\n", table(head, [_cells(row) for row in rows])]
    if found.get("processes"):
        parts += ["## One process and two, on two cores\n", _processes(found["processes"])]
    parts += ["## On paper\n", _paper(found["paper"])]
    return "\n".join(parts)


def _cells(row: Mapping[str, Any]) -> list[Any]:
    speed = [f"{row['samples_per_s']:.2f}", f"{row['step_s']:.3f}", f"{row['peak_mib']:.0f}"]
    rates = [f"{row['gflop']:.0f}", f"{row['matrix_gflops']:.0f}", f"{row['utilisation']:.0%}"]
    return [row["size"], row["side"], row["tokens"], row["batch"], *speed, *rates]


def _processes(found: Mapping[str, Any]) -> str:
    rows = []
    for name, each in found.items():
        gains = sorted(each["gain"])
        one, two = (statistics.median(pair[k] for pair in each["rates"]) for k in (0, 1))
        text = f"{statistics.median(gains):.2f} ({gains[0]:.2f} .. {gains[-1]:.2f})"
        rows.append([name, f"1 x {each['batches'][0]}", f"2 x {each['batches'][1]}", f"{one:.1f}", f"{two:.1f}", text])
    return PROCESSES + table("scaling|alone|shared|samples/s alone|shared|gain (3 pairs)", rows)


def _paper(rows: Sequence[Mapping[str, Any]]) -> str:
    note = ON_PAPER.format(
        batch=GPU_BATCH,
        share=f"{GPU_SHARE:.0%}",
        flops=f"{GPU_FLOPS / 1e12:.0f}",
        node=NODE_GPUS,
        inside=f"{NODE_BYTES / 1e9:.0f}",
        beyond=f"{NET_BYTES / 1e9:.0f}",
    )
    cells = [
        [
            *(row["name"], row["gpus"], f"{row['compute_ms']:.0f}", f"{row['ddp_mib']:.0f}", f"{row['ddp_ms']:.1f}"),
            *(f"{row['fsdp_mib']:.0f}", f"{row['fsdp_ms']:.1f}"),
        ]
        for row in rows
    ]
    return note + table("model|GPUs|arithmetic: ms|DDP: MiB sent|DDP: ms|FSDP2: MiB sent|FSDP2: ms", cells)


def main() -> None:
    """Measures, writes the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measure_row(json.loads(args.row))))
        return
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("--device cuda: expected a CUDA device, got none; run without it for the CPU figures")
    from driver import machine

    same = {
        "device": args.device,
        "precision": "bf16" if on_gpu else "fp32",
        "threads": args.threads,
        "steps": args.steps,
    }
    base, sweeps = (CUDA_BASE, CUDA_SWEEPS) if on_gpu else (BASE, SWEEPS)
    found = {
        "command": f"python benchmarks/speed/scaling.py --device {args.device} --threads {args.threads}",
        "machine": torch.cuda.get_device_name() if on_gpu else machine(args.threads),
        "sweeps": {name: [in_new_process({**base, **same, **row}) for row in rows] for name, rows in sweeps.items()},
        "processes": None if on_gpu else measure_processes(12),
        "paper": [
            {"name": name, "gpus": gpus, **on_paper(row, gpus)}
            for name, size in PAPER.items()
            for row in [in_new_process({**BASE, **same, "size": size, "batch": 1, "steps": 1})]
            for gpus in GPUS
        ],
    }
    suffix = "_cuda" if on_gpu else ""
    FOUND.parent.mkdir(exist_ok=True)
    FOUND.with_stem(f"scaling{suffix}").write_text(json.dumps(found, indent=1) + "\n")
    PAGE.with_stem(f"SCALING{suffix.upper()}").write_text(page(found))


if __name__ == "__main__":
    main()
