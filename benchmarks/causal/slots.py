"""Slots from pixels on the world of discs: how well they split the objects, what they know, how long it takes.

    python benchmarks/causal/slots.py run --mode image --seed 0
    python benchmarks/causal/slots.py table

``run`` trains one encoder by the default recipe, scores it and the same encoder untrained on episodes that were held
back, and writes ``results/slots-<mode>-seed<n>.json``. ``table`` writes ``SLOTS.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_causal.episodes import Episode
from jepa_causal.slots.pixels import SlotAutoencoder, SlotSettings
from jepa_causal.slots.scores import fg_ari, kept_share, mean_best_overlap, slots_of_objects
from jepa_causal.slots.storage import encode_episodes
from jepa_causal.slots.training import SlotTraining, train_slots, video_training
from jepa_causal.worlds.discs import Discs, DiscSettings

HERE = Path(__file__).parent
GATE_FG_ARI, GATE_SECONDS = 0.8, 300
TRAIN, TEST, STEPS, OBJECTS = 400, 100, 20, 4
FIGURES = ("fg_ari", "fg_ari_video", "mbo", "kept", "kept_first", "probe_rmse", "mse")


@dataclass(frozen=True)
class Scene:
    """Encoded episodes: slots ``[E, T, K, D]``, the slot of each pixel ``[E, T, R, R]``, truth, squared error."""

    slots: Tensor
    found: Tensor
    segments: Tensor
    places: Tensor
    error: float


def episodes(first: int, count: int) -> list[Episode]:
    """Discs, ``first`` and up as seeds."""
    world = Discs(DiscSettings(fewest=2, most=OBJECTS))
    return [world.with_frames(world.episode(first + i, STEPS), 16) for i in range(count)]


def recipe(mode: str) -> SlotTraining:
    """The default recipe of a mode."""
    return SlotTraining(SlotSettings(mode="image")) if mode == "image" else video_training()


@torch.inference_mode()
def look(model: SlotAutoencoder, data: Sequence[Episode]) -> Scene:
    """Slots and masks of episodes."""
    slots = torch.from_numpy(np.stack([e.slots for e in encode_episodes(model, data) if e.slots is not None]))
    found, errors = [], []
    for episode, one in zip(data, slots, strict=True):
        picture, masks = model.decode(one[None])
        found.append(masks[0].argmax(1))
        errors.append(float((picture - model.images(torch.from_numpy(episode.frames)[None])).square().mean()))
    segments = torch.from_numpy(np.stack([e.segments for e in data if e.segments is not None]))
    places = torch.from_numpy(np.stack([e.states[..., :2] for e in data if e.states is not None]))
    return Scene(slots, torch.stack(found), segments, places, statistics.mean(errors))


def rows_of(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The slot of each visible object, and where it is: ``[R, D]`` and ``[R, 2]``."""
    flat = slots_of_objects(scene.found.flatten(0, 1), scene.segments.flatten(0, 1), OBJECTS)
    frames, objects = (flat >= 0).nonzero(as_tuple=True)
    slots = scene.slots.flatten(0, 1)[frames, flat[frames, objects]]
    return slots.numpy(), scene.places.flatten(0, 1)[frames, objects].numpy()


def probe_rmse(train: Scene, test: Scene) -> float:
    """Of a ridge regression from a slot to the place of its object, in widths of the box."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), Ridge(1.0)).fit(*rows_of(train))
    slots, places = rows_of(test)
    return float(np.sqrt(np.square(probe.predict(slots) - places).mean()))


def figures(model: SlotAutoencoder, train: Sequence[Episode], test: Sequence[Episode]) -> dict[str, float]:
    """All scores of one model."""
    scene = look(model, test)
    frames, objects = scene.found.flatten(0, 1), scene.segments.flatten(0, 1)
    owner = slots_of_objects(frames, objects, OBJECTS).unflatten(0, scene.found.shape[:2])
    kept, kept_first = kept_share(owner)
    return {
        "fg_ari": float(fg_ari(frames, objects).nanmean()),
        "fg_ari_video": float(fg_ari(scene.found, scene.segments).nanmean()),
        "mbo": float(mean_best_overlap(frames, objects).nanmean()),
        "kept": kept,
        "kept_first": kept_first,
        "probe_rmse": probe_rmse(look(model, train[:TEST]), scene),
        "mse": scene.error,
    }


def run(mode: str, seed: int, threads: int) -> None:
    """Trains, scores and writes one result."""
    torch.set_num_threads(threads)
    train, test = episodes(0, TRAIN), episodes(10**6, TEST)
    settings = recipe(mode)
    started, processor = time.monotonic(), time.process_time()
    model = train_slots(train, settings, seed=seed, progress=lambda line: print(line, flush=True))
    seconds, processor = time.monotonic() - started, time.process_time() - processor
    untrained = train_slots(train, replace(settings, steps=1, warmup=1, lr=1e-12), seed=seed)
    result = {
        "mode": mode,
        "seed": seed,
        "seconds": seconds,
        "processor_seconds": processor,
        "threads": threads,
        "steps": settings.steps,
        "trained": figures(model, train, test),
        "untrained": figures(untrained, train, test),
    }
    path = HERE / "results" / f"slots-{mode}-seed{seed}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def cell(values: Sequence[float]) -> str:
    """Mean, and the range over seeds."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} .. {max(values):.3f})"


def table() -> None:
    """Writes the table of all results."""
    found = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("slots-*.json"))]
    rows = []
    for mode in sorted({one["mode"] for one in found}):
        of_mode = [one for one in found if one["mode"] == mode]
        for which in ("trained", "untrained"):
            cells = [cell([one[which][name] for one in of_mode]) for name in FIGURES]
            took = f"{max(one['seconds'] for one in of_mode):.0f}" if which == "trained" else "0"
            rows.append(f"| {mode}, {which} | {len(of_mode)} | {' | '.join(cells)} | {took} |")
    passed = all(one["trained"]["fg_ari"] >= GATE_FG_ARI and one["seconds"] <= GATE_SECONDS for one in found)
    (HERE / "SLOTS.md").write_text(page(rows, passed, max(one["threads"] for one in found)))


def page(rows: Sequence[str], passed: bool, threads: int) -> str:
    """The whole file."""
    verdict = "Every run passes" if passed else "Not every run passes"
    lines = [
        "# Slots from pixels",
        "",
        "`python benchmarks/causal/slots.py run --mode <image or video> --seed <n>`, then `... table`.",
        f"World of discs, 2 to {OBJECTS} objects, 16 x 16 pixels, {STEPS} steps; {TRAIN} episodes to train on, {TEST}",
        f"held back. {platform.machine()}, {threads} CPU threads at most, torch {torch.__version__.split('+')[0]}; the",
        "machine was busy with other work. Mean and range over seeds.",
        "",
        f"Gate: FG-ARI of {GATE_FG_ARI} on held-back frames within {GATE_SECONDS} s of training. {verdict}.",
        "",
        "FG-ARI: of single frames, and of whole videos, where a slot that changes its object costs. mBO: mean best",
        "overlap. Kept: share of objects that are in the slot they were in one frame before, and in the first frame.",
        "RMSE: of a ridge probe from a slot to the place of its object, in widths of the box. MSE: of the drawn",
        "picture, colours from 0 to 1. Seconds: of the slowest run.",
        "",
        "| model | seeds | FG-ARI, frames | FG-ARI, videos | mBO | kept | kept, first | RMSE | MSE | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs one training, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--mode", choices=("image", "video"), default="image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.what == "table":
        table()
    else:
        run(options.mode, options.seed, options.threads)


if __name__ == "__main__":
    main()
