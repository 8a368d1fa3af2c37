"""Push-T through gym-pusht: an agent, a T-shaped block and its goal, as episodes (needs the extra ``pusht``).

The task is that of Diffusion Policy (arXiv 2303.04137). gym-pusht holds pymunk below 7, and its own reset to a state
sets the block's position before its angle: the angle turns the block about its centre of mass, so it lands elsewhere.
Here the angle comes first, then the position, and no step is taken.

Each step (0.1 s, ten of the solver) starts from the stored state in a new space. So the solver's memory of a contact
ends with the step, unlike in gym-pusht, and in return any recorded step can be gone on from with the same bits.
"""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from jepa_causal.episodes import Episode, Floats
from jepa_causal.worlds.disc_physics import on_contact
from jepa_causal.worlds.disc_state import Doubles
from jepa_causal.worlds.discs import check_steps
from jepa_causal.worlds.render import check_size
from jepa_core.errors import ConfigError

PUSH_T_ATTRIBUTES = ("is_agent", "is_block", "is_goal")
"""The columns of ``Episode.attributes`` in Push-T: which of the three objects it is."""

EXACT = (
    *("agent_x", "agent_y", "agent_vx", "agent_vy"),
    *("block_x", "block_y", "block_angle", "block_vx", "block_vy", "block_spin"),
)
"""The columns of ``extra["exact"]``: pixels, y downwards, pixels a second, radians, radians a second. The block's
velocity lasts one solver step, then the world has damped it, and yet that step is part of the future."""

_WIDTH = 512.0  # Of the world, in its pixels.
_AGENT = 1  # The collision type of the agent: all other shapes keep 0.
_APART = 150.0  # At first, between agent and block, in pixels: the block reaches 135 at most, the agent 15.


@dataclass(frozen=True)
class PushTSettings:
    """How the agent of Push-T moves at random.

    Attributes:
        longest_step: of the agent's aim, in widths of the world a step (0.1 s).
        towards_block: share of the aims that lie on the block, so that it is pushed; the others lie anywhere.
    """

    longest_step: float = 0.05
    towards_block: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.longest_step <= 0.5:
            raise ValueError(
                f"longest_step {self.longest_step:g}: expected more than 0, at most 0.5 widths of the world"
            )
        if not 0 <= self.towards_block <= 1:
            raise ValueError(f"towards_block {self.towards_block:g}: expected a share from 0 to 1")


class PushT:
    """Records episodes of Push-T under smooth random actions, and goes on from any recorded step.

    Objects along N are agent, block and goal. ``states`` holds places in widths of the world, y upwards, and their last
    move; ``actions`` the place that the agent is drawn to, in the same coordinates; ``proprio`` the agent's place and
    velocity a step. In ``extra``: ``angles``, float32 ``[T, N]``, radians counter-clockwise; ``exact``, float64
    ``[T, 10]``, the columns of ``EXACT``. ``contacts`` are those of agent and block.

    Raises:
        ConfigError: gym-pusht is not installed.
    """

    attributes: tuple[str, ...] = PUSH_T_ATTRIBUTES

    def __init__(self, settings: PushTSettings | None = None) -> None:
        self.settings = PushTSettings() if settings is None else settings
        self.env = open_push_t(obs_type="state")
        self.env.reset(seed=0)

    def episode(self, seed: int, steps: int) -> Episode:
        """One episode; the same seed gives the same bits.

        Raises:
            ValueError: less than one step.
        """
        check_steps(steps)
        rng = np.random.default_rng(seed)
        actions = np.full((steps, 2), np.nan, dtype=np.float32)
        exact, touched = np.empty((steps, len(EXACT))), np.zeros(steps, dtype=bool)
        exact[0] = self._first_state(rng)
        aim = _Aim(rng, self.settings, _flip(exact[0, 0:2] / _WIDTH))
        for step in range(1, steps):
            actions[step - 1] = aim.next(_flip(exact[step - 1, 4:6] / _WIDTH))
            exact[step], touched[step] = self.step(exact[step - 1], actions[step - 1])
        return self._pack(f"push-t-{seed}", exact, actions, touched)

    def resume(self, episode: Episode, step: int, actions: NDArray[Any] | None = None) -> Episode:
        """The world again from the stored state of one step.

        Args:
            episode: one that this world recorded.
            step: where to go on; step 0 of what is returned is this one.
            actions: float32 ``[A, 2]``, A steps to take; None = those stored, which give the stored future bit for bit.

        Raises:
            ValueError: a step that is not there, an episode of another world, or actions of another shape.
        """
        exact = exact_of(episode)
        if not 0 <= step < len(exact) or episode.actions is None:
            raise ValueError(f"step {step}: expected 0 to {len(exact) - 1}, the steps of episode {episode.episode_id}")
        taken = np.asarray(episode.actions[step:-1] if actions is None else actions, dtype=np.float32)
        if taken.ndim != 2 or taken.shape[1] != 2 or not np.isfinite(taken).all():
            raise ValueError(f"actions {list(taken.shape)}: expected finite numbers [steps, 2] in widths of the world")
        touched, states = [bool(episode.contacts is not None and episode.contacts[step, 0])], [exact[step]]
        for action in taken:
            state, contact = self.step(states[-1], action)
            states.append(state)
            touched.append(contact)
        actions_TA = np.vstack([taken, np.full((1, 2), np.nan, dtype=np.float32)])
        result = self._pack(f"{episode.episode_id}@{step}", np.stack(states), actions_TA, np.array(touched))
        if result.states is not None and episode.states is not None:
            result.states[0] = episode.states[step]  # The move that led there is known from the recording.
        return result

    def with_frames(self, episode: Episode, size: int) -> Episode:
        """The episode with pictures of ``size`` pixels a side, drawn by gym-pusht; it knows no segments."""
        check_size(size)
        env = open_push_t(obs_type="pixels", observation_width=size, observation_height=size)
        env.reset(seed=0)
        frames = []
        for state in exact_of(episode):
            restore(env, state)
            frames.append(env.get_obs())
        env.close()
        return replace(episode, frames=np.stack(frames).astype(np.uint8))

    def step(self, state: Doubles, action: NDArray[np.float32]) -> tuple[Doubles, bool]:
        """One step from any state.

        Args:
            state: float64 ``[10]``, the columns of ``EXACT``.
            action: ``[2]``, where the agent is drawn to, in widths of the world, y upwards.

        Returns:
            The next state, and whether agent and block touched.
        """
        self.env.reset(seed=0)  # A new space with new bodies: nothing of an earlier step is left in its solver.
        touches: list[Any] = []

        def report(arbiter: Any, space: Any, data: Any) -> None:
            touches.append(None)

        for shape in self.env.agent.shapes:
            shape.collision_type = _AGENT
        on_contact(self.env.space, _AGENT, 0, report)
        restore(self.env, state)
        self.env.step(_flip(action.astype(np.float64)) * _WIDTH)
        return read_state(self.env), bool(touches)

    def _first_state(self, rng: Generator) -> Doubles:
        """Agent and block anywhere in the ranges of gym-pusht's own reset, but apart."""
        while True:
            agent, block = rng.uniform(50, 450, 2), rng.uniform(100, 400, 2)
            if np.hypot(*(agent - block)) >= _APART:
                return np.array([*agent, 0.0, 0.0, *block, rng.uniform(-math.pi, math.pi), 0.0, 0.0, 0.0])

    def _pack(self, name: str, exact: Doubles, actions: Floats, touched: NDArray[np.bool_]) -> Episode:
        steps, goal = len(exact), np.asarray(self.env.goal_pose, dtype=np.float64)
        pixels = np.stack([exact[:, 0:2], exact[:, 4:6], np.tile(goal[:2], (steps, 1))], axis=1)
        places = _flip(pixels / _WIDTH)
        moves = np.diff(places, axis=0, prepend=places[:1])
        angles = -np.stack([np.zeros(steps), exact[:, 6], np.full(steps, goal[2])], axis=1)
        velocity = exact[:, 2:4] / (_WIDTH * self.env.control_hz) * (1, -1)
        return Episode(
            name,
            states=np.concatenate([places, moves], axis=-1).astype(np.float32),
            present=np.ones((steps, 3), dtype=bool),
            contacts=touched[:, None] & np.array([True, True, False]),
            attributes=np.eye(3, dtype=np.float32),
            actions=actions,
            proprio=np.hstack([places[:, 0], velocity]).astype(np.float32),
            extra={"exact": exact, "angles": angles.astype(np.float32)},
        )


class _Aim:
    """Where the agent is drawn to: a point that glides from one random place to the next."""

    def __init__(self, rng: Generator, settings: PushTSettings, start: Doubles) -> None:
        self.rng, self.settings = rng, settings
        self.point, self.goal = start, start

    def next(self, block: Doubles) -> Floats:
        """The next point, float32 ``[2]``."""
        if np.hypot(*(self.goal - self.point)) < 1e-9:
            anywhere = self.rng.uniform(0.1, 0.9, 2)
            self.goal = block if self.rng.random() < self.settings.towards_block else anywhere
        away = self.goal - self.point
        self.point = self.point + away * min(1.0, self.settings.longest_step / max(float(np.hypot(*away)), 1e-12))
        return self.point.astype(np.float32)


def open_push_t(**options: Any) -> Any:
    """gym-pusht's environment, without wrappers and without a window.

    Raises:
        ConfigError: gym-pusht is not installed, or cannot be imported.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        module = importlib.import_module("gym_pusht.envs")
    except ImportError as problem:
        raise ConfigError(
            f"push_t: expected gym-pusht, got {problem}: install the extra, pip install 'jepa-causal[pusht]', in an"
            " environment of its own (it holds pymunk below 7)"
        ) from problem
    return module.PushTEnv(**options)


def restore(env: Any, state: Doubles) -> None:
    """Puts agent and block of ``env`` where ``state`` (the columns of ``EXACT``) says: angle first, then position."""
    numbers = state.tolist()
    env.agent.position, env.agent.velocity = tuple(numbers[0:2]), tuple(numbers[2:4])
    env.block.angle = numbers[6]
    env.block.position = tuple(numbers[4:6])
    env.block.velocity, env.block.angular_velocity = tuple(numbers[7:9]), numbers[9]
    for body in (env.agent, env.block):
        env.space.reindex_shapes_for_body(body)


def read_state(env: Any) -> Doubles:
    """The state of ``env``, float64 ``[10]``, the columns of ``EXACT``."""
    agent, block = env.agent, env.block
    pose, motion = (*block.position, block.angle), (*block.velocity, block.angular_velocity)
    return np.array([*agent.position, *agent.velocity, *pose, *motion], dtype=np.float64)


def exact_of(episode: Episode) -> Doubles:
    """The exact states of a recorded episode. Raises ValueError for an episode of another world."""
    exact = episode.extra.get("exact")
    if exact is None or exact.ndim != 2 or exact.shape[1] != len(EXACT):
        raise ValueError(f"episode {episode.episode_id}: expected one that PushT recorded, with `exact` in its extra")
    return exact.astype(np.float64)


def _flip(places: Doubles) -> Doubles:
    """Between y downwards and y upwards, in widths, ``[..., 2]``."""
    return np.stack([places[..., 0], 1 - places[..., 1]], axis=-1)
