"""Scores of slots: parity with scikit-learn and scipy, the empty cases, matching; and slots made of states."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score

from jepa_causal.episodes import Episode
from jepa_causal.slots.scores import assign, fg_ari, kept_share, match, mean_best_overlap, overlaps, slots_of_objects
from jepa_causal.slots.states import StateSlots, StateSlotSettings

# --------------------------------------------------------------------------------------------------------------------
# Segments
# --------------------------------------------------------------------------------------------------------------------


def test_fg_ari_is_that_of_scikit_learn_on_the_foreground() -> None:
    numbers = torch.Generator().manual_seed(0)
    segments = torch.randint(0, 4, (40, 6, 6), generator=numbers)
    found = torch.where(torch.rand(40, 6, 6, generator=numbers) < 0.7, segments, segments.roll(1, 0)) % 3
    for row, score in enumerate(fg_ari(found, segments)):
        front = segments[row] > 0
        assert float(score) == pytest.approx(adjusted_rand_score(segments[row][front], found[row][front]), abs=1e-12)


def rows(*lists: list[int]) -> torch.Tensor:
    return torch.tensor(lists)


@pytest.mark.parametrize(
    ("found", "segments", "score"),
    [
        ([5, 0, 0, 2, 2], [0, 1, 1, 2, 2], 1.0),  # whatever the background is
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], math.nan),  # no foreground
        ([3, 1, 1, 1, 1], [0, 1, 1, 1, 1], 1.0),  # one object in one slot
        ([3, 1, 2, 1, 2], [0, 1, 1, 1, 1], 0.0),  # one object split
        ([0, 1, 1, 1, 1], [0, 1, 1, 2, 2], 0.0),  # all in one slot
        ([4, 0, 1, 2, 3], [0, 1, 2, 3, 4], 1.0),  # one pixel each
        ([0, 0, 0, 0, 2], [0, 0, 0, 0, 1], 1.0),  # a single pixel
    ],
)
def test_fg_ari_where_it_is_simple(found: list[int], segments: list[int], score: float) -> None:
    assert float(fg_ari(rows(found), rows(segments))) == pytest.approx(score, nan_ok=True)


def test_a_slot_that_changes_its_object_costs_over_a_video_alone() -> None:
    segments = rows([0, 1, 1, 2, 2]).expand(1, 2, -1)
    found = torch.stack([rows([0, 1, 1, 2, 2]), rows([0, 2, 2, 1, 1])], 1)
    assert fg_ari(found.flatten(0, 1), segments.flatten(0, 1)).tolist() == [1, 1]
    assert float(fg_ari(found, segments)) < 0


def test_mean_best_overlap() -> None:
    segments = rows([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0], [3, 3, 0, 0, 0, 0])
    found = rows([0, 1, 1, 1, 2, 0], [0, 1, 2, 0, 1, 2], [1, 1, 0, 0, 0, 0])
    score = mean_best_overlap(found, segments)
    assert score[0] == pytest.approx((2 / 3 + 1 / 2) / 2) and torch.isnan(score[1]) and score[2] == 1


def test_slots_of_objects_and_how_long_they_keep_them() -> None:
    segments = rows([0, 1, 1, 3, 3], [0, 1, 1, 0, 0])
    found = rows([0, 4, 4, 2, 0], [0, 2, 2, 2, 2])
    assert slots_of_objects(found, segments, 3).tolist() == [[4, -1, 2], [2, -1, -1]]
    with pytest.raises(ValueError, match="objects: expected at least 3"):
        slots_of_objects(found, segments, 2)
    history = torch.tensor([[[1, 0], [1, -1], [2, 0], [1, 3]]])
    kept, first = kept_share(history)
    assert kept == pytest.approx(1 / 4) and first == pytest.approx(3 / 5)
    assert math.isnan(kept_share(torch.full((1, 3, 2), -1))[0])


def test_overlaps_count_every_pixel_once_and_refuse_other_shapes() -> None:
    segments, found = torch.randint(0, 5, (3, 4, 7)), torch.randint(0, 6, (3, 4, 7))
    assert overlaps(found, segments).sum((1, 2)).tolist() == [28] * 3
    with pytest.raises(ValueError, match="expected one shape"):
        fg_ari(found, segments[:, :2])
    with pytest.raises(ValueError, match="from 0"):
        fg_ari(found - 6, segments)


# --------------------------------------------------------------------------------------------------------------------
# Matching
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3, 5, 7])
def test_the_assignment_costs_as_little_as_that_of_scipy(slots: int) -> None:
    cost = torch.rand(20, slots, slots, generator=torch.Generator().manual_seed(slots))
    found = assign(cost)
    assert (found.sort(1).values == torch.arange(slots)).all()
    for one, columns in zip(cost.double().numpy(), found.numpy(), strict=True):
        wanted = one[linear_sum_assignment(one)].sum()
        assert one[np.arange(slots), columns].sum() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("slots", [4, 7])
def test_a_reordering_is_found_again(slots: int) -> None:
    a = torch.randn(6, slots, 8)
    order = torch.stack([torch.randperm(slots) for _ in range(6)])
    b = a.gather(1, order[..., None].expand(-1, -1, 8)) + 1e-3 * torch.randn(6, slots, 8)
    found = match(a, b)
    assert found.dtype == torch.int64
    torch.testing.assert_close(b.gather(1, found[..., None].expand(-1, -1, 8)), a, atol=0.01, rtol=0)


def test_slots_that_lie_close_are_told_apart() -> None:
    a = 1e3 + 1e-2 * torch.arange(3.0)[None, :, None].expand(1, 3, 2)
    assert match(a, a.flip(1)).tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("slots", [3, 7])
def test_what_cannot_be_matched_is_refused(slots: int) -> None:
    a = torch.zeros(2, slots, 4)
    with pytest.raises(ValueError, match="finite"):
        match(a, a / 0)
    with pytest.raises(ValueError, match=r"two times \[B, K, D\]"):
        match(a, a[:, 1:])
    assert match(a[:0], a[:0]).shape == (0, slots)


# --------------------------------------------------------------------------------------------------------------------
# Slots made of states
# --------------------------------------------------------------------------------------------------------------------


def discs(seed: int, steps: int = 10) -> Episode:
    numbers = np.random.default_rng(seed)
    states = numbers.uniform(0.09, 0.91, (steps, 4, 4)).astype(np.float32)
    present = np.ones((steps, 4), bool)
    present[:, seed % 4] = False
    colours = numbers.permutation(8)[:4].astype(np.float32)[:, None]
    return Episode(f"discs {seed}", states=states * present[..., None], present=present, attributes=colours)


def test_a_linear_probe_reads_the_place_and_not_the_velocity() -> None:
    episodes = StateSlots().all(discs(seed) for seed in range(120))
    here = [(e.slots[e.present], e.states[e.present]) for e in episodes if e.slots is not None and e.states is not None]
    slots, states = (np.concatenate(parts) for parts in zip(*here, strict=True))
    train, test = slice(0, 2700), slice(2700, None)
    probe = Ridge(1e-4).fit(slots[train].astype(np.float64), states[train])
    error = np.sqrt(np.square(probe.predict(slots[test]) - states[test]).mean(0))
    assert (error[:2] < 0.005).all() and (error[2:] > 0.2).all()


def test_state_slots_are_seeded_and_know_empty_places() -> None:
    episode = discs(5)
    first, again = StateSlots()(episode).slots, StateSlots()(episode).slots
    assert first is not None and first.dtype == np.float32 and first.shape == (10, 4, 64)
    assert np.array_equal(first, again)  # type: ignore[arg-type]
    assert (first[:, 1] == StateSlots().empty).all() and not (first[:, 0] == StateSlots().empty).any()
    other = StateSlots(StateSlotSettings(width=20, seed=1))(episode).slots
    assert other is not None and other.shape == (10, 4, 20)


def test_state_slots_follow_their_object() -> None:
    episode = discs(3)
    order = [2, 0, 3, 1]
    assert episode.states is not None and episode.present is not None and episode.attributes is not None
    moved = replace(
        episode,
        states=episode.states[:, order],
        present=episode.present[:, order],
        attributes=episode.attributes[order],
    )
    slots, wanted = StateSlots()(moved).slots, StateSlots()(episode).slots
    assert slots is not None and wanted is not None
    np.testing.assert_allclose(slots, wanted[:, order], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": None, "slots": np.zeros((1, 1, 1))}, "expected states, got none"),
        ({"attributes": None}, r"expected attributes \[N, F\] with column 0"),
        ({"attributes": np.full((4, 1), 9.0)}, "whole numbers of colours from 0 to 7"),
        ({"attributes": np.full((4, 1), np.nan)}, "whole numbers of colours from 0 to 7"),
    ],
)
def test_episodes_without_states_or_colours_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateSlots()(replace(discs(0), **change))  # type: ignore[arg-type]
    bare = replace(discs(0), attributes=None)
    assert StateSlots(StateSlotSettings(colour_column=None))(bare).slots is not None
