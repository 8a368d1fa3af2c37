"""Loading pictures: decode, random cut, mirror and collate on one core, against torchvision's and timm's loaders.

    python benchmarks/speed/loaders.py [folder]       # writes LOADERS.md

The pictures are the photographs of the vision package, enlarged and written as JPEG at the sizes of ImageNet and of a
telephone. All sides cut 30 to 100 % of the area to 224 pixels with a bicubic filter, mirror half of them and give uint8
batches of 64; timm's also scale and normalise, as its own training does. Times are of the processor, not of the clock.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from driver import TOTAL, Pair, Side, alternate_two, machine, spread

HERE = Path(__file__).parent
PAGE, FOUND = HERE / "LOADERS.md", HERE / "results" / "loaders.json"
SIZES = {"ImageNet": (500, 375), "telephone": (2000, 1500)}
PICTURES, SIDE, BATCH, SCALE = 256, 224, 64, (0.3, 1.0)
TURNS, WARM_UP = 9, 2


def write_pictures(folder: Path, size: tuple[int, int]) -> None:
    """Photographs as JPEG files in class folders."""
    from PIL import Image

    from jepa_vision.image_data import decode
    from jepa_vision.image_files import find_images

    records = find_images(Path(str(files("jepa_vision") / "samples" / "clothing10"))).records
    for number in range(PICTURES):
        record = records[number % len(records)]
        place = folder / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        picture = decode(record.read(), record.sample_id).resize(size, Image.Resampling.BICUBIC)
        picture.save(place / f"{number:04d}.jpg", quality=90)


class Loading:
    """One side: batches without end; a turn is all pictures once."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches

    def facts(self) -> Mapping[str, Any]:
        """The shape of a batch."""
        return {"shape": list(next(self._batches).shape)}

    def turn(self) -> Mapping[str, float]:
        """Seconds of the processor for all pictures."""
        begin_s = time.process_time()
        for _ in range(PICTURES // BATCH):
            next(self._batches)
        return {TOTAL: time.process_time() - begin_s}


def ours(options: Mapping[str, Any]) -> Loading:
    """This project's."""
    from jepa_core.data.loader import Loader
    from jepa_core.data.sampler import Sampler
    from jepa_vision.augment import Augment
    from jepa_vision.image_data import Images
    from jepa_vision.image_files import find_images

    source = Images(find_images(options["folder"]).records, (SIDE, SIDE), Augment(scale=SCALE, flip=0.5))
    loader = Loader(source, Sampler(len(source), 0, BATCH), 0)
    return Loading(iter(lambda: loader.next().inputs, None))


def torchvision_loader(options: Mapping[str, Any]) -> Loading:
    """An ImageFolder with transforms, in torch's own loader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(SIDE, SCALE, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
    ]
    loader = DataLoader(ImageFolder(options["folder"], v2.Compose(steps)), BATCH, shuffle=True)
    return Loading(_endless(lambda: (batch for batch, _ in loader)))


def timm_loader(options: Mapping[str, Any]) -> Loading:
    """timm's folder data set and loader."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", options["folder"], is_training=True),
        (3, SIDE, SIDE),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        no_aug=False,
        scale=SCALE,
        hflip=0.5,
        color_jitter=None,
        interpolation="bicubic",
        num_workers=0,
        device="cpu",
    )
    return Loading(_endless(lambda: (batch for batch, _ in loader)))


def _endless(epoch: Any) -> Iterator[Any]:
    while True:
        yield from epoch()


OTHERS = {"torchvision": torchvision_loader, "timm": timm_loader}


def measure(folder: Path) -> dict[str, Any]:
    """Each size against each other loader."""
    rows = []
    for name, size in SIZES.items():
        place = folder / name
        if not place.is_dir():
            write_pictures(place, size)
        for other, build in OTHERS.items():
            options = {"folder": str(place)}
            sides = (Side("ours", ours, options, 1), Side(other, build, options, 1))
            pair = alternate_two(*sides, TURNS, WARM_UP, lambda a, b: None)
            rows.append({"pictures": f"{name}, {size[0]} x {size[1]}", "other": other, **_figures(pair)})
    return {"machine": machine(1), "rows": rows}


def _figures(pair: Pair) -> dict[str, Any]:
    return {
        "ours_a_s": PICTURES / pair.ours.median(),
        "other_a_s": PICTURES / pair.theirs.median(),
        "ratios": pair.ratios,
    }


def main() -> None:
    """Measures, writes the result and the page."""
    if len(sys.argv) > 1:
        found = measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder))
    FOUND.parent.mkdir(exist_ok=True)
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        *("# Loading pictures", "", "    python benchmarks/speed/loaders.py", ""),
        f"{found['machine']}. Ratio: pictures a second of processor time, ours over the other; median and range of",
        f"{TURNS} turns in which both load the same files. Decoding a JPEG at a half, a quarter or an eighth of its",
        "size, where the cut stays large enough, makes the difference for large files.",
        *("", "| pictures | against | ours /s | other /s | ratio |", "|---|---|---|---|---|"),
        *(
            f"| {row['pictures']} | {row['other']} | {row['ours_a_s']:.0f} | {row['other_a_s']:.0f} | "
            f"{spread(row['ratios'])} |"
            for row in found["rows"]
        ),
    ]
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
