"""Slots from pixels on the world of discs: how well they split the objects, what they know, how long it takes.

    python benchmarks/causal/slots.py tune --mode video clip_lr=1e-3
    python benchmarks/causal/slots.py run --seed 0
    python benchmarks/causal/slots.py table

``run`` trains a video encoder by the default recipe, scores it and the same encoder untrained on test episodes, and
writes ``results/slots-<mode>-seed<n>.json`` for both modes: up to the end of single frames the recipe is that of an
image encoder, which is kept at that step. ``tune`` trains one with other settings, scores it on episodes that are
neither trained on nor tested on, and writes nothing. ``table`` writes ``SLOTS.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
# First seeds of episodes.
FIRST_TRAIN, FIRST_TEST, FIRST_TUNE = 0, 10**6, 2 * 10**6
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


@dataclass
class Moment:
    """A model at a step of its training, and what it had taken by then."""

    state: dict[str, Tensor]
    seconds: float
    processor_seconds: float


def trained(settings: SlotTraining, train: Sequence[Episode], seed: int) -> dict[int, Moment]:
    """The model at the end of single frames and at the end, by step."""
    found: dict[int, Moment] = {}
    started, processor = time.monotonic(), time.process_time()

    def keep(step: int, model: SlotAutoencoder) -> None:
        if step in (settings.single_steps, settings.steps):
            state = {name: value.detach().clone() for name, value in model.state_dict().items()}
            found[step] = Moment(state, time.monotonic() - started, time.process_time() - processor)

    train_slots(train, settings, seed=seed, progress=lambda line: print(line, flush=True), after_step=keep)
    return found


def model_of(settings: SlotSettings, state: dict[str, Tensor]) -> SlotAutoencoder:
    """The model; an image model takes from a video model what it has of it."""
    model = SlotAutoencoder(settings).eval()
    renamed = {name.replace("reader.corrector.", "reader."): value for name, value in state.items()}
    model.load_state_dict({n: renamed[n] if n in renamed else state[n] for n in model.state_dict()})
    return model


def measured(settings: SlotTraining, seed: int, moment: Moment, first: int) -> dict[str, Any]:
    """Scores on the episodes from ``first`` on; with the times and the machine."""
    train, test = episodes(FIRST_TRAIN, TEST), episodes(first, TEST)
    untrained = train_slots(train, replace(settings, steps=1, warmup=1, lr=1e-12, clip_lr=1e-12), seed=seed)
    return {
        "mode": settings.model.mode,
        "seed": seed,
        "seconds": moment.seconds,
        "processor_seconds": moment.processor_seconds,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor_name(),
        "torch": torch.__version__.split("+")[0],
        "steps": settings.steps,
        "trained": figures(model_of(settings.model, moment.state), train, test),
        "untrained": figures(untrained, train, test),
    }


def processor_name() -> str:
    """As the system calls it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def run(seed: int) -> None:
    """Writes the results of the default recipes on the test episodes."""
    moments = trained(recipe("video"), episodes(FIRST_TRAIN, TRAIN), seed)
    for mode in ("video", "image"):
        settings = recipe(mode)
        result = measured(settings, seed, moments[settings.steps], FIRST_TEST)
        path = HERE / "results" / f"slots-{mode}-seed{seed}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1), flush=True)


def tune(mode: str, seed: int, changes: Sequence[str]) -> None:
    """Prints the result of changed settings, such as ``lr=1e-3``, on the episodes for tuning."""
    values = {key: json.loads(value) for key, value in (change.split("=", 1) for change in changes)}
    settings = replace(recipe(mode), **values)
    moments = trained(settings, episodes(FIRST_TRAIN, TRAIN), seed)
    print(json.dumps(measured(settings, seed, moments[settings.steps], FIRST_TUNE), indent=1))


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
            rows.append(f"| {mode}, {which} | {len(of_mode)} | {' | '.join(cells)} |")
    (HERE / "SLOTS.md").write_text(page(rows, [verdict(one) for one in found], machines(found)))


def verdict(one: dict[str, Any]) -> str:
    """Whether one run passes the gate, as a row."""
    score = one["trained"]["fg_ari"]
    split, quick = score >= GATE_FG_ARI, one["seconds"] <= GATE_SECONDS
    passed = (
        "yes"
        if split and quick
        else "no: " + " and ".join(reason for reason, ok in (("FG-ARI", split), ("seconds", quick)) if not ok)
    )
    times = f"{one['seconds']:.0f} | {one['processor_seconds']:.0f} | {one['threads']}"
    return f"| {one['mode']} | {one['seed']} | {one['steps']} | {score:.3f} | {times} | {passed} |"


def machines(found: Sequence[dict[str, Any]]) -> str:
    """What the runs were made on."""
    return "; ".join(sorted({f"{one['processor']}, {one['cores']} cores, torch {one['torch']}" for one in found}))


def page(rows: Sequence[str], verdicts: Sequence[str], hardware: str) -> str:
    """The whole file."""
    lines = [
        "# Slots from pixels",
        "",
        "`python benchmarks/causal/slots.py run --seed <n>`, then `... table`.",
        f"World of discs, 2 to {OBJECTS} objects, 16 x 16 pixels, {STEPS} steps; {TRAIN} episodes to train on, {TEST}",
        f"held back. Settings were chosen on other episodes (`... tune`). {hardware}.",
        "",
        "FG-ARI: of single frames, and of whole videos, where a slot that changes its object costs. mBO: mean best",
        "overlap; a slot that takes background around its disc loses there, and nothing in FG-ARI. Kept: share of",
        "objects that are in the slot they were in one frame before, and in the first frame.",
        "RMSE: of a ridge probe from a slot to the place of its object, in widths of the box. MSE: of the drawn",
        "picture, colours from 0 to 1. Mean, and the range over seeds.",
        "",
        "| model | seeds | FG-ARI, frames | FG-ARI, videos | mBO | kept | kept, first | RMSE | MSE |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"Gate: FG-ARI of {GATE_FG_ARI} on held-back frames within {GATE_SECONDS} s of training. Processor seconds",
        "(of all threads) tell how much of the time other work on the machine took.",
        "",
        "| mode | seed | steps | FG-ARI, frames | seconds | processor seconds | threads | passes |",
        "|---|---|---|---|---|---|---|---|",
        *verdicts,
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs one training, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "tune", "table"))
    parser.add_argument("changes", nargs="*", metavar="key=value", help="tune: of the training")
    parser.add_argument("--mode", choices=("image", "video"), default="video", help="tune: which recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    if options.changes and options.what != "tune":
        parser.error(f"{options.what}: takes no settings, got {' '.join(options.changes)}")
    if options.what == "table":
        table()
    elif options.what == "tune":
        tune(options.mode, options.seed, options.changes)
    else:
        run(options.seed)


if __name__ == "__main__":
    main()
