"""The position probe and the three errors: an oracle scores nothing, a baseline what it is, a wrong simulator stops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_causal.baselines import ConstantVelocity, CopyLast, fit_own_linear
from jepa_causal.clips import (
    Clips,
    History,
    completion_cases,
    cut_clips,
    forecast_cases,
    removals,
    truth_of,
)
from jepa_causal.episodes import Episode
from jepa_causal.probe import NO_SLOT, PositionProbe, fit_position_probe, match_by_position
from jepa_causal.scoring import (
    COMPLETION,
    CONTACT,
    COUNTERFACTUAL,
    FACTUAL,
    FREE,
    SLOTS,
    PositionScores,
    SlotScores,
    measured,
)
from jepa_core.errors import DataError

HISTORY, FUTURE, OBJECTS, WIDTH = 4, 3, 3, 8
KICK = np.array([0.0, 0.1])
EXACT = PositionProbe(torch.eye(WIDTH, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0.0, 0.0)


def run(start: NDArray[np.float64], speed: NDArray[np.float64], steps: int, kicker: bool) -> NDArray[np.float32]:
    """A world whose objects fly straight on; object 0 kicks object 1 at every fifth step, if it is there."""
    states = np.zeros((steps, OBJECTS, 4), dtype=np.float32)
    xy, change = start.copy(), speed.copy()
    for step in range(steps):
        if kicker and step and step % 5 == 0:
            change[1] += KICK
        if step:
            xy += change
        states[step, :, :2], states[step, :, 2:] = xy, change
    return states


def episode(seed: int, steps: int = 2 * (HISTORY + FUTURE) + 1) -> Episode:
    """Slots are x, y and noise; objects 0 and 1 are in contact when one kicks the other."""
    numbers = np.random.default_rng(seed)
    states = run(numbers.uniform(0.3, 0.7, (OBJECTS, 2)), numbers.normal(0, 0.02, (OBJECTS, 2)), steps, True)
    contacts = np.zeros((steps, OBJECTS), dtype=bool)
    contacts[5::5, :2] = True
    slots = np.concatenate([states[..., :2], numbers.normal(0, 1, (steps, OBJECTS, WIDTH - 2))], -1)
    present = np.ones((steps, OBJECTS), dtype=bool)
    return Episode(f"e{seed}", states, present, contacts, slots=slots.astype(np.float32))


def resume(of: Episode, step: int, steps: int, removed: int | None) -> NDArray[np.float32]:
    """The kicks are tied to the episode's own clock."""
    assert of.states is not None
    state = of.states[step].astype(np.float64)
    found = []
    for now in range(step + 1, step + steps + 1):
        if removed != 0 and now % 5 == 0:
            state[1, 2:] += KICK
        state[:, :2] += state[:, 2:]
        found.append(state.astype(np.float32).copy())
    return np.stack(found)


def scored(count: int = 6) -> tuple[Clips, list[Episode]]:
    episodes = [episode(seed) for seed in range(count)]
    clips = cut_clips(episodes, HISTORY, FUTURE)
    own = torch.arange(OBJECTS)
    return replace(clips, truth=truth_of(clips, episodes, lambda slots, xy, present: own.expand(len(xy), -1))), episodes


@dataclass(frozen=True)
class Oracle:
    """Knows the slots of all windows, found again by their first step."""

    slots: Tensor

    def _of(self, history: History) -> Tensor:
        same = (self.slots[None, :, 0] == history.slots[:, None, 0]).flatten(2).all(-1)
        return self.slots[same.int().argmax(1)]

    def forecast(self, history: History, steps: int) -> Tensor:
        start = history.slots.shape[1]
        return self._of(history)[:, start : start + steps]

    def complete(self, history: History, hidden_BK: Tensor) -> Tensor:
        return self._of(history)[:, : history.slots.shape[1]]


# --------------------------------------------------------------------------------------------------------------------
# Probe
# --------------------------------------------------------------------------------------------------------------------


def test_probe_recovers_an_affine_map_and_tells_its_error() -> None:
    slots = torch.randn(600, 12, generator=torch.Generator().manual_seed(0))
    slots[:, 3] *= 100  # a scale of its own must not matter
    weight = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
    xy = slots.double() @ weight.double() / 10 + 0.5
    probe = fit_position_probe(slots, xy, torch.arange(600) // 50)
    assert torch.allclose(probe(slots), xy, atol=1e-6) and probe.rmse < 1e-6
    noisy = xy + 0.02 * torch.randn(600, 2, generator=torch.Generator().manual_seed(2))
    assert fit_position_probe(slots, noisy, torch.arange(600) // 50).rmse == pytest.approx(0.02 * 2**0.5, rel=0.1)


def test_probe_penalty_is_chosen_over_whole_episodes() -> None:
    """A slot that tells the episode, not the place, looks good only where an episode lies on both sides of a fold."""
    numbers = torch.Generator().manual_seed(0)
    which = torch.arange(400) // 20
    centre = torch.randn(20, 2, generator=numbers).double()
    slots = torch.nn.functional.one_hot(which).float()
    probe = fit_position_probe(slots, centre[which], which)
    assert probe.rmse > 0.7 * float(centre.square().sum(1).mean().sqrt())
    assert fit_position_probe(slots, centre[which], torch.arange(400) % 20).rmse < 1e-3


@pytest.mark.parametrize(
    ("slots", "episodes", "words"),
    [
        (torch.zeros(4, 3), torch.zeros(4), "at least 2 training episodes"),
        (torch.full((4, 3), torch.nan), torch.arange(4), "NaN"),
        (torch.zeros(5, 3), torch.arange(4), "expected slots"),
    ],
)
def test_probe_refuses_what_it_cannot_fit(slots: Tensor, episodes: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_position_probe(slots, torch.zeros(4, 2), episodes)


def test_matching_is_one_to_one_and_leaves_absent_objects_out() -> None:
    xy = torch.tensor([[[0.1, 0.1], [0.12, 0.1], [0.9, 0.9]]])
    found = torch.tensor([[[0.9, 0.88], [0.11, 0.1], [0.3, 0.1], [0.5, 0.5]]])
    assert match_by_position(found, xy, torch.tensor([[True, True, True]])).tolist() == [[1, 2, 0]]
    assert match_by_position(found, xy, torch.tensor([[True, False, True]])).tolist() == [[1, NO_SLOT, 0]]
    few = match_by_position(found[:, :2], xy, torch.tensor([[True, True, True]]))
    assert sorted(few[0].tolist()) == [NO_SLOT, 0, 1]


# --------------------------------------------------------------------------------------------------------------------
# Which cases
# --------------------------------------------------------------------------------------------------------------------


def test_windows_do_not_overlap_and_hold_the_cases_of_the_contacts() -> None:
    clips, episodes = scored()
    assert clips.truth is not None and clips.start.unique().tolist() == [0, HISTORY + FUTURE]
    contact, free = forecast_cases(clips, clips.truth)
    # Steps 5 and 10: a future contact in the first window (4 to 6), one in the history of the second (7 to 10).
    assert set(clips.start[contact.clip].tolist()) == {0} and set(contact.object.tolist()) == {0, 1}
    assert len(contact) + len(free) == clips.slots.shape[0] * OBJECTS
    hidden = completion_cases(clips, clips.truth)
    assert set(clips.start[hidden.clip].tolist()) == {HISTORY + FUTURE} and len(hidden) == 2 * len(episodes)


def test_objects_that_come_and_go_are_not_scored() -> None:
    gone = episode(0)
    assert gone.present is not None
    gone.present[3:, 1] = False
    clips = cut_clips([gone, episode(1)], HISTORY, FUTURE)
    truth = truth_of(clips, [gone, episode(1)], lambda slots, xy, present: torch.arange(OBJECTS).expand(len(xy), -1))
    assert not truth.scored()[clips.episode == 0, 1].any() and truth.scored()[clips.episode == 1].all()


def test_too_short_episodes_are_one_line() -> None:
    with pytest.raises(DataError, match="at least 7 steps .* longest of 1 has 5"):
        cut_clips([episode(0, steps=5)], HISTORY, FUTURE)


def test_removals_score_only_what_they_move_and_check_the_simulator_first() -> None:
    clips, episodes = scored()
    assert clips.truth is not None
    found = removals(clips, clips.truth, episodes, resume)
    # Removing the kicker moves the kicked; removing the kicked moves nobody.
    assert found.cases.object.tolist() == [1] * len(episodes) and set(found.removed.tolist()) == {0}
    assert found.runs == 2 * len(episodes)
    shift = clips.truth.xy[found.cases.clip, -1, 1] - found.xy
    assert torch.allclose(shift, 2 * torch.tensor(KICK).expand_as(shift), atol=1e-5)  # steps 5 and 6

    def drifting(of: Episode, step: int, steps: int, removed: int | None) -> NDArray[np.float32]:
        return resume(of, step, steps, removed) + np.float32(1e-4)

    with pytest.raises(DataError, match="without a change"):
        removals(clips, clips.truth, episodes, drifting)


# --------------------------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------------------------


def test_oracle_scores_nothing_and_ignoring_a_removal_scores_as_the_factual_future() -> None:
    clips, episodes = scored()
    assert clips.truth is not None
    scores = PositionScores(clips, EXACT, removals(clips, clips.truth, episodes, resume))
    oracle = Oracle(clips.slots)
    scores.add("trained", oracle)
    scores.add_left_in("trained", oracle)
    scores.add_factual()
    scores.add_slots()
    rows = scores.table("").rows
    for column in (CONTACT, FREE, COMPLETION):
        assert rows["trained"][column].value < 1e-6 and rows[SLOTS][column].value < 1e-6
    # The oracle does not know what a removal does, so it answers with what happened.
    factual = rows[FACTUAL][COUNTERFACTUAL].value
    assert factual == pytest.approx(0.2, abs=1e-4)
    assert rows["trained"][COUNTERFACTUAL].value == pytest.approx(factual, abs=1e-5)
    assert rows["trained, object left in"][COUNTERFACTUAL].value == pytest.approx(factual, abs=1e-5)
    assert set(rows[FACTUAL]) == {COUNTERFACTUAL}
    ignored = scores.difference(("trained", COUNTERFACTUAL), (FACTUAL, COUNTERFACTUAL))
    assert ignored is not None and abs(ignored.value) < 1e-5


def test_baselines_score_what_they_are() -> None:
    clips, episodes = scored()
    assert (truth := clips.truth) is not None
    scores = PositionScores(clips, EXACT, removals(clips, truth, episodes, resume))
    scores.add("copy", CopyLast())
    scores.add("straight", ConstantVelocity())
    rows = scores.table("").rows
    contact, free = forecast_cases(clips, truth)
    moved = truth.xy[contact.clip, -1, contact.object] - truth.xy[contact.clip, HISTORY - 1, contact.object]
    assert rows["copy"][CONTACT].value == pytest.approx(float(moved.square().sum(-1).mean().sqrt()), abs=1e-6)
    # Nothing but kicks bends a path, and without the kicker the kicked one goes straight on.
    assert rows["straight"][FREE].value < 1e-5 and rows["straight"][COUNTERFACTUAL].value < 1e-5
    assert COMPLETION in rows["copy"] and COMPLETION not in rows["straight"]


def test_linear_control_learns_straight_paths_and_reads_no_other_object() -> None:
    def flying(seed: int) -> Episode:
        numbers = np.random.default_rng(seed)
        path = run(numbers.uniform(0.3, 0.7, (OBJECTS, 2)), numbers.normal(0, 0.02, (OBJECTS, 2)), 12, False)
        present = np.ones((12, OBJECTS), dtype=bool)
        return Episode(f"e{seed}", path, present, slots=path[..., :2].copy())

    train, test = [flying(seed) for seed in range(8)], cut_clips([flying(20)], HISTORY, FUTURE)
    train[3].present[6:, 1] = False  # type: ignore[index]
    train[3].slots[6:, 1] = 9.0  # type: ignore[index]  # what an absent slot holds is not learned from
    linear = fit_own_linear(train, HISTORY, FUTURE)
    assert torch.allclose(linear.forecast(test.past(), 2 * FUTURE)[:, :FUTURE], test.slots[:, HISTORY:], atol=1e-4)
    further = linear.forecast(test.past(), 2 * FUTURE)
    straight = ConstantVelocity().forecast(test.past(), 2 * FUTURE)
    assert further.shape[1] == 2 * FUTURE and torch.allclose(further, straight, atol=1e-3)
    past = test.past()
    past.slots[:, :, 1:] += 5
    assert torch.equal(linear.forecast(past, FUTURE)[:, :, 0], further[:, :FUTURE, 0])
    with pytest.raises(ValueError, match="5 steps .* 2 training episodes or more, got 1"):
        fit_own_linear(train[:1], HISTORY, FUTURE)


def test_completion_is_the_mean_over_hidden_steps_of_one_object_at_a_time() -> None:
    clips, _ = scored(2)
    assert (truth := clips.truth) is not None
    seen: list[Tensor] = []

    class Watching(CopyLast):
        def complete(self, history: History, hidden_BK: Tensor) -> Tensor:
            seen.append(hidden_BK)
            return super().complete(history, hidden_BK)

    scores = PositionScores(clips, EXACT, None)
    scores.add("copy", Watching())
    cases = completion_cases(clips, truth)
    assert (seen[0].sum(1) == 1).all() and seen[0].nonzero()[:, 1].tolist() == cases.object.tolist()
    path = truth.xy[cases.clip, :HISTORY, cases.object]
    expected = (path[:, 1:] - path[:, :1]).square().sum(-1).mean().sqrt()
    assert scores.rows["copy"][COMPLETION].value == pytest.approx(float(expected), abs=1e-6)


def test_removal_takes_the_slot_away_at_all_steps_and_from_nobody_else() -> None:
    clips, _ = scored(2)
    past = clips.past().without(torch.tensor([1, 0, 2, 1]))
    assert not past.present[0, :, 1].any() and past.present[0, :, [0, 2]].all() and clips.slot_present.all()
    assert (past.present.sum((1, 2)) == HISTORY * (OBJECTS - 1)).all()


def test_errors_are_over_episodes() -> None:
    """Rows that repeat each other within an episode add no certainty."""
    squared = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = measured(squared, torch.arange(40))
    copies = measured(squared.repeat_interleave(10), torch.arange(40).repeat_interleave(10))
    assert alone.stderr is not None and copies.stderr == pytest.approx(alone.stderr)
    assert measured(squared, torch.zeros(40)).stderr is None


def test_slots_without_positions_are_scored_as_a_share_of_their_variance() -> None:
    clips = replace(scored()[0], truth=None)
    scores = SlotScores(clips)
    scores.add("oracle", Oracle(clips.slots))
    scores.add("copy", CopyLast())

    class Mean(CopyLast):
        def forecast(self, history: History, steps: int) -> Tensor:
            return clips.slots.mean((0, 1, 2)).expand(len(history.slots), steps, OBJECTS, -1)

    scores.add("mean", Mean())
    rows = scores.table("").rows
    assert rows["oracle"]["forecast"].value == rows["oracle"][COMPLETION].value == 0
    assert rows["mean"]["forecast"].value == pytest.approx(1, abs=0.15)
    assert rows["copy"]["forecast"].value > 1.2
