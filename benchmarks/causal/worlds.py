"""Speed and exactness of the worlds on this machine: discs, their pictures, two rooms and, if installed, Push-T.

    python benchmarks/causal/worlds.py

One core does the work whatever the machine has. Writes ``WORLDS.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from jepa_causal.episodes import Episode
from jepa_causal.worlds.discs import Discs, DiscSettings
from jepa_causal.worlds.push_t import PushT
from jepa_causal.worlds.render import with_frames
from jepa_causal.worlds.rooms import Room
from jepa_causal.worlds.two_rooms import TwoRooms

HERE = Path(__file__).parent
STEPS = 50


def rate(work: Callable[[], object], units: int, runs: int) -> str:
    """Units per second of processor time: median and range after one warm-up."""
    work()
    found = []
    for _ in range(runs):
        start = time.process_time()
        work()
        found.append(units / (time.process_time() - start))
    return f"{statistics.median(found):,.0f} ({min(found):,.0f} .. {max(found):,.0f})"


def disc_rows(episodes: int, runs: int) -> list[str]:
    """Frames per second of the simulator, of resumption and of pictures."""
    frames, rows = episodes * STEPS, []
    for name, settings in (("", DiscSettings()), (", repulsion", DiscSettings(repulsion=2e-4))):
        world = Discs(settings)
        found = rate(lambda world=world: [world.episode(seed, STEPS, 5) for seed in range(episodes)], frames, runs)  # type: ignore[misc]  # bound now
        rows.append(f"| discs, 5 objects{name}, state frames/s | {found} |")
    recorded = [Discs().episode(seed, STEPS, 5) for seed in range(episodes)]
    for size in (16, 32, 64):
        found = rate(lambda size=size: [with_frames(one, size) for one in recorded], frames, runs)  # type: ignore[misc]  # bound now
        rows.append(f"| pictures of them, {size} x {size}, frames/s | {found} |")
    return rows + exactness_rows(recorded)


def exactness_rows(recorded: list[Episode]) -> list[str]:
    """How well energy is kept, and how many resumptions give the stored bits."""
    drifts, same, tried = [], 0, 0
    for episode in recorded:
        exact = episode.extra["exact"].astype(np.float64)
        energy = (exact[..., 2:] ** 2).sum((1, 2))
        drifts.append(float(np.abs(energy / energy[0] - 1).max()))
        for step in range(0, STEPS, 7):
            after = Discs().resume(episode, step, STEPS - step)
            same += after.extra["exact"].tobytes() == episode.extra["exact"][step:].tobytes()
            tried += 1
    touching = np.mean([float(episode.contacts.mean()) for episode in recorded if episode.contacts is not None])
    return [
        f"| discs, greatest drift of energy in {STEPS} frames, relative | {max(drifts):.1e} |",
        f"| discs, object-frames with a contact | {touching:.1%} |",
        f"| discs, resumptions with the bits of the stored future | {same} of {tried} |",
    ]


def room_rows(episodes: int, runs: int) -> list[str]:
    """Steps per second of two rooms: episodes, and a batch as a planner uses it."""
    world = TwoRooms()
    made = rate(lambda: [world.episode(seed, STEPS) for seed in range(episodes)], episodes * STEPS, runs)
    room, rng = Room(0.5, 0.5, 0.25, 0.06, 0.05), np.random.default_rng(0)
    places, actions = np.tile([0.2, 0.3], (4096, 1)), rng.normal(0, 0.05, (4096, 2))
    batch = rate(lambda: world.step(room, places, actions), 4096, runs)
    ways = rate(lambda: room.geodesic(places, places[::-1] + 0.5), 4096, runs)
    return [
        f"| two rooms, recorded steps/s | {made} |",
        f"| two rooms, steps/s of a batch of 4096 | {batch} |",
        f"| two rooms, shortest ways/s in a batch of 4096 | {ways} |",
    ]


def push_t_rows(episodes: int, runs: int) -> list[str]:
    """Steps per second of Push-T."""
    if importlib.util.find_spec("gym_pusht") is None:
        return ["| Push-T | gym-pusht is not installed here |"]
    world = PushT()
    made = rate(lambda: [world.episode(seed, STEPS) for seed in range(episodes)], episodes * STEPS, runs)
    episode = world.episode(0, STEPS)
    drawn = rate(lambda: world.with_frames(episode, 96), STEPS, runs)
    return [f"| Push-T, recorded steps/s | {made} |", f"| pictures of it, 96 x 96, frames/s | {drawn} |"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    lines = [
        "# Speed of the worlds on a CPU",
        "",
        f"`python benchmarks/causal/worlds.py`. {platform.machine()}, one core, Python {platform.python_version()},"
        f" numpy {version('numpy')}, pymunk {version('pymunk')}.",
        f"Per second of processor time, median and range of {args.runs} runs; episodes of {STEPS} steps.",
        "",
        "| what | figure |",
        "|---|---|",
        *disc_rows(args.episodes, args.runs),
        *room_rows(args.episodes // 2, args.runs),
        *push_t_rows(args.episodes // 12 + 1, args.runs),
    ]
    (HERE / "WORLDS.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
