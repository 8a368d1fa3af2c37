"""Small worlds with ground truth, seeded and fast, and what can be changed in them."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Protocol

from jepa_causal.episodes import Episode
from jepa_causal.worlds.discs import Discs
from jepa_causal.worlds.push_t import PushT
from jepa_causal.worlds.two_rooms import TwoRooms


class World(Protocol):
    """What records episodes.

    Attributes:
        attributes: the names of the columns of ``Episode.attributes``.
    """

    attributes: tuple[str, ...]

    def episode(self, seed: int, steps: int) -> Episode:
        """One episode of T = ``steps``, a function of the seed."""

    def with_frames(self, episode: Episode, size: int) -> Episode:
        """The episode with pictures of ``size`` pixels a side."""


WORLDS: dict[str, Callable[[], World]] = {"discs": Discs, "two_rooms": TwoRooms, "push_t": PushT}
"""The worlds by name, made with their default settings."""


def open_world(name: str) -> World:
    """The world of that name with its default settings.

    Raises:
        ValueError: there is none.
        ConfigError: it needs a package that is not installed.
    """
    if name not in WORLDS:
        near = get_close_matches(name, WORLDS, n=1)
        guess = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"world {name!r}: expected one of {', '.join(sorted(WORLDS))}{guess}")
    return WORLDS[name]()


def record(name: str, seed: int, steps: int) -> Episode:
    """One episode of the world of that name with its default settings.

    Raises:
        ValueError: no such world, or too few steps.
        ConfigError: it needs a package that is not installed.
    """
    return open_world(name).episode(seed, steps)
