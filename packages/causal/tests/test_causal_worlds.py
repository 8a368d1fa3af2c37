"""Worlds of discs: exact re-simulation, energy, contacts against geometry, interventions, pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from jepa_causal.episodes import Episode, Floats
from jepa_causal.worlds import WORLDS, open_world, record
from jepa_causal.worlds.changes import Add, Change, Push, Recolour, Remove
from jepa_causal.worlds.disc_physics import on_contact
from jepa_causal.worlds.disc_state import COLOUR_NAMES, DISC_ATTRIBUTES, PALETTE, Doubles
from jepa_causal.worlds.discs import Discs, DiscSettings
from jepa_causal.worlds.render import BACKGROUND, draw_discs, with_frames

CROWDED = DiscSettings(fewest=8, most=8, radius=0.1, mean_speed=0.06)


def states_of(episode: Episode) -> Floats:
    assert episode.states is not None
    return episode.states


def exact_of(episode: Episode) -> Doubles:
    return episode.extra["exact"].astype(np.float64)


def assert_same(first: Episode, second: Episode, since: int = 0) -> None:
    """All arrays equal, bit for bit, those of ``second`` from step ``since`` on."""
    for name in ("states", "present", "contacts"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name)[since:], err_msg=name)
    np.testing.assert_array_equal(first.attributes, second.attributes)
    assert exact_of(first).tobytes() == exact_of(second)[since:].tobytes()


def energy(episode: Episode, repulsion: float = 0.0) -> Doubles:
    """Kinetic and potential energy per step, ``[T]``."""
    assert episode.present is not None
    exact = exact_of(episode)[:, episode.present[0]]
    away = np.hypot(*np.moveaxis(exact[:, :, None, :2] - exact[:, None, :, :2], -1, 0))
    upper = np.triu_indices(exact.shape[1], 1)
    potential: Doubles = repulsion * (1 / away[:, *upper]).sum(-1)
    return 0.5 * (exact[..., 2:] ** 2).sum((1, 2)) + potential


@pytest.mark.parametrize(
    "settings",
    [DiscSettings(), DiscSettings(repulsion=2e-4), CROWDED, DiscSettings(sub_steps=1, mean_speed=0.04)],
    ids=["usual", "repulsion", "crowded", "one-sub-step"],
)
def test_the_stored_future_comes_back_bit_for_bit(settings: DiscSettings) -> None:
    world = Discs(settings)
    in_contact = 0
    for seed in range(12):
        episode = world.episode(seed, 40)
        assert episode.contacts is not None
        for step in range(0, 40, 3):
            in_contact += int(episode.contacts[step].any())
            assert_same(world.resume(episode, step, 40 - step), episode, step)
    assert in_contact > 10, "no resumption in a contact was tried"


def test_a_counterfactual_can_itself_be_resumed() -> None:
    world = Discs()
    changed = world.resume(
        world.episode(3, 20, objects=4), 5, 30, [Push(int(np.flatnonzero(present(world, 3))[0]), 0.02, 0)]
    )
    assert_same(world.resume(changed, 11, 19), changed, 11)


def present(world: Discs, seed: int) -> np.ndarray:
    flags = world.episode(seed, 1, objects=4).present
    assert flags is not None
    return flags[0]


def test_a_seed_is_an_episode() -> None:
    assert_same(Discs().episode(7, 30), Discs().episode(7, 30))
    assert exact_of(Discs().episode(7, 2)).tobytes() != exact_of(Discs().episode(8, 2)).tobytes()
    # The start is numpy's alone, so it is the same on every machine.
    start = exact_of(Discs().episode(0, 1))
    assert hashlib.sha256(np.round(start, 9).tobytes()).hexdigest()[:12] == "569b2a243d43"


def test_energy_is_kept() -> None:
    for seed in range(20):
        values = energy(Discs().episode(seed, 51))
        np.testing.assert_allclose(values, values[0], rtol=1e-6)
    crowded = energy(Discs(CROWDED).episode(0, 51))
    np.testing.assert_allclose(crowded, crowded[0], rtol=1e-4)


def test_repulsion_bends_paths_and_nearly_keeps_energy() -> None:
    strength = 2e-4
    world, free = Discs(DiscSettings(repulsion=strength)), Discs()
    drifts = []
    for seed in range(10):
        episode = world.episode(seed, 51)
        values = energy(episode, strength)
        drifts.append(np.abs(values / values[0] - 1).max())
        assert np.abs(exact_of(episode)[5] - exact_of(free.episode(seed, 6))[5]).max() > 1e-4
    assert np.median(drifts) < 0.05 and max(drifts) < 0.2


def test_two_discs_swap_velocities_head_on() -> None:
    world = Discs()
    episode = world.episode(0, 1, objects=2)
    assert episode.present is not None
    first, second = (int(place) for place in np.flatnonzero(episode.present[0]))
    episode.extra["exact"][0, [first, second]] = [(0.3, 0.5, 0.05, 0.0), (0.7, 0.5, -0.03, 0.0)]
    after = world.resume(episode, 0, 9)
    np.testing.assert_allclose(exact_of(after)[-1, first, 2:], (-0.03, 0), atol=1e-12)
    np.testing.assert_allclose(exact_of(after)[-1, second, 2:], (0.05, 0), atol=1e-12)
    assert after.contacts is not None and after.contacts[:, [first, second]].all(1).any()
    assert not after.contacts[0].any()


def test_contacts_are_those_of_geometry() -> None:
    """Without a contact and off the walls a disc flies straight; with one, it was near another and was deflected."""
    settings, deflected, checked = DiscSettings(), 0, 0
    for seed in range(30):
        episode = Discs(settings).episode(seed, 50, objects=5)
        exact, contacts = exact_of(episode), episode.contacts
        assert contacts is not None
        away = np.hypot(*np.moveaxis(exact[:, :, None, :2] - exact[:, None, :, :2], -1, 0)) + 9 * np.eye(5)
        speeds = np.hypot(exact[..., 2], exact[..., 3])
        for step in range(1, 50):
            overlap = away[step] < 2 * settings.radius
            assert contacts[step][overlap.any(1)].all(), "an overlap at a frame is a contact"
            reach = speeds[step - 1].max() + speeds[step].max()
            near = (away[step - 1] < 2 * settings.radius + 2 * reach).any(1)
            assert near[contacts[step]].all(), "a contact needs another disc within reach"
            straight = exact[step - 1, :, :2] + exact[step - 1, :, 2:]
            inside = ((straight > settings.radius) & (straight < 1 - settings.radius)).all(1)
            free = inside & ~contacts[step] & (exact[step - 1, :, 2:] == exact[step, :, 2:]).all(1)
            np.testing.assert_allclose(exact[step, free, :2], straight[free], atol=1e-12)
            changed = (np.abs(exact[step, :, 2:] - exact[step - 1, :, 2:]) > 1e-9).any(1)
            # A wall turns the sign of a component; only another disc changes its size.
            sizes = (np.abs(np.abs(exact[step, :, 2:]) - np.abs(exact[step - 1, :, 2:])) > 1e-9).any(1)
            assert contacts[step][sizes].all(), "only a contact changes the size of a velocity"
            deflected += int((changed & contacts[step]).sum())
            checked += int(contacts[step].sum())
    assert checked > 500 and deflected / checked > 0.5


def test_discs_stay_in_the_box_and_keep_their_pace() -> None:
    exact = np.concatenate([exact_of(Discs().episode(seed, 50, objects=5)) for seed in range(30)])
    assert exact[..., :2].min() > 0.04 and exact[..., :2].max() < 0.96
    assert np.hypot(exact[..., 2], exact[..., 3]).mean() == pytest.approx(0.055, rel=0.1)


def test_absent_places_are_empty_and_random() -> None:
    seen = set()
    assert len(COLOUR_NAMES) == len(PALETTE)
    for seed in range(40):
        episode = Discs().episode(seed, 3)
        assert episode.present is not None and episode.attributes is not None
        there = episode.present[0]
        assert 2 <= there.sum() <= 5 and episode.present.shape == (3, 5)
        assert not states_of(episode)[:, ~there].any() and not episode.attributes[~there].any()
        colours = episode.attributes[there, 0].astype(int)
        assert len(set(colours.tolist())) == there.sum() and episode.attributes.shape == (5, len(DISC_ATTRIBUTES))
        np.testing.assert_array_equal(episode.attributes[there, 1:4], PALETTE[colours])
        seen.add(tuple(there.tolist()))
    assert len(seen) > 12


def test_removing_an_object_changes_those_it_would_have_met_only() -> None:
    world = Discs()
    episode = world.episode(5, 40, objects=3)
    assert episode.present is not None
    gone = int(np.flatnonzero(episode.present[0])[0])
    after = world.resume(episode, 10, 30, [Remove(gone)])
    assert after.present is not None and after.attributes is not None
    assert not after.present[:, gone].any() and not after.attributes[gone].any()
    assert not states_of(after)[:, gone].any()
    np.testing.assert_array_equal(
        states_of(episode)[10, episode.present[0] & (np.arange(5) != gone)], states_of(after)[0, after.present[0]]
    )
    assert world.resume(after, 0, 5, [Remove(int(place)) for place in np.flatnonzero(after.present[0])]).steps == 5


def test_changes_do_what_they_say_and_leave_the_recording_alone() -> None:
    world = Discs()
    episode = world.episode(1, 6, objects=2)
    assert episode.present is not None and episode.attributes is not None
    first, second = (int(place) for place in np.flatnonzero(episode.present[0]))
    before, colours = exact_of(episode).copy(), episode.attributes.copy()
    free = next(colour for colour in range(8) if colour not in colours[[first, second], 0])
    spot = free_spot(exact_of(episode)[2, [first, second], :2])
    after = world.resume(episode, 2, 4, [Push(first, 0.01, -0.02), Recolour(second, free), Remove(first)])
    np.testing.assert_array_equal(
        states_of(after)[:, second], states_of(world.resume(episode, 2, 4, [Remove(first)]))[:, second]
    )
    assert after.attributes is not None and after.attributes[second, 0] == free
    pushed = world.resume(episode, 2, 2, [Push(first, 0.01, -0.02)])
    np.testing.assert_array_equal(exact_of(pushed)[0, first, 2:], before[2, first, 2:] + (0.01, -0.02))
    added = world.resume(episode, 2, 4, [Add(*spot, 0.01, 0.0, free)])
    assert added.present is not None and added.attributes is not None
    place = int(np.flatnonzero(added.present[0] & ~episode.present[2])[0])
    np.testing.assert_array_equal(exact_of(added)[0, place], (*spot, 0.01, 0.0))
    np.testing.assert_allclose(added.attributes[place], (free, *PALETTE[free], 0.09, 1.0))
    np.testing.assert_array_equal(exact_of(episode), before)
    np.testing.assert_array_equal(episode.attributes, colours)


def free_spot(taken: Doubles) -> tuple[float, float]:
    """A corner that is far from all centres."""
    corners = np.array([(0.15, 0.15), (0.15, 0.85), (0.85, 0.15), (0.85, 0.85)])
    away = np.hypot(*np.moveaxis(corners[:, None] - taken, -1, 0)).min(1)
    x, y = corners[away.argmax()]
    return float(x), float(y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda there, empty, row, used: Remove(empty), "object . is not there: choose one of"),
        (lambda there, empty, row, used: Remove(9), "expected an object from 0 to 4, got 9"),
        (lambda there, empty, row, used: Push(-1, 0, 0), "expected an object from 0 to 4, got -1"),
        (lambda there, empty, row, used: Push(there, float("nan"), 0), "finite velocity"),
        (lambda there, empty, row, used: Recolour(empty, 1), "is not there"),
        (lambda there, empty, row, used: Recolour(there, 8), "colour 8: expected 0 to 7"),
        (lambda there, empty, row, used: Recolour(there, used), "is that of object"),
        (lambda there, empty, row, used: Add(0.05, 0.5, 0, 0, 7), "inside the box"),
        (lambda there, empty, row, used: Add(float("nan"), 0.5, 0, 0, 7), "inside the box"),
        (lambda there, empty, row, used: Add(row[0], row[1], 0, 0, 7), "overlaps object"),
        (lambda there, empty, row, used: Add(0.5, 0.5, 0, 0, used), "is that of object"),
    ],
)
def test_impossible_changes_are_one_clear_line(make: Callable[..., Change], message: str) -> None:
    world = Discs()
    episode = world.episode(2, 3, objects=3)
    assert episode.present is not None and episode.attributes is not None
    there, other = (int(place) for place in np.flatnonzero(episode.present[0])[:2])
    empty = int(np.flatnonzero(~episode.present[0])[0])
    attributes = episode.attributes.copy()
    change = make(there, empty, exact_of(episode)[1, there], int(attributes[other, 0]))
    with pytest.raises(ValueError, match=message) as caught:
        world.resume(episode, 1, 2, [change])
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(episode.attributes, attributes)


def test_a_full_box_takes_no_more() -> None:
    with pytest.raises(ValueError, match="all 5 places are taken"):
        Discs().resume(Discs().episode(0, 2, objects=5), 0, 2, [Add(0.5, 0.5, 0, 0, 1)])


def test_hostile_requests() -> None:
    world = Discs()
    episode = world.episode(0, 4)
    for ask, message in (
        (lambda: world.episode(0, 0), "steps 0: expected 1"),
        (lambda: world.episode(0, 5, objects=6), "objects 6: expected 1 to 5"),
        (lambda: world.resume(episode, 4, 3), "step 4: expected 0 to 3"),
        (lambda: world.resume(episode, -1, 3), "step -1: expected"),
        (lambda: world.resume(Episode("bare"), 0, 3), "expected one that Discs recorded"),
        (lambda: Discs(DiscSettings(repulsion=1e-3)).resume(episode, 0, 3), "resume with the settings"),
        (lambda: DiscSettings(fewest=6), "fewest 6, most 5"),
        (lambda: DiscSettings(radius=0.3), "radius 0.3: expected 0 to"),
        (lambda: DiscSettings(mean_speed=0.5), "pass through"),
        (lambda: DiscSettings(sub_steps=0), "sub_steps 0"),
        (lambda: DiscSettings(repulsion=-1), "repulsion -1"),
        (lambda: with_frames(episode, 4), "size 4: expected 8 to 512"),
        (lambda: with_frames(Episode("bare"), 16), "to draw"),
        (lambda: record("disc", 0, 3), "did you mean discs"),
        (lambda: open_world("zebra"), "expected one of discs, push_t, two_rooms$"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_both_ways_to_hear_of_contacts() -> None:
    """pymunk 6 and 7 name the call differently; here stand-ins of both record what they were given."""

    class Seven:
        def on_collision(self, first: int, second: int, post_solve: object) -> None:
            self.heard = (first, second, post_solve)

    class Handler:
        post_solve: object = None

    class Six:
        def add_collision_handler(self, first: int, second: int) -> Handler:
            self.handler = Handler()
            return self.handler

    new, old = Seven(), Six()
    on_contact(new, 1, 2, print)
    on_contact(old, 1, 2, print)
    assert new.heard == (1, 2, print) and old.handler.post_solve is print


def test_pictures_show_the_states() -> None:
    episode = Discs().episode(4, 6, objects=3)
    drawn = Discs().with_frames(episode, 64)
    assert drawn.frames is not None and drawn.segments is not None
    assert episode.present is not None and episode.attributes is not None
    assert drawn.frames.shape == (6, 64, 64, 3) and drawn.frames.dtype == drawn.segments.dtype == np.uint8
    np.testing.assert_array_equal(drawn.frames[drawn.segments == 0].min(0), BACKGROUND)
    for place in np.flatnonzero(episode.present[0]):
        rows, columns = np.nonzero(drawn.segments[0] == place + 1)
        middle = ((columns + 0.5) / 64).mean(), 1 - ((rows + 0.5) / 64).mean()
        np.testing.assert_allclose(middle, states_of(episode)[0, place, :2], atol=0.004)
        assert len(rows) / 64**2 == pytest.approx(np.pi * 0.09**2, rel=0.05)
        inner = drawn.frames[0][rows[len(rows) // 2], columns[len(rows) // 2]]
        np.testing.assert_allclose(inner, 255 * episode.attributes[place, 1:4], atol=1)
    assert set(np.unique(drawn.segments)) == {0, *(np.flatnonzero(episode.present[0]) + 1)}


def test_the_disc_drawn_last_is_the_visible_one() -> None:
    states = np.array([[[0.45, 0.5, 0, 0], [0.55, 0.5, 0, 0], [0.5, 0.5, 0, 0]]], dtype=np.float32)
    present = np.array([[True, True, False]])
    frames, segments = draw_discs(states, present, PALETTE[:3], np.full(3, 0.2, dtype=np.float32), 32)
    assert segments[0, 16, 16] == 2 and segments[0, 16, 9] == 1 and not (segments == 3).any()
    np.testing.assert_allclose(frames[0, 16, 16], PALETTE[1] * 255, atol=1)


def test_edges_are_anti_aliased() -> None:
    """The summed coverage is the disc's area wherever the centre lies in its pixel."""
    shifts = np.linspace(0, 1 / 16, 9, dtype=np.float32)
    states = np.zeros((9, 1, 4), dtype=np.float32)
    states[:, 0, 0], states[:, 0, 1] = 0.5 + shifts, 0.5 + shifts / 3
    white = np.ones((1, 3), dtype=np.float32)
    frames, _ = draw_discs(states, np.ones((9, 1), dtype=bool), white, np.array([0.2], dtype=np.float32), 16)
    cover = ((frames[..., 0].astype(float) - BACKGROUND[0]) / (255 - BACKGROUND[0])).sum((1, 2)) / 256
    np.testing.assert_allclose(cover, np.pi * 0.04, rtol=0.02)
    assert len(np.unique(frames[..., 0])) > 20


@pytest.mark.parametrize("name", sorted(set(WORLDS) - {"push_t"}))
def test_every_world_records(name: str) -> None:
    world = open_world(name)
    episode = world.episode(11, 20)
    states = states_of(episode)
    assert episode.steps == 20 and states.dtype == np.float32 and np.isfinite(states).all()
    assert episode.present is not None and episode.present.shape == states.shape[:2]
    assert episode.contacts is not None and episode.contacts.shape == states.shape[:2]
    assert episode.attributes is not None and episode.attributes.shape == (states.shape[1], len(world.attributes))
    np.testing.assert_array_equal(states, states_of(record(name, 11, 20)))
    drawn = world.with_frames(episode, 16)
    assert drawn.frames is not None and drawn.frames.shape == (20, 16, 16, 3)
    assert drawn.segments is not None and drawn.segments.shape == (20, 16, 16)
