"""Episodes: what a world records, what a slot encoder reads, what a predictor of slots is trained and scored on.

Letters: T steps, N objects, K slots, D slot width, A action width, P proprioception width, F attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Episode:
    """One recorded episode. Objects keep their place along N in all steps.

    Attributes:
        episode_id: one name in its data set.
        states: float32 ``[T, N, 4]``: x, y in widths of the world (0 to 1, y upwards), and their change per step; zeros
            where an object is not there. None where nobody knows them.
        present: bool ``[T, N]``: which objects are there.
        contacts: bool ``[T, N]``: objects that touched another object after the step before and up to this one.
        attributes: float32 ``[N, F]``, what does not change (colour, radius, mass); a world names them.
        actions: float32 ``[T, A]``: ``actions[t]`` leads from step t to t + 1. NaN where there was none (often the
            last).
        proprio: float32 ``[T, P]``: what the agent knows of itself at each step.
        frames: uint8 ``[T, H, W, 3]``, row 0 at the top.
        segments: uint8 ``[T, H, W]``: 0 is background, i + 1 the visible part of object i.
        slots: float32 ``[T, K, D]`` by an encoder.
        label: a word for the episode, where its source knows one.
    """

    episode_id: str
    states: Floats | None = None
    present: Flags | None = None
    contacts: Flags | None = None
    attributes: Floats | None = None
    actions: Floats | None = None
    proprio: Floats | None = None
    frames: Bytes | None = None
    segments: Bytes | None = None
    slots: Floats | None = None
    label: str | None = None
    extra: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """T."""
        for value in (self.states, self.slots, self.frames, self.actions, self.proprio):
            if value is not None:
                return len(value)
        raise ValueError(f"episode {self.episode_id}: expected states, slots or frames, got none")
