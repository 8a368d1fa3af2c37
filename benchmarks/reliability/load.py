"""A million tiny samples in tar shards and in folders: listing, start, memory of the loader's processes, and speed.

    python benchmarks/reliability/load.py <folder> [--samples 1000000] [--batches-of-an-hour 62500]

Makes the data in the folder (6 GB) unless they are there, and writes results/load.json. The samples are PNG files of
16 by 16 pixels: the loader has little to decode and much to look up. Throughput is counted in samples for each second
of CPU time of the loader's processes and of the one that asks: other work on the machine changes the time on the
clock, not this.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from harness import RESULTS, SUBJECTS, command
from PIL import Image

from jepa_core.data.loader import Loader
from jepa_core.data.records import Record
from jepa_core.data.sampler import Sampler
from jepa_core.train.meter import peak_rss_mib
from jepa_vision.augment import Augment
from jepa_vision.image_data import Images, split_images
from jepa_vision.image_files import find_images

SIDE, CLASSES, IN_A_SHARD, IN_A_FOLDER = 16, 10, 10_000, 1_000
BATCH, WORKERS, POINTS = 64, 2, 40
LAYOUTS = ("shards", "folder")


# --------------------------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------------------------


def pictures() -> list[bytes]:
    """256 files of noise."""
    rng, found = np.random.default_rng(0), []
    for _ in range(256):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


def make_shards(root: Path, samples: int, files: Sequence[bytes]) -> None:
    """``train-0000.tar`` and so on, a class number beside each picture."""
    root.mkdir(parents=True)
    for shard, start in enumerate(range(0, samples, IN_A_SHARD)):
        with tarfile.open(root / f"train-{shard:04d}.tar", "w") as archive:
            for number in range(start, min(start + IN_A_SHARD, samples)):
                for ending, content in ((".png", files[number % len(files)]), (".cls", b"%d" % (number % CLASSES))):
                    info = tarfile.TarInfo(f"{number:07d}{ending}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def make_folder(root: Path, samples: int, files: Sequence[bytes]) -> None:
    """Class folders of folders of files."""
    for folder, start in enumerate(range(0, samples, IN_A_FOLDER)):
        place = root / f"class{folder % CLASSES}" / f"d{folder:04d}"
        place.mkdir(parents=True)
        for number in range(start, min(start + IN_A_FOLDER, samples)):
            (place / f"{number:07d}.png").write_bytes(files[number % len(files)])


# --------------------------------------------------------------------------------------------------------------------
# Listing and start
# --------------------------------------------------------------------------------------------------------------------


def start_once(root: str) -> dict[str, float]:
    """What a run does with a root before its first step, in this process: seconds up to a list, splits and a batch."""
    before_mib, begin_s = peak_rss_mib(), time.perf_counter()
    found = find_images(root)
    listed_s = time.perf_counter() - begin_s
    source = Images(split_images(found, 5).train, (SIDE, SIDE), Augment())
    Loader(source, Sampler(len(source), 0, BATCH), 0).next()
    return {
        "samples": len(found.records),
        "list_s": round(listed_s, 2),
        "first_batch_s": round(time.perf_counter() - begin_s, 2),
        "grown_mib": round(peak_rss_mib() - before_mib),
    }


def in_new_process(arguments: Sequence[str], cache: str) -> dict[str, Any]:
    """This file with other arguments; what it prints last is its result."""
    command = [sys.executable, __file__, *arguments]
    said = subprocess.run(command, env={**os.environ, "JEPA_CACHE": cache}, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def command_s(root: Path, cache: str) -> float:
    """Seconds of a whole training command of one step."""
    with tempfile.TemporaryDirectory() as folder:
        words = command(SUBJECTS["vision"], [f"data.root={root}", f"runs_dir={folder}", "probe.enabled=false"])
        words = [word for word in words if not word.startswith("trainer.max_steps")] + ["trainer.max_steps=1"]
        begin_s = time.perf_counter()
        environment = {**os.environ, "JEPA_CACHE": cache}
        subprocess.run(words, check=True, capture_output=True, env=environment, cwd=folder)
        return round(time.perf_counter() - begin_s, 1)


def measure_starts(work: Path, small: Path) -> dict[str, Any]:
    """For each layout: the first listing, the next start, and whole commands."""
    found: dict[str, Any] = {}
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as cache:
            root = work / layout
            found[layout] = {
                "first": in_new_process(["--start-once", str(root)], cache),
                "next": in_new_process(["--start-once", str(root)], cache),
                "command_s": command_s(root, cache),
                "command_of_a_thousand_s": command_s(small / layout, cache),
                "kept_mib": round(sum(file.stat().st_size for file in Path(cache).rglob("*.npz")) / 2**20, 1),
            }
    return found


# --------------------------------------------------------------------------------------------------------------------
# Epochs
# --------------------------------------------------------------------------------------------------------------------


class Listed(Images):
    """The control: the same source over a list of Python objects, as data sets usually hold theirs."""

    def __init__(self, images: Images) -> None:
        super().__init__(images.records, images.size, images.augment)
        self.objects: list[Record[Any]] = list(images.records)

    def sample_id(self, index: int) -> str:
        """Of an object."""
        return self.objects[index].sample_id


def watch_epochs(root: str, batches: int, control: bool) -> dict[str, Any]:
    """Memory of each loader process and samples a CPU second, at even distances over so many batches."""
    source = Images(find_images(root).records, (SIDE, SIDE), Augment())
    source = Listed(source) if control else source
    loader = Loader(source, Sampler(len(source), 0, BATCH), 0, workers=WORKERS)
    me, rows = psutil.Process(), []
    loader.next()
    begin_s, cpu_s = time.perf_counter(), _cpu_s(me)
    for batch in range(1, batches + 1):
        loader.next()
        if batch % max(1, batches // POINTS) == 0:
            now_s, now_cpu_s = time.perf_counter(), _cpu_s(me)
            rows.append(
                {
                    "samples": batch * BATCH,
                    "clock_s": round(now_s - begin_s, 1),
                    "cpu_s": round(now_cpu_s - cpu_s, 2),
                    "own_mib": [round(child.memory_full_info().uss / 2**20, 1) for child in me.children()],
                }
            )
    loader.close()
    return {"samples": len(source), "rows": rows}


def _cpu_s(process: psutil.Process) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children()))


def main() -> None:
    """Makes the data, measures each layout in processes of their own, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--batches-of-an-hour", type=int, default=62_500)
    parser.add_argument("--start-once")
    parser.add_argument("--epochs", nargs=3, metavar=("ROOT", "BATCHES", "CONTROL"))
    wanted = parser.parse_args()
    if wanted.start_once:
        print(json.dumps(start_once(wanted.start_once)))
    elif wanted.epochs:
        root, batches, control = wanted.epochs
        print(json.dumps(watch_epochs(root, int(batches), control == "yes")))
    elif wanted.folder:
        measure(Path(wanted.folder), wanted.samples, wanted.batches_of_an_hour)
    else:
        parser.error("expected a folder for the data")


def measure(work: Path, samples: int, batches: int) -> None:
    """Everything; see the file's head."""
    small = work / "small"
    for root, count in ((work, samples), (small, 1000)):
        for layout, make in zip(LAYOUTS, (make_shards, make_folder), strict=True):
            if not (root / layout).is_dir():
                make(root / layout, count, pictures())
    time.sleep(3)  # what has just been written is not kept
    found = {"batch": BATCH, "workers": WORKERS, "starts": measure_starts(work, small), "epochs": {}}
    epoch = samples // BATCH
    with tempfile.TemporaryDirectory() as cache:
        for name, layout, count, control in (
            ("shards, an hour", "shards", batches, "no"),
            ("folder, an epoch", "folder", epoch, "no"),
            ("shards, Python objects, an epoch", "shards", epoch, "yes"),
        ):
            found["epochs"][name] = in_new_process(["--epochs", str(work / layout), str(count), control], cache)
            (RESULTS / "load.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
