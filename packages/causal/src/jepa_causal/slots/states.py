"""Slots made of true states, as a perfect encoder of single frames would find them: the objective without the encoder.

A slot is a frozen random embedding, by two layers with tanh, of position, colour and presence of one object. Velocity
is left out: no single frame shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_causal.episodes import Episode, Floats


@dataclass(frozen=True)
class StateSlotSettings:
    """The embedding.

    Attributes:
        width: D of a slot.
        hidden: width of the first layer.
        colours: length of the one-hot code.
        colour_column: column of ``Episode.attributes`` that has the number of the colour; None = objects have none.
        position_scale: deviation of the weights of position and presence: small keeps the code near a linear one.
        seed: of the weights.
    """

    width: int = 64
    hidden: int = 128
    colours: int = 8
    colour_column: int | None = 0
    position_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("width", "hidden", "colours"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected 1 or more, got {getattr(self, key)}")


class StateSlots:
    """Episodes with states to episodes with slots; one slot for each place of an object, K = N.

    The same settings give the same slots on every machine up to rounding. Nothing is trained.
    """

    def __init__(self, settings: StateSlotSettings | None = None) -> None:
        self.settings = settings = settings or StateSlotSettings()
        numbers = np.random.Generator(np.random.PCG64(settings.seed))
        inputs = 3 + settings.colours
        self._first = numbers.standard_normal((inputs, settings.hidden))
        self._first[:3] *= settings.position_scale
        self._bias = numbers.standard_normal(settings.hidden) * 0.5
        self._second = numbers.standard_normal((settings.hidden, settings.width)) / settings.hidden**0.5

    @property
    def empty(self) -> Floats:
        """The slot ``[D]`` of a place without an object; removing an object means putting this in its place."""
        return self._embedded(np.zeros((1, 3 + self.settings.colours)))[0]

    def __call__(self, episode: Episode) -> Episode:
        """The same episode with ``slots`` float32 ``[T, N, D]``.

        Raises:
            ValueError: it has no states, or its colours cannot be coded.
        """
        if episode.states is None:
            raise ValueError(
                f"episode {episode.episode_id}: expected states, got none; use data.slots=learned or files"
            )
        steps, objects = episode.states.shape[:2]
        present = np.ones((steps, objects), bool) if episode.present is None else episode.present
        known = np.concatenate([episode.states[..., :2] - 0.5, np.ones((steps, objects, 1))], -1)
        colours = np.broadcast_to(self._colours(episode, objects), (steps, objects, self.settings.colours))
        inputs = np.concatenate([known, colours], -1) * present[..., None]
        return replace(episode, slots=self._embedded(inputs))

    def all(self, episodes: Iterable[Episode]) -> list[Episode]:
        """Each episode with slots."""
        return [self(episode) for episode in episodes]

    def _colours(self, episode: Episode, objects: int) -> NDArray[np.float64]:
        """One-hot codes ``[N, colours]``."""
        column, most = self.settings.colour_column, self.settings.colours
        codes = np.zeros((objects, most))
        if column is None:
            return codes
        table = episode.attributes
        if table is None or table.ndim != 2 or not 0 <= column < table.shape[1]:
            got = "none" if table is None else list(table.shape)
            raise ValueError(
                f"episode {episode.episode_id}: expected attributes [N, F] with column {column} (the colour's number), "
                f"got {got}; set colour_column=None where objects have no colour"
            )
        numbers = table[:, column]
        there = np.ones(objects, bool) if episode.present is None else episode.present.any(0)
        if not all(float(n).is_integer() and 0 <= n < most for n in numbers[there]):
            raise ValueError(
                f"episode {episode.episode_id}: expected whole numbers of colours from 0 to {most - 1}, got "
                f"{numbers[there].tolist()}; raise colours"
            )
        codes[there, numbers[there].astype(np.int64)] = 1
        return codes

    def _embedded(self, inputs: NDArray[np.float64]) -> Floats:
        hidden = np.tanh(inputs @ self._first + self._bias)
        return np.tanh(hidden @ self._second).astype(np.float32)
