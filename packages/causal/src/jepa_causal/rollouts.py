"""A predictor's rollouts as pictures: the removal that changes most of the test episodes, and what slots see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_causal.baselines import Forecaster, MethodForecaster
from jepa_causal.clips import AFFECTED, Clips
from jepa_causal.episodes import Episode
from jepa_causal.evaluation import EvaluationData, Prepared, data_of, prepared_of, slot_masks
from jepa_causal.filmstrip import Film, Floats, Line, filmstrip, moving_picture
from jepa_causal.pictures import SLOT_COLOURS, slot_picture
from jepa_causal.probe import NO_SLOT
from jepa_causal.settings import CausalRun
from jepa_causal.worlds.disc_state import DISC_ATTRIBUTES
from jepa_core.contracts import Method
from jepa_core.results import Picture

MOVING_FUTURES = 3
"""A moving picture shows so many windows' futures, one rolled out after the other, where the episode is as long."""

SLOT_STEPS = 6
_RADIUS = 0.03  # of objects whose world does not tell

_CHOSEN = "The test window in which a removal moves an object most, chosen by the truth alone."
_PLAIN = "Discs are the truth, rings the trained predictor's positions, read from slots; a line joins the two."
_DASHED = "Dashed: its prediction, not told of the removal, of an object that the removal moves."


@dataclass(frozen=True)
class Scene:
    """What is shown.

    Attributes:
        clip: which window.
        removed: the object that is removed at the last history step; None: none.
    """

    clip: int
    removed: int | None


def run_pictures(config: CausalRun, trained: Method, device: torch.device) -> list[Picture]:
    """Rollouts of a run's trained predictor on its test episodes; none where positions are not known.

    Args:
        config: of the run; it must hold back episodes.
        trained: on ``device``.
        device: where it computes.
    """
    data = data_of(config)
    ready = prepared_of(config, data)
    return [] if ready is None else rollout_pictures(data, ready, MethodForecaster(trained, device))


def rollout_pictures(data: EvaluationData, ready: Prepared, forecaster: Forecaster) -> list[Picture]:
    """A filmstrip over one window, a moving picture of more, and for slots of an encoder what each explains."""
    scene = telling_scene(ready)
    strip = film_of(data, ready, forecaster, scene, data.future)
    moving = film_of(data, ready, forecaster, scene, _room(data, ready, scene))
    caption = _PLAIN if scene.removed is None else f"{_CHOSEN} {_PLAIN} {_DASHED}"
    found = [filmstrip(strip, "Rollout", caption), moving_picture(moving, "Rollout, moving", caption)]
    if data.encoder is not None:
        found.append(_slots_seen(data, ready.clips, scene))
    return found


def telling_scene(ready: Prepared) -> Scene:
    """The removal that moves an object most; without any, the window with the most contacts ahead."""
    assert ready.clips.truth is not None
    removed = ready.removed
    if removed is None or not len(removed.cases):
        ahead = ready.clips.truth.contacts[:, ready.clips.history :].flatten(1).sum(1)
        return Scene(int(ahead.argmax()), None)
    true = ready.clips.truth.xy[removed.cases.clip, -1, removed.cases.object]
    most = int((true - removed.xy).square().sum(-1).argmax())
    return Scene(int(removed.cases.clip[most]), int(removed.removed[most]))


def _room(data: EvaluationData, ready: Prepared, scene: Scene) -> int:
    """Steps of the moving picture: as many as the episode holds after the history."""
    start = int(ready.clips.start[scene.clip]) + data.history
    return min(MOVING_FUTURES * data.future, _episode(data, ready, scene).steps - start)


def _episode(data: EvaluationData, ready: Prepared, scene: Scene) -> Episode:
    return data.test[int(ready.clips.episode[scene.clip])]


def film_of(data: EvaluationData, ready: Prepared, forecaster: Forecaster, scene: Scene, steps: int) -> Film:
    """What happened and what was predicted over ``steps``; with a removal, both again without the object."""
    episode, start = _episode(data, ready, scene), int(ready.clips.start[scene.clip])
    whole = slice(start, start + data.history + steps)
    assert episode.states is not None
    xy = episode.states[whole, :, :2].astype(np.float64)
    there = episode.present
    present = np.ones(xy.shape[:2], dtype=np.bool_) if there is None else there[whole]
    factual = _predicted(ready, forecaster, scene.clip, None, steps)
    lines = [Line("as it happened", xy, present, factual)]
    if scene.removed is not None:
        lines.append(_without(data, ready, forecaster, scene, lines[0]))
    radius, colours = _looks(data, episode)
    return Film(lines, data.history, radius, colours, scene.removed)


def _without(data: EvaluationData, ready: Prepared, forecaster: Forecaster, scene: Scene, line: Line) -> Line:
    """The line of the same window in which one object is removed at the last history step."""
    assert scene.removed is not None and data.resume is not None
    last, steps = int(ready.clips.start[scene.clip]) + data.history - 1, len(line.predicted)
    again = data.resume(_episode(data, ready, scene), last, steps, scene.removed)[..., :2]
    xy, present = line.xy.copy(), line.present.copy()
    xy[data.history :] = again
    present[data.history - 1 :, scene.removed] = False
    predicted = _predicted(ready, forecaster, scene.clip, scene.removed, steps)
    still = np.linalg.norm(again - line.xy[data.history :], axis=-1).max(0) <= AFFECTED
    still[scene.removed] = True
    ignored = np.where(still[:, None], np.nan, line.predicted)
    return Line("one object removed", xy, present, predicted, ignored)


def _predicted(ready: Prepared, forecaster: Forecaster, clip: int, removed: int | None, steps: int) -> Floats:
    """Positions ``[steps, N, 2]``; NaN for objects without a slot, and for the removed one."""
    assert ready.clips.truth is not None
    slot = ready.clips.truth.slot[clip].clone()
    past = ready.clips.past().at(torch.tensor([clip]))
    if removed is not None:
        past = past.without(slot[removed : removed + 1])
        slot[removed] = NO_SLOT
    xy = ready.probe(forecaster.forecast(past, steps)[0][:, slot.clamp_min(0)])
    return np.asarray(xy.masked_fill((slot == NO_SLOT)[:, None], torch.nan).numpy())


def _looks(data: EvaluationData, episode: Episode) -> tuple[Floats, Floats]:
    """Radius ``[N]`` and colours ``[N, 3]`` of the objects, as discs have them; others get a small round mark."""
    assert episode.states is not None
    count, table = episode.states.shape[1], episode.attributes
    if data.resume is not None and table is not None and table.shape[1] == len(DISC_ATTRIBUTES):
        first = DISC_ATTRIBUTES.index("red")
        return table[:, DISC_ATTRIBUTES.index("radius")].astype(float), table[:, first : first + 3].astype(float)
    from matplotlib.colors import to_rgb

    colours = [to_rgb(SLOT_COLOURS[(place + 1) % len(SLOT_COLOURS)]) for place in range(count)]
    return np.full(count, _RADIUS), np.array(colours)


def _slots_seen(data: EvaluationData, clips: Clips, scene: Scene) -> Picture:
    assert data.encoder is not None
    episode, start = data.test[int(clips.episode[scene.clip])], int(clips.start[scene.clip])
    steps: NDArray[np.int64] = np.arange(start, start + min(SLOT_STEPS, clips.slots.shape[1]))
    assert episode.frames is not None and episode.segments is not None
    masks = slot_masks(data.encoder, episode, steps)
    return slot_picture(episode.frames[steps], masks, episode.segments[steps], "Neighbouring steps of a test episode.")
