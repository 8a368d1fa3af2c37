"""Pictures of discs, anti-aliased, with the mask of every object, in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_causal.episodes import Bytes, Episode, Flags, Floats

BACKGROUND = (18, 18, 26)
"""Red, green, blue behind the discs."""

SMALLEST, LARGEST = 8, 512
"""Sides of a picture, in pixels, that can be asked for."""


def check_size(size: int) -> None:
    """Raises ValueError for a picture that is too small to show a disc, or too large to keep."""
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size {size}: expected {SMALLEST} to {LARGEST} pixels a side")


def disc_coverage(x: NDArray[np.floating], y: NDArray[np.floating], radius: float, size: int) -> Floats:
    """How much of each pixel a disc covers, 0 to 1.

    A pixel's share falls linearly over one pixel across the edge.

    Args:
        x, y: ``[T]``, the centre in widths of the picture, y upwards.
        radius: in widths.
        size: pixels a side.

    Returns:
        float32 ``[T, size, size]``, row 0 at the top.
    """
    middle = (np.arange(size, dtype=np.float32) + 0.5) / size
    across_T1W = np.square(middle - np.asarray(x, dtype=np.float32)[:, None])[:, None, :]
    down_TH1 = np.square((1 - middle) - np.asarray(y, dtype=np.float32)[:, None])[:, :, None]
    away: Floats = np.sqrt(across_T1W + down_TH1)
    away *= -size
    away += radius * size + 0.5
    return np.clip(away, 0, 1, out=away)


def draw_discs(states: Floats, present: Flags, colours: Floats, radii: Floats, size: int) -> tuple[Bytes, Bytes]:
    """Draws discs in the order of N: a later one hides an earlier one.

    Args:
        states: ``[T, N, 4]``, x and y first, in widths of the picture.
        present: ``[T, N]``.
        colours: ``[N, 3]``, red, green, blue from 0 to 1.
        radii: ``[N]``, in widths.
        size: pixels a side.

    Returns:
        uint8 frames ``[T, size, size, 3]`` and segments ``[T, size, size]``: i + 1 where object i covers half of a
        pixel or more and none drawn later does, else 0.
    """
    check_size(size)
    steps, objects = present.shape
    frames = np.empty((steps, 3, size, size), dtype=np.float32)
    frames[:] = np.array(BACKGROUND, dtype=np.float32)[:, None, None]
    segments = np.zeros((steps, size, size), dtype=np.uint8)
    for place in range(objects):
        there = np.flatnonzero(present[:, place])
        if len(there) == 0:
            continue
        cover = disc_coverage(states[there, place, 0], states[there, place, 1], float(radii[place]), size)
        for channel in range(3):
            level = frames[there, channel]
            frames[there, channel] = level + cover * (255 * colours[place, channel] - level)
        shown = segments[there]
        shown[cover >= 0.5] = place + 1
        segments[there] = shown
    return (frames.transpose(0, 2, 3, 1) + 0.5).astype(np.uint8), segments


def with_frames(episode: Episode, size: int) -> Episode:
    """The same episode of discs with ``frames`` and ``segments`` of ``size`` pixels a side.

    Raises:
        ValueError: no states or attributes, or a size out of range.
    """
    if episode.states is None or episode.present is None or episode.attributes is None:
        raise ValueError(f"episode {episode.episode_id}: expected states, present and attributes of discs to draw")
    frames, segments = draw_discs(
        episode.states, episode.present, episode.attributes[:, 1:4], episode.attributes[:, 4], size
    )
    return replace(episode, frames=frames, segments=segments)
