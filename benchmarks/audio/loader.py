"""Does the loader keep a batch ahead of the encoder? Share of time that encoders of several speeds wait for sound.

    python benchmarks/audio/loader.py --data <folder of ESC-10>

Batches of 256 crops are handed to a consumer that sleeps as long as an encoder of a given speed would compute on
another device. Writes ``LOADER.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from jepa_audio.modality import MODALITY
from jepa_audio.settings import AudioRun
from jepa_audio.sources import sounds_of, training_source
from jepa_core.config import compose
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler

HERE = Path(__file__).parent
RATE_HZ, BATCH, SECONDS = 16_000, 256, 2.08
SPEEDS = (250, 500, 1000, 2000, 4000)
WARM_UP = 3


def loader_of(data: str, keep_mib: int, workers: int) -> Loader:
    """Random crops of all clips."""
    given = [f"data.root={data}", f"data.seconds={SECONDS}", "data.views=1", f"data.keep_mib={keep_mib}"]
    config = compose(AudioRun, MODALITY.recipes / "quickstart.yaml", [*given, "audio.agreement.weight=0"])
    source = training_source(config.data, sounds_of(config.data).records, RATE_HZ)
    return Loader(source, Sampler(len(source), 0, BATCH), 0, workers)


def clips_per_second(data: str, keep_mib: int, batches: int) -> float:
    """Of one process that does nothing else; median batch, processor time."""
    loader, taken = loader_of(data, keep_mib, 0), []
    for _ in range(WARM_UP + batches):
        start = time.process_time()
        loader.next()
        taken.append(time.process_time() - start)
    return BATCH / statistics.median(taken[WARM_UP:])


def waiting(data: str, keep_mib: int, workers: int, speed: float, batches: int) -> float:
    """Share of the time that a consumer of ``speed`` clips a second waits."""
    loader, waited = loader_of(data, keep_mib, workers), 0.0
    for _ in range(WARM_UP):
        loader.next()
        time.sleep(BATCH / speed)
    begin = time.perf_counter()
    for _ in range(batches):
        start = time.perf_counter()
        loader.next()
        waited += time.perf_counter() - start
        time.sleep(BATCH / speed)
    share = waited / (time.perf_counter() - begin)
    loader.close()
    return share


def page(args: argparse.Namespace) -> str:
    """LOADER.md."""
    lines = [
        "# Does the loader keep a batch ahead of the encoder?", "",
        f"`python benchmarks/audio/loader.py --data <folder of ESC-10>`: batches of {BATCH} random crops of {SECONDS} "
        f"s from 5 s FLAC files, 16 kHz, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; each "
        "worker one thread. The encoder is a clock on another device: share of its time that it waits for sound, by "
        "its speed. A worker that reads ahead hides loading wholly as long as it is faster than the encoder.", "",
        "| crops | workers | one worker gives, clips/s | " + " | ".join(f"encoder {s} clips/s" for s in SPEEDS) + " |",
        "|---" * (3 + len(SPEEDS)) + "|",
    ]  # fmt: skip
    for name, keep_mib in (("read by seeking", 0), ("of clips kept decoded (`data.keep_mib`)", 512)):
        own = clips_per_second(args.data, keep_mib, args.batches)
        for workers in (0, 1, 2):
            cells = [f"{waiting(args.data, keep_mib, workers, speed, args.batches):.1%}" for speed in SPEEDS]
            lines.append(f"| {name} | {workers} | {own:.0f} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--batches", type=int, default=12)
    torch.set_num_threads(1)
    args = parser.parse_args()
    (HERE / "LOADER.md").write_text(page(args))


if __name__ == "__main__":
    main()
