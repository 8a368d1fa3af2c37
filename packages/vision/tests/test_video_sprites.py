"""Generated clips: things move as the class says, backwards as the opposite class says, a seed gives one clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_vision.image_files import find_images
from jepa_vision.sprites import MOTIONS, Photos, SpriteClips, State, _draw_path, draw_frame, load_photos, path_of

BLACK = np.zeros((48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def photos() -> Photos:
    return load_photos("train")


def test_same_seed_same_bits() -> None:
    clips = SpriteClips(16, (32, 40), 6)
    first, again, other = clips.load(3, 7), clips.load(3, 7), clips.load(3, 8)
    assert first.shape == (6, 32, 40, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert clips.collate([first, other]).shape == (2, 3, 6, 32, 40)


def test_a_fixed_set_does_not_follow_the_seed_and_differs_from_others() -> None:
    one, other = (SpriteClips(16, (32, 32), 4, fixed=name) for name in ("one", "other"))
    assert np.array_equal(one.load(5, 1), one.load(5, 2))
    assert not np.array_equal(one.load(5, 1), other.load(5, 1))
    assert not set(map(one.sample_id, range(16))) & set(map(other.sample_id, range(16)))


def values(states: list[State]) -> np.ndarray:
    """``[T, 4]``."""
    return np.array([[state.x, state.y, state.angle, state.size] for state in states])


@pytest.mark.parametrize("place", range(0, len(MOTIONS), 2))
def test_a_clip_backwards_is_one_of_the_opposite_class(place: int) -> None:
    """From the same draws, so that frames without their order tell the two classes apart by nothing."""
    there, back = (
        values(_draw_path(motion, np.random.default_rng(3), 5)) for motion in (MOTIONS[place], MOTIONS[place + 1])
    )
    np.testing.assert_allclose(back[::-1], there, atol=1e-12)
    assert np.ptp(there, axis=0).astype(bool).sum() == 1


@pytest.mark.parametrize("motion", MOTIONS)
def test_paths_stay_in_their_ranges_and_start_everywhere(motion: str) -> None:
    rng = np.random.default_rng(0)
    paths = np.stack([values(_draw_path(motion, rng, 3)) for _ in range(2000)])
    within = paths[..., [0, 1, 3]]
    assert within.min() >= -1e-9 and within.max() <= 1 + 1e-9
    assert (abs(paths[:, 1].mean(0) - 0.5) < 0.04).all()


def centre(frame: np.ndarray) -> np.ndarray:
    """Column and row of the mean brightness."""
    weight = frame.astype(float).sum(-1)
    rows, columns = np.indices(weight.shape)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.mark.parametrize(("motion", "moved"), [("right", (5.76, 0)), ("left", (-5.76, 0)), ("down", (0, 5.76))])
def test_what_moves_moves_that_way_in_pixels(photos: Photos, motion: str, moved: tuple[float, float]) -> None:
    first, last = (
        draw_frame(photos.discs[0], BLACK, state) for state in path_of(motion, State(0.5, 0.5, 0.1, 0.0), 0.2, 3)[::2]
    )
    np.testing.assert_allclose(centre(last) - centre(first), moved, atol=0.3)


def test_a_clockwise_turn_carries_the_right_side_down(photos: Photos) -> None:
    photo = photos.discs[0].copy()
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    photo.putalpha(Image.fromarray(half))
    states = path_of("clockwise", State(0.5, 0.5, 0.125, 0.9), 0.25, 2)
    before, after = (centre(draw_frame(photo, BLACK, state)) - 23.5 for state in states)
    assert before[0] > 4 and abs(before[1]) < 2 and after[1] > 4 and abs(after[0]) < 2


def test_growing_grows(photos: Photos) -> None:
    states = path_of("grow", State(0.5, 0.5, 0.0, 0.5), 0.9, 4)
    lit = [int((draw_frame(photos.discs[0], BLACK, state).sum(-1) > 0).sum()) for state in states]
    assert lit == sorted(lit) and lit[-1] > 2 * lit[0]


def test_classes_are_balanced_and_independent_of_the_photo() -> None:
    clips = SpriteClips(24, (32, 32), 2)
    assert np.bincount([clips.label(i) for i in range(24)]).tolist() == [3] * len(MOTIONS)
    # The background follows from the seed alone; this corner no photo reaches.
    assert all(np.array_equal(clips.load(0, 5)[1, :2, :2], clips.load(i, 5)[1, :2, :2]) for i in range(8))


def test_the_sample_in_the_package_is_whole_and_split_by_photo() -> None:
    from jepa_vision import sprites

    root = sprites.files("jepa_vision") / "samples" / sprites.SAMPLE
    records = find_images(str(root)).records
    counts = {split: sum(r.split == split for r in records) for split in ("train", "test")}
    assert counts == {"train": 200, "test": 50} and {r.label for r in records} == set(range(10))
    assert "Apache License 2.0" in (root / "ATTRIBUTION.md").read_text(encoding="utf-8")
    content = {split: {r.read() for r in records if r.split == split} for split in counts}
    assert len(content["train"]) == 200 and not content["train"] & content["test"]
    assert len(load_photos("train").discs) == 200 and torch.tensor(load_photos("test").colours).shape == (50, 4, 4, 3)
