"""Which word is said, from the lips alone: V-JEPA on 700 clips of one talking face, frozen, and its controls.

    python benchmarks/vision/grid_s1.py --data /data/grid-s1 --seeds 0 1 2 --out grid_s1.json

Each seed pre-trains an encoder with the recipe and its masked-autoencoder control on the training clips, without
labels. Features of the frozen encoders, of the same encoder untrained, of the frames at 16 x 16 pixels and of their
mean are reduced to 300 principal components (pixels also to 150, as in the baseline that comes with the data); a
logistic regression whose strength is chosen by cross-validation within the training clips is tested once. All rows see
the same region of the same clips. Speech is tied to the time of the clip, so that features are those of each time step,
side by side: the mean of its tokens, or all its tokens; "changes" is without their mean over the clip's time. To choose
settings, look at "within train", the cross-validation within the training clips. Writes ``--out`` and a page beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.config import compose
from jepa_core.evaluate.heads import compress
from jepa_core.evaluate.probes import linear_probe_accuracy
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.plugins import find_recipe
from jepa_core.seeds import draws
from jepa_core.train.run import build_method
from jepa_vision.video_files import VideoList, VideoRecord, find_videos
from jepa_vision.video_modality import VideoModality
from jepa_vision.video_probe import mean_frame, raw_frames
from jepa_vision.video_settings import VideoRun
from jepa_vision.video_sources import clips_of, size_of

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import MASKED_AUTOENCODER, hardware, train  # noqa: E402  # beside the benchmarks, in no package

PARTS, FEWER = 300, 150
LAYERS = {"": -1, "block 1, ": 1}
SPARE = 1.125  # clips are kept this much larger than the input, for random crops
CROP_STREAM = 331
Features = Mapping[str, Tensor]


class Figure(NamedTuple):
    """Accuracy on held-out clips with its error, and in cross-validation within the training clips."""

    value: float
    stderr: float
    within_train: float


Table = dict[str, dict[str, Figure]]


class KeptClips:
    """Clips decoded once; a training view is a random crop of the input's size, a plain one the middle.

    Args:
        clips: uint8 ``[N, T, H', W', 3]``.
        size: ``(height, width)`` of the input.
    """

    def __init__(self, clips: NDArray[np.uint8], size: tuple[int, int]) -> None:
        self.clips, self.size = clips, size

    def __len__(self) -> int:
        return len(self.clips)

    def sample_id(self, index: int) -> str:
        """Its number."""
        return f"clip-{index:04d}"

    def load(self, index: int, seed: int) -> NDArray[np.uint8]:
        """A random crop, the same in all frames."""
        stream = draws(seed, CROP_STREAM)
        return self._cut(self.clips[index], next(stream), next(stream))

    def collate(self, samples: Sequence[NDArray[np.uint8]]) -> Tensor:
        """uint8 ``[B, 3, T, H, W]``."""
        return torch.from_numpy(np.stack(samples)).permute(0, 4, 1, 2, 3).contiguous()

    def middle(self, start: int, end: int) -> Tensor:
        """The middle of clips ``start`` to ``end``, uint8 ``[B, 3, T, H, W]``."""
        return self.collate([self._cut(clip, 0.5, 0.5) for clip in self.clips[start:end]])

    def _cut(self, clip: NDArray[np.uint8], down: float, along: float) -> NDArray[np.uint8]:
        (height, width), (tall, wide) = self.size, clip.shape[1:3]
        top, left = int(down * (tall - height + 1)), int(along * (wide - width + 1))
        return clip[:, top : top + height, left : left + width]


class KeptVideo(VideoModality):
    """Video with clips that are in memory."""

    def __init__(self, kept: KeptClips) -> None:
        self.kept = kept

    def sources(self, config: VideoRun) -> KeptClips:
        """Random crops of the clips."""
        return self.kept

    def choices(self, config: VideoRun) -> Sequence[tuple[str, str, str]]:
        """What this script trains on."""
        return [("data", f"{len(self.kept)} clips in memory", "decoded by this script")]


def decode(config: VideoRun, records: Sequence[VideoRecord]) -> KeptClips:
    """All clips, a little larger than the input."""
    height, width = (math.ceil(side * SPARE) for side in size_of(config))
    larger = compose(VideoRun, None, [])
    larger.data = replace(config.data, height=height, width=width)
    source = clips_of(larger, records)
    return KeptClips(np.stack([source.load(index, 0) for index in range(len(source))]), size_of(config))


def labels_of(videos: VideoList, records: Sequence[VideoRecord], column: str) -> Tensor:
    """Class numbers of a field."""
    names = sorted({record.fields[column] for record in videos.records})
    return torch.tensor([names.index(record.fields[column]) for record in records])


def pretrain(config: VideoRun, kept: KeptClips) -> MaskedPrediction:
    """A trained method; its run folder is not kept, and its own probe is left to this script."""
    config.probe.enabled = False
    with tempfile.TemporaryDirectory() as folder:
        method, _ = train(config, KeptVideo(kept), Path(folder), "run")
    return cast(MaskedPrediction, method)


def encoder_features(method: MaskedPrediction, kept: KeptClips) -> Features:
    """Of each time step the mean of its tokens, and all its tokens; of the last layer and of one in the middle."""
    found: dict[str, Tensor] = {}
    for prefix, layer in LAYERS.items():
        means, whole = [], []
        for start in range(0, len(kept), 20):
            tokens = frozen_tokens(method, "online", kept.middle(start, start + 20), layer)
            steps = tokens.features.float().unflatten(1, (tokens.lattice.sizes[0], -1))
            means.append(steps.mean(2))
            whole.append(steps.flatten(2))
        found |= with_changes({f"{prefix}means": torch.cat(means), f"{prefix}all tokens": torch.cat(whole)})
    return found


def pixel_features(kept: KeptClips) -> Features:
    """Of each frame its pixels at 16 x 16."""
    found = [raw_frames(kept.middle(start, start + 20))[""] for start in range(0, len(kept), 20)]
    return with_changes({"pixels": torch.cat(found).unflatten(1, (kept.clips.shape[1], -1))})


def still_features(kept: KeptClips) -> Features:
    """The mean frame."""
    found = [mean_frame(kept.middle(start, start + 20))[""] for start in range(0, len(kept), 20)]
    return {"pixels": torch.cat(found)}


def with_changes(features: Mapping[str, Tensor]) -> Features:
    """Features ``[N, T, D]`` as rows, as they are and as what differs from their mean over the clip's time."""
    found = {}
    for name, x in features.items():
        found[name] = x.flatten(1)
        found[f"{name}, changes"] = (x - x.mean(1, keepdim=True)).flatten(1)
    return found


def measure(
    fitted: Features, tested: Features, labels: Mapping[str, tuple[Tensor, Tensor]], parts: int = PARTS
) -> dict[str, Figure]:
    """Accuracies by readout and what is asked, of so many principal components."""
    found: dict[str, Figure] = {}
    for readout, features in fitted.items():
        train, test = compress(features, tested[readout], parts)
        for column, (train_labels, test_labels) in labels.items():
            result = linear_probe_accuracy(train, train_labels, test, test_labels)
            found[f"{column}, {readout}"] = Figure(
                result.accuracy.value, result.accuracy.stderr, max(result.validation.values())
            )
    return found


def one_seed(
    seed: int, arguments: argparse.Namespace, kept: tuple[KeptClips, KeptClips], labels: Mapping[str, Any]
) -> Table:
    """Rows that depend on the seed."""
    wanted = [*(["trainer.max_steps=" + str(arguments.steps)] if arguments.steps else []), *arguments.set]
    base = [f"recipe={arguments.recipe}", f"seed={seed}", "logging.trackers=[]", "monitor.every=50", *wanted]
    recipe = find_recipe(VideoModality(), arguments.recipe)
    plain, control = compose(VideoRun, recipe, base), compose(VideoRun, recipe, [*base, *MASKED_AUTOENCODER])
    methods = {"untrained": cast(MaskedPrediction, build_method(plain, KeptVideo(kept[0])).eval())}
    methods["trained"] = pretrain(plain, kept[0])
    if not arguments.no_control:
        methods["masked autoencoder"] = pretrain(control, kept[0])
    return {
        name: measure(encoder_features(method, kept[0]), encoder_features(method, kept[1]), labels)
        for name, method in methods.items()
    }


def summary(tables: Sequence[Table], fixed: Table) -> dict[str, Any]:
    """Means over seeds; ``stderr`` is that of the test clips, ``spread`` the standard deviation over seeds."""
    rows: dict[str, Any] = {}
    for name in tables[0]:
        rows[name] = {}
        for column in tables[0][name]:
            values = [table[name][column].value for table in tables]
            rows[name][column] = {
                "mean": statistics.mean(values),
                "stderr": statistics.mean(table[name][column].stderr for table in tables),
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "within_train": statistics.mean(table[name][column].within_train for table in tables),
                "values": values,
            }
    for name, columns in fixed.items():
        rows[name] = {
            column: {"mean": one.value, "stderr": one.stderr, "within_train": one.within_train}
            for column, one in columns.items()
        }
    return rows


def page(found: Mapping[str, Any]) -> str:
    """The table to read."""
    given, rows = found["arguments"], found["rows"]
    lines = [
        "# One talking face: which command, which adverb is said, from the lips alone", "",
        f"Written by `python benchmarks/vision/grid_s1.py --data grid-s1 --seeds {' '.join(map(str, given['seeds']))} "
        f"--out benchmarks/vision/results/grid_s1.json`, recipe {given['recipe']}; {found['hardware']}.",
        f"Accuracy on {found['clips'][given['split']]} test clips, fitted on {found['clips']['train']}; chance .25. "
        "Mean over seeds [lowest, highest], in brackets that of cross-validation within the training clips. The "
        "standard error of one figure on the test clips is about .035. The baseline that comes with the data, whole "
        "frames at 16 x 16 pixels: .43 (command), .585 (adverb). The masked autoencoder has the same encoder, data, "
        "masks and steps.", "",
        "| features | command | adverb |", "|---|---|---|",
    ]  # fmt: skip
    for row, columns in rows.items():
        for readout in dict.fromkeys(key.split(", ", 1)[1] for key in columns):
            cells = [_cell(columns[f"{asked}, {readout}"]) for asked in ("command", "adverb")]
            lines.append("| " + " | ".join([f"{row}: {readout}", *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(cell: Mapping[str, Any]) -> str:
    values = cell.get("values", [])
    span = f" [{min(values):.3f}, {max(values):.3f}]" if len(values) > 1 else ""
    return f"{cell['mean']:.3f}{span} ({cell['within_train']:.3f})"


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description="Frozen video features of a talking face.")
    parser.add_argument("--data", required=True, help="folder of the tar shards")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps; 0 = the recipe's")
    parser.add_argument("--recipe", default="grid_s1")
    parser.add_argument("--split", choices=["test", "validation"], default="test", help="validation to choose settings")
    parser.add_argument("--columns", nargs="+", default=["command", "adverb"])
    parser.add_argument("--no-control", action="store_true", help="leave the masked autoencoder out")
    parser.add_argument("--set", nargs="*", default=[], help="settings, as key=value")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = compose(VideoRun, find_recipe(VideoModality(), arguments.recipe), list(arguments.set))
    videos = find_videos(arguments.data, "command")
    sides = [[r for r in videos.records if r.split == split] for split in ("train", arguments.split)]
    kept = decode(config, sides[0]), decode(config, sides[1])
    labels = {
        column: (labels_of(videos, sides[0], column), labels_of(videos, sides[1], column))
        for column in arguments.columns
    }
    pixels = pixel_features(kept[0]), pixel_features(kept[1])
    fixed = {
        "raw": measure(*pixels, labels),
        f"raw, {FEWER} components": measure(*pixels, labels, FEWER),
        "mean frame": measure(still_features(kept[0]), still_features(kept[1]), labels, FEWER),
    }
    print(fixed, flush=True)
    tables = [one_seed(seed, arguments, kept, labels) for seed in arguments.seeds]
    rows = summary(tables, fixed)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    counts = {"train": len(sides[0]), arguments.split: len(sides[1])}
    given = {**vars(arguments), "data": Path(arguments.data).name}
    found = {"arguments": given, "hardware": hardware(), "clips": counts, "rows": rows}
    arguments.out.write_text(json.dumps(found, default=str, indent=1))
    (Path(__file__).parent / "GRID_S1.md").write_text(page(found))
    for name, columns in rows.items():
        print(name, {key: (round(cell["mean"], 3), round(cell["within_train"], 3)) for key, cell in columns.items()})


if __name__ == "__main__":
    main()
