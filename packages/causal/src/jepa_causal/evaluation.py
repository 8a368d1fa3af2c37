"""What a run ends with: forecast, completion and counterfactual errors of predictors, trained and not, and controls.

The protocol: positions are read from slots by a ridge probe fitted on the slots of training episodes; windows of test
episodes are predicted ``future`` steps ahead. Objects keep their slot where slots are made of states. Slots of an
encoder are matched to objects by the overlap of their masks with the true segments where the probe is fitted (frame by
frame), and by the distance of their probed position at the last history step where predictors are scored (one slot for
the whole window).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_causal.baselines import ConstantVelocity, CopyLast, Forecaster, MethodForecaster, fit_own_linear
from jepa_causal.clips import Clips, Removals, Resume, cut_clips, removals, truth_of
from jepa_causal.data import Presence, model_steps
from jepa_causal.episodes import Episode
from jepa_causal.probe import NO_SLOT, PositionProbe, fit_position_probe, match_by_position
from jepa_causal.scoring import (
    COUNTERFACTUAL,
    FG_ARI,
    LEFT_IN,
    OVERLAP,
    SLOTS,
    PositionScores,
    SlotScores,
    matched_share,
    slot_quality,
)
from jepa_causal.settings import CausalRun
from jepa_causal.slots.pixels import SlotAutoencoder
from jepa_causal.slots.storage import load_encoder
from jepa_causal.sources import episodes_of, slot_folder, world_of
from jepa_causal.worlds.changes import Remove
from jepa_causal.worlds.discs import Discs
from jepa_core.contracts import Method
from jepa_core.results import Measurement, ProbeTable

TRAINED, UNTRAINED, COPY, STRAIGHT = "trained", "untrained", "raw", "constant velocity"
LINEAR = "linear, own last two slots"
_ROWS = (
    "raw: the slot last seen is kept, of a hidden object the first; untrained: with residual=last_visible nearly the "
    f"same, as training starts from there. {LINEAR}: ridge regression, which knows nothing of other objects."
)

PROBE_EPISODES = 200
"""Training episodes that the probe and the linear control are fitted on, at most."""

FRAMES = 10
"""Frames of an episode on which slots of an encoder are compared with segments."""


@dataclass(frozen=True)
class EvaluationData:
    """What predictors are scored on.

    Attributes:
        train, test: episodes with slots, at model steps.
        history, future: steps of a window.
        encoder: that made the slots from frames; None: slots are those of the objects, in their order, or, without
            states, of unknown make.
        resume: simulates a test episode again; None where the world cannot.
    """

    train: Sequence[Episode]
    test: Sequence[Episode]
    history: int
    future: int
    encoder: SlotAutoencoder | None = None
    resume: Resume | None = None

    @property
    def has_positions(self) -> bool:
        """Whether the truth is known of all episodes."""
        return all(episode.states is not None for episode in (*self.train, *self.test))

    @property
    def presence(self) -> Presence:
        """See :class:`jepa_causal.data.Cut`."""
        return "given" if self.encoder is None else "all"

    def clips(self) -> Clips:
        """Windows of the test episodes, truth not yet set."""
        return cut_clips(self.test, self.history, self.future, self.presence)


def evaluate(config: CausalRun, trained: Method, untrained: Method, device: torch.device) -> ProbeTable:
    """What a run of the causal modality ends with; see :func:`evaluate_slots`.

    Args:
        config: of the run; it must hold back episodes.
        trained, untrained: methods of this configuration, on ``device``.
        device: where they compute.
    """
    data = data_of(config)
    return evaluate_slots(data, prepared_of(config, data), trained, untrained, device)


# A run asks for pictures and figures of the same episodes; what it asked for last, in this process.
_known: dict[str, Prepared] = {}


def prepared_of(config: CausalRun, data: EvaluationData) -> Prepared | None:
    """:func:`prepare` of a configuration's data, once in this process; None where positions are not known."""
    if not data.has_positions:
        return None
    key = f"{asdict(config.data)} {config.runs_dir} {data.history} {data.future}"
    if key not in _known:
        found = prepare(data)
        _known.clear()
        _known[key] = found
    return _known[key]


def data_of(config: CausalRun) -> EvaluationData:
    """The episodes of a configuration as they are scored, at model steps.

    Episodes of discs can be simulated again, those of other worlds are not: nothing in them can be removed.
    """
    found, data = episodes_of(config), config.data
    skip = data.frame_skip
    train, test = ([model_steps(episode, skip) for episode in split] for split in (found.train, found.test))
    again = world_of(data) if data.world == "discs" and data.slots != "files" else None
    return EvaluationData(
        train,
        test,
        config.causal.history,
        config.causal.future,
        load_encoder(slot_folder(config)) if data.slots == "learned" else None,
        None if again is None else discs_again(again, found.test, skip),
    )


def evaluate_slots(
    data: EvaluationData, ready: Prepared | None, trained: Method, untrained: Method, device: torch.device
) -> ProbeTable:
    """The table of a trained and an untrained predictor and every control.

    Args:
        data: see there.
        ready: of these data; None: scored on the slots themselves.
        trained, untrained: on ``device``.
        device: where they compute.
    """
    forecasters: dict[str, Forecaster] = {
        TRAINED: MethodForecaster(trained, device),
        UNTRAINED: MethodForecaster(untrained, device),
        COPY: CopyLast(),
        STRAIGHT: ConstantVelocity(),
        LINEAR: fit_own_linear(data.train[:PROBE_EPISODES], data.history, data.future, data.presence),
    }
    return slot_table(data, forecasters) if ready is None else position_table(data, ready, forecasters)


@dataclass(frozen=True)
class Prepared:
    """What is made once for all predictors of a data set.

    Attributes:
        clips: with truth.
        probe: slots to positions.
        removed: None where the world cannot be simulated again.
    """

    clips: Clips
    probe: PositionProbe
    removed: Removals | None


def prepare(data: EvaluationData) -> Prepared:
    """Fits the probe, finds the objects of the test windows and simulates what removals change.

    Raises:
        DataError: episodes shorter than a window, or a simulation that does not repeat what is stored.
        ValueError: too few training episodes for a probe.
    """
    probe = _fit_probe(data)

    def match(slots_BKD: Tensor, xy_BN2: Tensor, present_BN: Tensor) -> Tensor:
        if data.encoder is None:
            own = torch.arange(present_BN.shape[1]).expand(present_BN.shape)
            return own.masked_fill(~present_BN, NO_SLOT)
        return match_by_position(probe(slots_BKD), xy_BN2, present_BN)

    clips = data.clips()
    truth = truth_of(clips, data.test, match)
    found = None if data.resume is None else removals(clips, truth, data.test, data.resume)
    return Prepared(replace(clips, truth=truth), probe, found)


def position_table(data: EvaluationData, ready: Prepared, forecasters: Mapping[str, Forecaster]) -> ProbeTable:
    """Rows of the forecasters, of the trained one not told of a removal, and of the controls that predict nothing."""
    scores = PositionScores(ready.clips, ready.probe, ready.removed)
    for name, forecaster in forecasters.items():
        scores.add(name, forecaster)
        if name == TRAINED:
            scores.add_left_in(name, forecaster)
    scores.add_factual()
    scores.add_slots()
    if data.encoder is not None:
        scores.rows[SLOTS] |= _quality(data.encoder, data.test)
    return scores.table(_note(scores, ready, data))


def slot_table(data: EvaluationData, forecasters: Mapping[str, Forecaster]) -> ProbeTable:
    """Errors of slots, for data without known positions."""
    scores = SlotScores(data.clips())
    for name, forecaster in forecasters.items():
        scores.add(name, forecaster)
    return scores.table(
        f"Lower is better: error of slots {data.future} steps ahead, and of slots hidden after the first of "
        f"{data.history} steps, as the root of the share of their variance (1: as good as the mean slot); positions "
        f"are not known here. {_ROWS} Errors are over episodes."
    )


def _note(scores: PositionScores, ready: Prepared, data: EvaluationData) -> str:
    parts = [
        f"Lower is better: root mean squared distance, in widths of the world, from the true position {data.future} "
        f"steps ahead (completion: at the steps hidden after the first of {data.history}), read from slots by a ridge "
        f"probe (error {ready.probe.rmse:.3f} on training episodes left out). {scores.counts()}; errors are over "
        f"episodes. {_ROWS}"
    ]
    told = scores.difference((LEFT_IN.format(TRAINED), COUNTERFACTUAL), (TRAINED, COUNTERFACTUAL))
    if told is not None:
        change = f"{abs(told.value):.3f}" + ("" if told.stderr is None else f" ± {told.stderr:.3f}")
        way = "lowers" if told.value >= 0 else "raises"
        parts.append(f"Being told of the removal {way} the trained predictor's counterfactual error by {change}.")
    if ready.clips.truth is not None and data.encoder is not None:
        parts.append(
            f"{matched_share(ready.clips.truth):.0%} of the objects have a slot of their own. FG-ARI and mBO score the "
            "slots' masks against the true segments, frame by frame; there, higher is better."
        )
    return " ".join(parts)


# --------------------------------------------------------------------------------------------------------------------
# Slots against objects
# --------------------------------------------------------------------------------------------------------------------


def _fit_probe(data: EvaluationData) -> PositionProbe:
    """The probe, on slots of training episodes whose object is known."""
    slots, xy, episodes = [], [], []
    for number, episode in enumerate(data.train[:PROBE_EPISODES]):
        assert episode.states is not None and episode.slots is not None
        steps = _spread(episode.steps) if data.encoder is not None else np.arange(episode.steps)
        own = _slots_of_objects(episode, steps, data.encoder)
        step, place = np.nonzero(own != NO_SLOT)
        slots.append(torch.from_numpy(episode.slots[steps[step], own[step, place]]))
        xy.append(torch.from_numpy(episode.states[steps[step], place, :2]))
        episodes.append(torch.full((len(step),), number))
    return fit_position_probe(torch.cat(slots), torch.cat(xy), torch.cat(episodes))


def _slots_of_objects(episode: Episode, steps: NDArray[np.int64], encoder: SlotAutoencoder | None) -> NDArray[np.int64]:
    """The slot of each object at some steps, ``[S, N]``; ``NO_SLOT`` where it is not there or not to be seen."""
    assert episode.states is not None
    shape = len(steps), episode.states.shape[1]
    present = np.ones(shape, dtype=np.bool_) if episode.present is None else episode.present[steps]
    if encoder is None:
        return np.where(present, np.arange(shape[1]), NO_SLOT)
    from jepa_causal.slots.scores import slots_of_objects

    segments = torch.from_numpy(_segments(episode)[steps])
    found = slots_of_objects(best_slots(encoder, episode, steps), segments, shape[1])
    return np.where(present, found.numpy(), NO_SLOT)


def _segments(episode: Episode) -> NDArray[np.uint8]:
    if episode.segments is None:
        raise ValueError(f"episode {episode.episode_id}: expected segments beside learned slots, got none")
    return episode.segments


@torch.no_grad()
def slot_masks(encoder: SlotAutoencoder, episode: Episode, steps: NDArray[np.int64]) -> Tensor:
    """Share of each pixel that a slot explains, on the CPU, ``[S, K, H, W]`` in the size of the segments."""
    assert episode.slots is not None
    device = next(encoder.parameters()).device
    _, masks = encoder.decode(torch.from_numpy(episode.slots[steps])[None].to(device))
    size = _segments(episode).shape[1:]
    return nn.functional.interpolate(masks[0].float(), size=size, mode="bilinear").cpu()


def best_slots(encoder: SlotAutoencoder, episode: Episode, steps: NDArray[np.int64]) -> Tensor:
    """The slot that explains each pixel best, int64 ``[S, H, W]``."""
    return slot_masks(encoder, episode, steps).argmax(1)


def _spread(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(FRAMES, count)).round().astype(np.int64))


def _quality(encoder: SlotAutoencoder, episodes: Sequence[Episode]) -> dict[str, Measurement]:
    """FG-ARI and mBO, frame by frame; higher is better."""
    from jepa_causal.slots.scores import fg_ari, mean_best_overlap

    found: dict[str, list[float]] = {FG_ARI: [], OVERLAP: []}
    for episode in episodes[:PROBE_EPISODES]:
        steps = _spread(episode.steps)
        best, segments = best_slots(encoder, episode, steps), torch.from_numpy(_segments(episode)[steps])
        found[FG_ARI].append(float(fg_ari(best, segments).nanmean()))
        found[OVERLAP].append(float(mean_best_overlap(best, segments).nanmean()))
    return {name: slot_quality(values) for name, values in found.items()}


# --------------------------------------------------------------------------------------------------------------------
# Worlds
# --------------------------------------------------------------------------------------------------------------------


def discs_again(world: Discs, originals: Sequence[Episode], frame_skip: int = 1) -> Resume:
    """How test episodes of discs are simulated again.

    Args:
        world: with the settings they were recorded with.
        originals: as recorded, with every frame.
        frame_skip: frames of a model step.
    """
    recorded = {episode.episode_id: episode for episode in originals}

    def resume(episode: Episode, step: int, steps: int, removed: int | None) -> NDArray[np.float32]:
        changes = [] if removed is None else [Remove(removed)]
        again = world.resume(recorded[episode.episode_id], step * frame_skip, steps * frame_skip + 1, changes)
        assert again.states is not None
        return again.states[frame_skip::frame_skip]

    return resume
