"""Windows of episodes as strips of frames: those that were recorded, or what their world draws of their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_causal.episodes import Bytes, Episode
from jepa_causal.settings import CausalDataSettings, CausalRun
from jepa_causal.sources import cut_of, episodes_of, world_of
from jepa_core.thumbnails import FRAME_SIDE, STRIP_FRAMES, joined_png

SAMPLE_HOW = "Time to the right: the first step of a window, one in the middle, the last."


def window_pngs(config: CausalRun, names: Sequence[str]) -> list[bytes | None]:
    """A strip of each window ``<episode>/<first frame>``; None where nobody can draw its episode."""
    found, span = episodes_of(config), cut_of(config).span
    episodes = {episode.episode_id: episode for episode in (*found.train, *found.test)}
    inside = np.unique(np.linspace(0, span - 1, min(STRIP_FRAMES, span)).round().astype(int))
    pictures: list[bytes | None] = []
    for name in names:
        episode, _, start = name.rpartition("/")
        frames = _frames(config.data, episodes[episode], int(start) + inside)
        pictures.append(None if frames is None else joined_png(list(frames)))
    return pictures


def _frames(data: CausalDataSettings, episode: Episode, steps: NDArray[np.int64]) -> Bytes | None:
    """``[len(steps), H, W, 3]``."""
    if episode.frames is not None:
        return episode.frames[steps]
    if data.slots == "files" or episode.states is None:
        return None
    few = replace(
        episode,
        states=episode.states[steps],
        present=None if episode.present is None else episode.present[steps],
        # All that a world draws from besides: what states round.
        extra={name: values[steps] for name, values in episode.extra.items() if name == "exact"},
    )
    return world_of(data).with_frames(few, FRAME_SIDE).frames
