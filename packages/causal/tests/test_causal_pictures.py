"""Pictures of masks, slots and rollouts show what they are given; moving ones are whole files that browsers play."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_causal.build import SlotShape, build_method
from jepa_causal.encoder import SlotFrontEnd
from jepa_causal.filmstrip import HOLD_LAST, MILLISECONDS, Film, Line, filmstrip, moving_picture
from jepa_causal.frames import _frames, window_pngs
from jepa_causal.pictures import STATES, _states, mask_pictures, slot_picture
from jepa_causal.settings import CausalRun, CausalSettings
from jepa_causal.sources import episodes_of, world_of
from jepa_causal.windows import SlotWindow
from jepa_core.contracts import Batch
from jepa_core.thumbnails import joined_png

PNG = b"\x89PNG\r\n\x1a\n"
STEPS, OBJECTS, HISTORY = 8, 3, 5


def film(lines: int = 2) -> Film:
    xy = np.full((STEPS, OBJECTS, 2), 0.2) + np.arange(STEPS)[:, None, None] * 0.05
    present = np.ones((STEPS, OBJECTS), dtype=bool)
    predicted = xy[HISTORY:] + 0.02
    predicted[:, 2] = np.nan  # nothing is said of an object without a slot
    found = [Line("as it happened", xy, present, predicted), Line("one removed", xy, present, predicted, predicted)]
    return Film(found[:lines], HISTORY, np.full(OBJECTS, 0.09), np.eye(3), 0 if lines > 1 else None)


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(PNG)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_filmstrip_has_a_row_a_line_and_changes_with_the_prediction() -> None:
    one, two = filmstrip(film(1), "Rollout", "").png, filmstrip(film(2), "Rollout", "").png
    assert pixels(two).shape[0] > 1.5 * pixels(one).shape[0] and pixels(two).shape[1] == pixels(one).shape[1]
    lines = film(2).lines
    moved = replace(film(2), lines=[lines[0], replace(lines[1], predicted=lines[1].predicted + 0.1)])
    assert (pixels(filmstrip(moved, "", "").png) != pixels(two)).any()


def test_moving_picture_is_a_gif_of_every_step_that_rests_on_the_last() -> None:
    picture = moving_picture(film(), "", "")
    data = picture.png
    image = cast(Any, Image.open(io.BytesIO(data)))
    assert (
        image.format == "GIF"
        and picture.suffix == ".gif"
        and image.info["loop"] == 0
        and image.n_frames == STEPS
        and image.is_animated
    )
    assert len(data) < 300_000
    image.seek(0)
    first, length = np.asarray(image.convert("RGB")).astype(int), image.info["duration"]
    image.seek(STEPS - 1)
    assert length == MILLISECONDS and image.info["duration"] == MILLISECONDS * HOLD_LAST
    assert (np.asarray(image.convert("RGB")).astype(int) != first).any()


def masked(present: torch.Tensor | None, kind: str = "object") -> tuple[Any, Batch]:
    options = CausalSettings()
    options.masking.kind, options.masking.masked_objects = cast(Any, kind), [1, 1]
    method = build_method(options, SlotShape(4, 16), SlotFrontEnd())
    window = SlotWindow(torch.zeros(6, STEPS, 4, 16), present)
    return method, Batch(window, torch.arange(6), tuple("abcdef"))


def test_mask_picture_tells_seen_hidden_future_and_absent_apart() -> None:
    present = torch.ones(6, STEPS, 4, dtype=torch.bool)
    present[:, :, 3] = False
    method, batch = masked(present)
    grid, (mask,) = method.masks(batch)
    states, names = _states(grid, mask), list(STATES)
    assert states.shape == (4, 4, STEPS)
    assert (states[:, 3] == names.index("no object")).all()
    assert (states[:, :3, HISTORY:] == names.index("hidden, future")).all()
    assert (states[:, :3, 0] == names.index("seen")).all()  # the anchor
    assert ((states[:, :, 1:HISTORY] == names.index("hidden, history")).sum((1, 2)) == HISTORY - 1).all()
    (picture,) = mask_pictures(method, batch)
    assert picture.title == "Mask" and "anchor" in picture.caption and pixels(picture.png).std() > 0


@pytest.mark.parametrize("kind", ["token", "tube"])
def test_other_masks_can_be_drawn(kind: str) -> None:
    (picture,) = mask_pictures(*masked(None, kind))
    assert kind in picture.caption and picture.png.startswith(PNG)


def test_slot_picture_colours_the_best_slot() -> None:
    frames = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    segments = np.zeros((3, 8, 8), dtype=np.uint8)
    segments[:, 2:5, 2:5] = 1
    masks = np.stack([segments == 0, segments == 1], 1).astype(float)
    swapped = pixels(slot_picture(frames, masks[:, ::-1], segments).png)
    drawn = slot_picture(frames, torch.from_numpy(masks), segments, "A test.")
    assert drawn.caption.startswith("A test.") and (pixels(drawn.png) != swapped).any()
    assert pixels(slot_picture(frames, masks).png).shape[0] < pixels(drawn.png).shape[0]


def test_a_window_is_drawn_from_its_frames_or_by_its_world() -> None:
    config = CausalRun()
    config.data.episodes, config.data.test_episodes, config.data.steps = 2, 2, 12
    config.causal.history, config.causal.future = 3, 2
    found = episodes_of(config)
    name = found.test[0].episode_id
    (drawn,) = window_pngs(config, [f"{name}/4"])
    assert drawn is not None and Image.open(io.BytesIO(drawn)).size == (3 * 64 + 4, 64)
    # The same steps of the whole episode's frames.
    frames = world_of(config.data).with_frames(found.test[0], 64).frames
    assert frames is not None
    held = replace(found.test[0], frames=frames)
    for episode, slots in ((held, "state"), (held, "files")):
        config.data.slots = slots  # type: ignore[assignment]  # of these two
        steps = np.array([4, 6, 8])
        again = _frames(config.data, episode, steps)
        assert again is not None and joined_png(list(again)) == drawn
    assert _frames(config.data, found.test[0], np.array([4])) is None  # nobody knows what others' slots are of
