"""A million tiny samples in tar shards and in folders: listing, start, memory of the loader's processes, and speed.

    python benchmarks/reliability/load.py <folder> [--samples 1000000] [--batches-of-an-hour 62500]

Makes the data in the folder (6 GB) unless they are there, and writes results/load.json. The samples are PNG files of
16 by 16 pixels: the loader has little to decode and much to look up. At the end a loader's speed is measured in turns
with that of a fresh one, which begins at samples that neither has read, by the processor time of all processes of
each: other work on the machine slows both and leaves the ratio alone.
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
TURNS, TURN_BATCHES = 31, 60
"""Of a loader at its end against one that has just begun: turns, and the batches of each in a turn."""
LAYOUTS = ("shards", "folder")
SMALL = "small"


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


def measure_starts(work: Path) -> dict[str, Any]:
    """For each layout: the first listing, the next start, and whole commands."""
    found: dict[str, Any] = {}
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as cache:
            root = work / layout
            found[layout] = {
                "first": in_new_process(["--start-once", str(root)], cache),
                "next": in_new_process(["--start-once", str(root)], cache),
                "command_s": command_s(root, cache),
                "command_of_a_thousand_s": command_s(work / SMALL / layout, cache),
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


def make_loader(root: str, control: bool, position: int = 0) -> Loader:
    """Two processes over a root, its records in columns or, for the control, as objects; from a position on."""
    source = Images(find_images(root).records, (SIDE, SIDE), Augment())
    source = Listed(source) if control else source
    return Loader(source, Sampler(len(source), 0, BATCH, position=position), 0, workers=WORKERS)


def watch_epochs(root: str, batches: int, control: bool) -> dict[str, Any]:
    """Memory of each loader process at even distances over so many batches, and the speed at the end."""
    loader, me, rows = make_loader(root, control), psutil.Process(), []
    loader.next()
    for batch in range(1, batches + 1):
        loader.next()
        if batch % max(1, batches // POINTS) == 0:
            own_mib = [round(child.memory_full_info().uss / 2**20, 1) for child in me.children()]
            rows.append({"samples": batch * BATCH, "own_mib": own_mib})
    return {"rows": rows, "ratios": _against_fresh(root, control, loader)}


def _against_fresh(root: str, control: bool, old: Loader) -> list[float]:
    """How fast a loader still is: processor time of a fresh one's batches over that of its own, in turns."""
    me = psutil.Process()
    mine = me.children()
    ahead = old.global_position + 2 * TURNS * TURN_BATCHES * BATCH
    words = [sys.executable, __file__, "--serve", root, "yes" if control else "no", str(ahead)]
    ratios = []
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as fresh:
        assert fresh.stdin is not None and fresh.stdout is not None
        for turn in range(TURNS + 2):
            own_s = _taken_s(old, [me, *mine])
            fresh.stdin.write("\n")
            fresh.stdin.flush()
            fresh_s = float(fresh.stdout.readline())
            if turn >= 2:
                ratios.append(fresh_s / own_s)
        fresh.stdin.close()
    old.close()
    return ratios


def serve(root: str, control: bool, position: int) -> None:
    """A fresh loader: seconds of processor time of a turn for each line that is read."""
    loader, me = make_loader(root, control, position), psutil.Process()
    loader.next()
    for _ in sys.stdin:
        print(_taken_s(loader, [me, *me.children()]), flush=True)


def _taken_s(loader: Loader, processes: Sequence[psutil.Process]) -> float:
    """Of a turn's batches; what the workers have read ahead counts in the turn before, evenly in all turns."""
    before_s = _cpu_s(processes)
    for _ in range(TURN_BATCHES):
        loader.next()
    return _cpu_s(processes) - before_s


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def main() -> None:
    """Makes the data, measures each layout in processes of their own, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--batches-of-an-hour", type=int, default=62_500)
    parser.add_argument("--only", choices=("starts", "epochs"), help="measures a part, and keeps the other as it was")
    parser.add_argument("--start-once", help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", nargs=3, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.start_once:
        print(json.dumps(start_once(wanted.start_once)))
    elif wanted.serve:
        serve(wanted.serve[0], wanted.serve[1] == "yes", int(wanted.serve[2]))
    elif wanted.epochs:
        root, batches, control = wanted.epochs
        print(json.dumps(watch_epochs(root, int(batches), control == "yes")))
    elif wanted.folder:
        make_data(Path(wanted.folder), wanted.samples)
        parts = ("starts", "epochs") if wanted.only is None else (wanted.only,)
        measure(Path(wanted.folder), wanted.samples, wanted.batches_of_an_hour, parts)
    else:
        parser.error("expected a folder for the data")


def make_data(work: Path, samples: int) -> None:
    """A million, and a thousand, in both layouts; what is there stays."""
    for root, count in ((work, samples), (work / SMALL, 1000)):
        for layout, make in zip(LAYOUTS, (make_shards, make_folder), strict=True):
            if not (root / layout).is_dir():
                make(root / layout, count, pictures())
    time.sleep(3)  # what has just been written is not kept


def measure(work: Path, samples: int, batches: int, parts: Sequence[str]) -> None:
    """Writes the result; of what is not measured it keeps what stood there."""
    file = RESULTS / "load.json"
    found = {"batch": BATCH, "workers": WORKERS, **(json.loads(file.read_text()) if file.exists() else {})}
    if "starts" in parts:
        found["starts"] = measure_starts(work)
    if "epochs" in parts:
        found["epochs"] = measure_epochs(work, samples // BATCH, batches)
    file.write_text(json.dumps(found, indent=1) + "\n")


def measure_epochs(work: Path, epoch: int, hour: int) -> dict[str, Any]:
    """An hour, an epoch of the other layout, and the control."""
    runs = {
        "shards, an hour": ("shards", hour, "no"),
        "folder, an epoch": ("folder", epoch, "no"),
        "shards, Python objects, an epoch": ("shards", epoch, "yes"),
    }
    with tempfile.TemporaryDirectory() as cache:
        return {
            name: in_new_process(["--epochs", str(work / layout), str(count), control], cache)
            for name, (layout, count, control) in runs.items()
        }


if __name__ == "__main__":
    main()
