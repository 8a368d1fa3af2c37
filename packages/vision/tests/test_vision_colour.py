"""Colour and blur of training views: from the seed alone, alike for all frames, within the limits asked for."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from test_vision_images import encoded, picture
from vision_cases import configured

from jepa_core.errors import ConfigError
from jepa_vision.augment import Augment, colour
from jepa_vision.image_data import Images
from jepa_vision.image_records import Record
from jepa_vision.sources import training_source

PLAIN = Augment(scale=(1, 1), aspect=(1, 1))
ALL = replace(PLAIN, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5)
VIEW = np.asarray(picture(24, 16, 3))


def test_nothing_is_asked_nothing_changes() -> None:
    assert colour(VIEW, PLAIN, 5) is VIEW


def test_colours_follow_from_the_seed_alone() -> None:
    first = colour(VIEW, ALL, 7)
    assert first.shape == VIEW.shape and first.dtype == np.uint8
    assert np.array_equal(first, colour(VIEW, ALL, 7))
    assert len({colour(VIEW, ALL, seed).tobytes() for seed in range(30)}) == 30


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    pointwise = replace(ALL, contrast=0.0)
    clip = np.stack([VIEW, VIEW[::-1], np.asarray(picture(24, 16, 9))])
    for seed in range(20):
        frames = colour(clip, pointwise, seed)
        assert frames.shape == clip.shape
        for frame, whole in zip(clip, frames, strict=True):
            assert np.array_equal(colour(frame, pointwise, seed), whole)
    # Contrast is that around the mean of the whole clip: the same value becomes the same value in all frames.
    dark, light = np.full((2, 4, 6, 3), 40, np.uint8), np.full((2, 4, 6, 3), 200, np.uint8)
    light[:, 0], dark[:, 0] = 90, 90
    changed = colour(np.concatenate([dark, light]), replace(PLAIN, contrast=1.0), 4)
    assert len(np.unique(changed[:, 0])) == 1 and not np.array_equal(changed[0], dark[0])


def test_factors_lie_within_their_limits_and_fill_them() -> None:
    gray = np.full((4, 4, 3), 100, np.uint8)
    levels = [int(colour(gray, replace(PLAIN, brightness=0.5), seed)[0, 0, 0]) for seed in range(400)]
    assert 50 <= min(levels) < 53 and 147 < max(levels) <= 150 and abs(np.mean(levels) - 100) < 5
    # Contrast of an even picture and saturation of a gray one change nothing.
    assert np.array_equal(colour(gray, replace(PLAIN, contrast=1.0, saturation=1.0), 3), gray)


def test_hue_turns_and_keeps_value() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[...] = 220, 40, 40
    turns = []
    for seed in range(200):
        r, g, b = colour(red, replace(PLAIN, hue=0.1), seed)[0, 0] / 255
        hue, _, value = colorsys.rgb_to_hsv(r, g, b)
        turns.append((hue + 0.5) % 1 - 0.5)
        assert abs(value - 220 / 255) < 0.02
    assert min(turns) < -0.09 and max(turns) > 0.09 and max(map(abs, turns)) < 0.11


def test_gray_and_blur_come_as_often_as_asked() -> None:
    grays = [np.ptp(colour(VIEW, replace(PLAIN, gray=0.3), seed), axis=-1).max() == 0 for seed in range(300)]
    assert 60 < sum(grays) < 120
    blurred = [colour(VIEW, replace(PLAIN, blur=0.3), seed) for seed in range(300)]
    changed = [view for view in blurred if not np.array_equal(view, VIEW)]
    assert 60 < len(changed) < 120
    assert all(view.std() < VIEW.std() and abs(view.mean() - VIEW.mean()) < 4 for view in changed)
    # A blur does not run from one frame of a clip into the next.
    clip = np.stack([np.zeros_like(VIEW), np.full_like(VIEW, 255)])
    assert np.array_equal(colour(clip, replace(PLAIN, blur=1.0), 1), clip)


def test_steps_come_in_every_order() -> None:
    bright = np.asarray(Image.new("RGB", (4, 4), (250, 10, 10)))
    # Clipped before the colours are mixed, or after: which of the two depends on the seed.
    kinds = {
        bool(colour(bright, replace(PLAIN, brightness=1.0, saturation=1.0), seed)[0, 0, 0] == 255) for seed in range(60)
    }
    assert kinds == {True, False}


def test_views_have_the_colours_that_the_settings_ask_for() -> None:
    records = [Record("n", partial(encoded, picture(12, 8)))]
    plain = Images(records, (8, 12), PLAIN).load(0, 5)
    assert np.array_equal(Images(records, (8, 12), ALL).load(0, 5), colour(plain, ALL, 5))
    config = configured("quickstart", "data.augment.hue=0.1", "data.augment.blur=0.5", "data.augment.brightness=0.3")
    augment = training_source(config).augment
    assert augment is not None and (augment.hue, augment.blur, augment.brightness, augment.gray) == (0.1, 0.5, 0.3, 0)
    # Centre cuts, which probes see, keep their colours.
    assert np.array_equal(Images(records, (8, 12)).load(0, 5), plain)


@pytest.mark.parametrize("wrong", ["brightness=1.5", "contrast=-0.1", "saturation=2", "hue=0.6", "gray=1.1", "blur=-1"])
def test_impossible_colours_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"data.augment.{wrong.partition('=')[0]}: expected a value from 0"):
        configured("quickstart", f"data.augment.{wrong}")
