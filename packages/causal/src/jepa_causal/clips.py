"""What is scored: windows of test episodes, and the objects of each that a question is asked about.

Three questions, as in the evaluation protocol of Causal-JEPA's object masking: where will this object be (forecast),
where was it while it was hidden (completion), where would it be had another one not been there (counterfactual).
Letters as in :mod:`jepa_causal.episodes`; B windows of T = history + future steps, C cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_causal.data import Presence
from jepa_causal.episodes import Episode
from jepa_causal.probe import NO_SLOT
from jepa_core.errors import DataError

AFFECTED = 0.05
"""A removal affects an object where it moves its true position at the horizon by more than this, in widths."""

SAME = 1e-5
"""How far a simulation that is taken up again may lie from what is stored."""


@dataclass(frozen=True)
class History:
    """What a predictor may read.

    Attributes:
        slots: float32 ``[B, T_h, K, D]``.
        present: bool ``[B, T_h, K]``: which slots there are.
        actions: float32 ``[B, T, A]`` of history and future; None where there are none.
        proprio: float32 ``[B, T_h, P]``; None where there is none.
    """

    slots: Tensor
    present: Tensor
    actions: Tensor | None = None
    proprio: Tensor | None = None

    def at(self, rows: Tensor) -> History:
        """Some windows, by index ``[C]``; one may be asked for more than once."""

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows]

        return History(self.slots[rows], self.present[rows], pick(self.actions), pick(self.proprio))

    def to(self, device: torch.device) -> History:
        """The same on a device."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device)

        return History(self.slots.to(device), self.present.to(device), move(self.actions), move(self.proprio))

    def without(self, slot_C: Tensor) -> History:
        """The same windows in which one slot of each is gone from all steps."""
        present = self.present.clone()
        present[torch.arange(len(present)), :, slot_C] = False
        return replace(self, present=present)


@dataclass(frozen=True)
class Truth:
    """What is known of the objects of the windows.

    Attributes:
        xy: float64 ``[B, T, N, 2]``, widths of the world.
        present, contacts: bool ``[B, T, N]``.
        slot: int64 ``[B, N]``: the slot of each object, ``NO_SLOT`` where it has none.
    """

    xy: Tensor
    present: Tensor
    contacts: Tensor
    slot: Tensor

    def scored(self) -> Tensor:
        """Bool ``[B, N]``: objects that are there at all steps and have a slot."""
        return self.present.all(1) & (self.slot != NO_SLOT)


@dataclass(frozen=True)
class Clips:
    """Windows of test episodes.

    Attributes:
        slots: float32 ``[B, T, K, D]``.
        slot_present: bool ``[B, T, K]``.
        history: T_h; the rest is the future.
        episode: int64 ``[B]``, index of the episode: errors are over episodes.
        start: int64 ``[B]``, step of the episode at which a window starts.
        actions, proprio: ``[B, T, .]`` or None.
        truth: None where positions are not known.
    """

    slots: Tensor
    slot_present: Tensor
    history: int
    episode: Tensor
    start: Tensor
    actions: Tensor | None = None
    proprio: Tensor | None = None
    truth: Truth | None = None

    @property
    def future(self) -> int:
        """Steps to predict."""
        return self.slots.shape[1] - self.history

    def past(self) -> History:
        """The part that is read."""
        proprio = None if self.proprio is None else self.proprio[:, : self.history]
        return History(self.slots[:, : self.history], self.slot_present[:, : self.history], self.actions, proprio)


def cut_clips(episodes: Sequence[Episode], history: int, future: int, presence: Presence = "given") -> Clips:
    """Windows that follow one another without overlap, from all episodes that are long enough; truth not yet set.

    Args:
        episodes: with slots, at model steps.
        history, future: steps.
        presence: see :class:`jepa_causal.data.Cut`.

    Raises:
        DataError: no episode is as long as a window.
    """
    length = history + future
    places = [(n, start) for n, e in enumerate(episodes) for start in range(0, e.steps - length + 1, length)]
    if not places:
        longest = max((episode.steps for episode in episodes), default=0)
        raise DataError(
            f"evaluation: expected test episodes of at least {length} steps (history {history} + future {future}), the "
            f"longest of {len(episodes)} has {longest}; raise data.steps"
        )

    def stack(read: Callable[[Episode], NDArray[Any] | None]) -> Tensor | None:
        rows = [read(episodes[n]) for n, _ in places]
        if any(row is None for row in rows):
            return None
        return torch.from_numpy(
            np.stack([row[s : s + length] for row, (_, s) in zip(rows, places, strict=True) if row is not None])
        )

    slots = stack(lambda episode: episode.slots)
    assert slots is not None
    known = stack(lambda episode: episode.present) if presence == "given" else None
    present = torch.ones(slots.shape[:3], dtype=torch.bool) if known is None else known
    index = torch.tensor(places)
    return Clips(
        slots.float(),
        present,
        history,
        index[:, 0],
        index[:, 1],
        stack(lambda episode: episode.actions),
        stack(lambda episode: episode.proprio),
    )


def truth_of(clips: Clips, episodes: Sequence[Episode], match: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Truth:
    """What is known of the objects in the windows.

    Args:
        clips: cut from ``episodes``.
        episodes: with states.
        match: ``(slots [B, K, D], xy [B, N, 2], present [B, N]) -> [B, N]`` of the last history step: which slot an
            object has through the whole window.
    """
    length = clips.slots.shape[1]

    def stack(read: Callable[[Episode], NDArray[Any]]) -> Tensor:
        pairs = zip(clips.episode.tolist(), clips.start.tolist(), strict=True)
        return torch.from_numpy(np.stack([read(episodes[n])[start : start + length] for n, start in pairs]))

    xy = stack(lambda episode: _states(episode)[..., :2]).double()
    present = stack(_present)
    contacts = stack(lambda e: np.zeros(_present(e).shape, dtype=np.bool_) if e.contacts is None else e.contacts)
    last = clips.history - 1
    return Truth(xy, present, contacts, match(clips.slots[:, last], xy[:, last], present[:, last]))


def _states(episode: Episode) -> NDArray[np.float32]:
    if episode.states is None:
        raise ValueError(f"episode {episode.episode_id}: expected states, got none")
    return episode.states


def _present(episode: Episode) -> NDArray[np.bool_]:
    return np.ones(_states(episode).shape[:2], dtype=np.bool_) if episode.present is None else episode.present


# --------------------------------------------------------------------------------------------------------------------
# Cases
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cases:
    """Objects that a question is asked about: ``clip`` and ``object`` index windows and objects, int64 ``[C]``."""

    clip: Tensor
    object: Tensor

    def __len__(self) -> int:
        return len(self.clip)


def forecast_cases(clips: Clips, truth: Truth) -> tuple[Cases, Cases]:
    """Objects that touch another one within the future steps, and those that do not."""
    touched = truth.contacts[:, clips.history :].any(1)
    scored = truth.scored()
    return _cases(scored & touched), _cases(scored & ~touched)


def completion_cases(clips: Clips, truth: Truth) -> Cases:
    """Objects that touched another one in the part of the history that is hidden: after its first step."""
    return _cases(truth.scored() & truth.contacts[:, 1 : clips.history].any(1))


def _cases(wanted_BN: Tensor) -> Cases:
    clip, place = wanted_BN.nonzero(as_tuple=True)
    return Cases(clip, place)


@dataclass(frozen=True)
class Removals:
    """Objects whose future another object's removal changes.

    Attributes:
        cases: what is scored.
        removed: int64 ``[C]``: the object that is removed at the last history step.
        xy: float64 ``[C, 2]``: where the scored object is at the horizon without it.
        runs: how many removals were simulated.
    """

    cases: Cases
    removed: Tensor
    xy: Tensor
    runs: int


Resume = Callable[[Episode, int, int, int | None], NDArray[np.float32]]
"""``(episode, step, steps, removed) -> states [steps, N, 4]`` of the steps after ``step``, simulated again."""


def removals(clips: Clips, truth: Truth, episodes: Sequence[Episode], resume: Resume) -> Removals:
    """Every removal of an object shortly before it touches another one, and the other objects that it affects.

    Raises:
        DataError: a simulation taken up again without a change does not give the stored future.
    """
    last, future = clips.history - 1, clips.future
    rows: list[tuple[int, int, int]] = []
    found: list[Tensor] = []
    removable = (truth.contacts[:, clips.history :].any(1) & truth.scored()).nonzero().tolist()
    for clip in sorted({clip for clip, _ in removable}):
        episode, step = episodes[int(clips.episode[clip])], int(clips.start[clip]) + last
        _check_resume(episode, resume(episode, step, future, None), truth.xy[clip, clips.history :])
        for removed in (place for at, place in removable if at == clip):
            xy_N2 = torch.from_numpy(resume(episode, step, future, removed)[-1, :, :2].copy()).double()
            moved = (xy_N2 - truth.xy[clip, -1]).square().sum(-1).sqrt() > AFFECTED
            moved[removed] = False
            for place in (moved & truth.scored()[clip]).nonzero().flatten().tolist():
                rows.append((clip, place, removed))
                found.append(xy_N2[place])
    table = torch.tensor(rows, dtype=torch.long).reshape(-1, 3)
    xy = torch.stack(found) if found else torch.zeros(0, 2, dtype=torch.float64)
    return Removals(Cases(table[:, 0], table[:, 1]), table[:, 2], xy, len(removable))


def _check_resume(episode: Episode, states: NDArray[np.float32], stored_TN2: Tensor) -> None:
    again = torch.from_numpy(states[..., :2].copy()).double()
    if again.shape != stored_TN2.shape or not bool(((again - stored_TN2).abs() <= SAME).all()):
        raise DataError(
            f"counterfactuals: expected episode {episode.episode_id}, simulated again without a change, to give its "
            "stored future, and it does not; was it recorded with the world's present settings?"
        )
