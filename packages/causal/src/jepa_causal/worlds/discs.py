"""Discs: elastic collisions in a box with the truth known, and the same world again after an intervention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from jepa_causal.episodes import Episode
from jepa_causal.worlds.changes import Change
from jepa_causal.worlds.disc_physics import DiscBox, Physics, Row
from jepa_causal.worlds.disc_state import DISC_ATTRIBUTES, PALETTE, DiscState, Doubles, appearance
from jepa_causal.worlds.render import with_frames

_DENSEST = 0.4  # Share of the box under discs up to which random placing one by one finds room quickly.


@dataclass(frozen=True)
class DiscSettings:
    """What a world of discs is.

    Attributes:
        fewest, most: objects of an episode, drawn evenly; ``most`` is also N, and the places that are left stay empty.
        radius: of every disc, in widths of the box.
        mean_speed: in widths a frame.
        sub_steps: of the solver in a frame.
        repulsion: strength s of the acceleration s / d**2 between two centres at distance d; 0 = none. It makes
            discs act on each other without a contact (0.0002 bends paths plainly, 0.001 dominates). Energy, kept to
            1e-6 without it, then drifts by some 3 % in 50 frames at 0.0002; more sub-steps keep it better.
    """

    fewest: int = 2
    most: int = 5
    radius: float = 0.09
    mean_speed: float = 0.055
    sub_steps: int = 4
    repulsion: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most <= len(PALETTE):
            raise ValueError(
                f"fewest {self.fewest}, most {self.most}: expected 1 <= fewest <= most <= {len(PALETTE)}, the colours"
            )
        if not (self.radius > 0 and self.most * math.pi * self.radius**2 <= _DENSEST):
            limit = math.sqrt(_DENSEST / (self.most * math.pi))
            raise ValueError(f"radius {self.radius:g}: expected 0 to {limit:.3f} for {self.most} discs in the box")
        if self.sub_steps < 1:
            raise ValueError(f"sub_steps {self.sub_steps}: expected 1 or more")
        if not 0 <= self.mean_speed <= self.radius * self.sub_steps / 2:
            raise ValueError(
                f"mean_speed {self.mean_speed:g}: expected 0 to {self.radius * self.sub_steps / 2:g} (half a radius a"
                " sub-step: faster discs pass through each other): raise sub_steps or lower the speed"
            )
        if not (0 <= self.repulsion < math.inf):
            raise ValueError(f"repulsion {self.repulsion:g}: expected 0 (none) or more")

    @property
    def physics(self) -> Physics:
        """The constants of the motion; all discs weigh 1."""
        return Physics(self.radius, 1.0, self.sub_steps, self.repulsion)


class Discs:
    """Records episodes of colliding discs, and simulates their future again from any step.

    ``Episode.extra`` carries ``exact``, float64 ``[T, N, 4]`` (what ``states`` rounds), and ``physics``, float64
    ``[4]`` (radius, mass, sub-steps, repulsion). Attributes are those of ``DISC_ATTRIBUTES``.
    """

    attributes: tuple[str, ...] = DISC_ATTRIBUTES

    def __init__(self, settings: DiscSettings | None = None) -> None:
        self.settings = DiscSettings() if settings is None else settings

    def episode(self, seed: int, steps: int, objects: int | None = None) -> Episode:
        """One episode; the same seed gives the same bits.

        Args:
            seed: not negative.
            steps: T.
            objects: how many there are; None = drawn from fewest .. most.

        Raises:
            ValueError: less than one step, or a number of objects that the settings do not allow.
        """
        check_steps(steps)
        chosen = self.settings
        rng = np.random.default_rng(seed)
        drawn = int(rng.integers(chosen.fewest, chosen.most + 1))
        count = drawn if objects is None else objects
        if not 1 <= count <= chosen.most:
            raise ValueError(f"objects {count}: expected 1 to {chosen.most}, the places of these settings")
        return self._record(f"discs-{seed}", self._start(rng, count), steps)

    def resume(self, episode: Episode, step: int, steps: int, changes: Sequence[Change] = ()) -> Episode:
        """The future again from the stored state of one step: the counterfactual.

        Args:
            episode: of a world with these settings.
            step: where to go on; step 0 of what is returned is this one, after the changes.
            steps: T of what is returned.
            changes: interventions, in their order. Without any, the stored future comes back bit for bit.

        Raises:
            ValueError: a step that is not there, an episode of another world, or an impossible change.
        """
        check_steps(steps)
        state = self._stored(episode, step)
        for change in changes:
            change.apply(state)
        names = "".join(f"+{type(change).__name__.lower()}" for change in changes)
        return self._record(f"{episode.episode_id}@{step}{names}", state, steps)

    def with_frames(self, episode: Episode, size: int) -> Episode:
        """The episode with pictures of ``size`` pixels a side and their segments."""
        return with_frames(episode, size)

    def _start(self, rng: Generator, count: int) -> DiscState:
        chosen = self.settings
        state = DiscState(
            exact=np.zeros((chosen.most, 4)),
            present=np.zeros(chosen.most, dtype=bool),
            touched=np.zeros(chosen.most, dtype=bool),
            attributes=np.zeros((chosen.most, len(DISC_ATTRIBUTES)), dtype=np.float32),
            radius=chosen.radius,
        )
        places = rng.permutation(chosen.most)[:count]
        colours = rng.permutation(len(PALETTE))[:count]
        state.present[places] = True
        state.attributes[places] = [appearance(int(colour), state.radius, state.mass) for colour in colours]
        state.exact[places, :2] = place_apart(rng, count, chosen.radius)
        # Gaussian components: the distribution that elastic collisions lead to, so that speeds do not drift in time.
        state.exact[places, 2:] = rng.normal(0.0, chosen.mean_speed * math.sqrt(2 / math.pi), (count, 2))
        return state

    def _record(self, name: str, state: DiscState, steps: int) -> Episode:
        places = np.flatnonzero(state.present)
        exact = np.zeros((steps, *state.exact.shape))
        contacts = np.zeros((steps, len(state.present)), dtype=bool)
        exact[0], contacts[0] = state.exact, state.touched
        rows: list[Row] = [(x, y, vx, vy) for x, y, vx, vy in state.exact[places].tolist()]
        box = DiscBox(rows, self.settings.physics)
        for step in range(1, steps):
            rows, touched = box.frame()
            if rows:
                exact[step, places] = rows
            contacts[step, places[list(touched)]] = True
        return Episode(
            name,
            states=exact.astype(np.float32),
            present=np.tile(state.present, (steps, 1)),
            contacts=contacts,
            attributes=state.attributes,
            extra={"exact": exact, "physics": self._constants()},
        )

    def _constants(self) -> Doubles:
        physics = self.settings.physics
        return np.array([physics.radius, physics.mass, physics.sub_steps, physics.repulsion])

    def _stored(self, episode: Episode, step: int) -> DiscState:
        exact, physics = episode.extra.get("exact"), episode.extra.get("physics")
        present, contacts, attributes = episode.present, episode.contacts, episode.attributes
        if exact is None or physics is None or present is None or contacts is None or attributes is None:
            raise ValueError(
                f"episode {episode.episode_id}: expected one that Discs recorded, with `exact` in its extra"
            )
        if not np.array_equal(physics, self._constants()):
            raise ValueError(
                f"episode {episode.episode_id}: radius, mass, sub-steps and repulsion are {physics.tolist()}, those of"
                f" this world {self._constants().tolist()}: resume with the settings it was recorded with"
            )
        if not 0 <= step < len(exact):
            raise ValueError(f"step {step}: expected 0 to {len(exact) - 1}, the steps of episode {episode.episode_id}")
        return DiscState(
            np.array(exact[step], dtype=np.float64),
            present[step].copy(),
            contacts[step].copy(),
            attributes.copy(),
            radius=self.settings.radius,
        )


def check_steps(steps: int) -> None:
    """Raises ValueError for less than one step."""
    if steps < 1:
        raise ValueError(f"steps {steps}: expected 1 or more")


def place_apart(rng: Generator, count: int, radius: float) -> Doubles:
    """Centres of discs that overlap neither each other nor the walls of the unit box, float64 ``[count, 2]``."""
    for _ in range(200):
        found = np.empty((0, 2))
        for spot in rng.uniform(radius, 1 - radius, (100 * count, 2)):
            if np.all(np.hypot(*(found - spot).T) >= 2 * radius):
                found = np.vstack([found, spot])
            if len(found) == count:
                return found
    raise ValueError(f"{count} discs of radius {radius:g}: found no room in the box: lower their number or radius")
