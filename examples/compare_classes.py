"""Photos of hand signs and spoken words for the same ten digits: no photo belongs to a recording, only their classes.

    python examples/compare_classes.py --signs sign-digits --words fsdd --out comparison

Nothing is trained: encoders of images and of sound as they are drawn, and raw features. Without pairs of samples
nothing can be said of samples. What can be compared are the means of the ten classes: whether signs that look alike
stand for words that sound alike. There is no reason why they should, and ten classes are few: this is what nothing
looks like.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa_audio.modality import AudioModality
from jepa_core.compare import UnpairedError, compare
from jepa_core.compare.inputs import Features, from_array, from_table
from jepa_core.config import compose
from jepa_core.evaluate.embed_samples import embed_samples
from jepa_core.plugins import find_recipe
from jepa_core.train.run import build_method
from jepa_vision.modality import VisionModality


class Some:
    """Every n-th sample of a source, so that all classes stay; keeps the contract ``LabelledSource``."""

    def __init__(self, source: Any, most: int) -> None:
        self.source, self.places = source, list(range(0, len(source), max(1, len(source) // most)))
        self.collate = source.collate

    def __len__(self) -> int:
        return len(self.places)

    def sample_id(self, index: int) -> str:
        """The source's."""
        return str(self.source.sample_id(self.places[index]))

    def load(self, index: int, seed: int) -> Any:
        """The source's."""
        return self.source.load(self.places[index], seed)

    def label(self, index: int) -> Any:
        """The source's."""
        return self.source.label(self.places[index])

    def group(self, index: int) -> None:
        """None: classes are compared, not samples."""
        return None


def source_of(modality: Any, recipe: str, most: int, *changes: str) -> tuple[Any, Some]:
    """An untrained method and some samples of all its data."""
    config = compose(modality.schema, find_recipe(modality, recipe), list(changes))
    return build_method(config, modality), Some(modality.evaluation(config, "all"), most)


def raw(source: Some, values: Any, name: str) -> Features:
    """Raw features with the labels of the samples; ``values``: of one loaded sample."""
    places = range(len(source))
    rows = np.stack([values(source.load(place, 0)) for place in places])
    return from_array(rows, name, label=[source.label(place) for place in places])


def small_picture(picture: np.ndarray) -> np.ndarray:
    """Pixels at 16 x 16."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None]
    return torch.nn.functional.interpolate(x, (16, 16), mode="area").flatten().numpy()


def spectrum(views: Any) -> np.ndarray:
    """Log energies of 20 bands in 10 equal parts of the recording."""
    sound = views.samples[0, : views.length]
    found = [np.abs(np.fft.rfft(part, 512)) ** 2 for part in np.array_split(sound, 10)]
    return np.log(np.stack([[band.mean() for band in np.array_split(one, 20)] for one in found]) + 1e-6).ravel()


def main() -> None:
    """Prints both comparisons and writes their pages."""
    parser = argparse.ArgumentParser(description="Two sets of digits, paired by class only.")
    parser.add_argument("--signs", required=True, help="folder of the photos")
    parser.add_argument("--words", required=True, help="folder of the recordings")
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    parser.add_argument("--samples", type=int, default=500, help="of either, at most about so many")
    given = parser.parse_args()
    torch.set_num_threads(1)
    signs = source_of(VisionModality(), "quickstart", given.samples, f"data.root={given.signs}")
    asked = [f"data.root={given.words}", "data.label=digit", "data.fold=speaker"]
    words = source_of(AudioModality(), "speech", given.samples, *asked)
    pairs = {
        "raw": (raw(signs[1], small_picture, "pixels"), raw(words[1], spectrum, "log energies")),
        "untrained": (from_table(embed_samples(*signs), "signs"), from_table(embed_samples(*words), "words")),
    }
    try:
        compare(*pairs["untrained"])
    except UnpairedError as error:
        print(f"as samples: {error}")
    for name, (a, b) in pairs.items():
        found = compare(a, b, mode="class")
        page = found.save(given.out / f"classes-{name}")
        print(f"\n{name}, {len(a)} photos and {len(b)} words, means of classes: {page}\n{found.table()}")
        print(found.verdict()[1])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
