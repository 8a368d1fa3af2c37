"""Which episodes a run trains on and holds back, with the slots that its settings ask for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jepa_causal.build import SlotShape
from jepa_causal.data import Cut, SlotWindows, action_scale, proprio_scale
from jepa_causal.encoder import SlotFrontEnd
from jepa_causal.episodes import Episode
from jepa_causal.settings import CausalDataSettings, CausalRun
from jepa_core.errors import ConfigError, DataError
from jepa_core.evaluation_source import Labelled, Split
from jepa_core.seeds import sample_seed

if TYPE_CHECKING:  # worlds import a physics engine
    from jepa_causal.slots.states import StateSlotSettings
    from jepa_causal.slots.training import SlotTraining
    from jepa_causal.worlds import World


@dataclass(frozen=True)
class EpisodeSplits:
    """Episodes with slots.

    Attributes:
        train: to train on.
        test: never trained on; may be empty.
        note: where they and their slots come from.
        left_out: why some were not taken, one line each.
    """

    train: tuple[Episode, ...]
    test: tuple[Episode, ...]
    note: str
    left_out: tuple[str, ...] = ()


# A run asks for its data more than once; those it asked for last, in this process.
_known: dict[str, EpisodeSplits] = {}


def episodes_of(config: CausalRun) -> EpisodeSplits:
    """The episodes of a configuration, made or read once in this process.

    With ``data.slots=learned`` process 0 trains the slot encoder where there is none yet; the others wait for it, so
    that all processes must call it together the first time.

    Raises:
        ValueError, DataError: settings that the world or the slots cannot have, or files that cannot be read.
    """
    key = f"{_key(config.data)} {config.data.max_bad_fraction} {config.runs_dir}"
    if key not in _known:
        found = _made(config)
        _known.clear()
        _known[key] = found
    return _known[key]


def _made(config: CausalRun) -> EpisodeSplits:
    data = config.data
    if data.slots == "files":
        return _of_files(data)
    train = tuple(_recorded(data, "train", data.episodes))
    test = tuple(_recorded(data, "test", data.test_episodes))
    if data.slots == "learned":
        return _learned(config, train, test)
    from jepa_causal.slots.states import StateSlots

    slots = StateSlots(state_slot_settings(data))
    note = f"recorded from the world {data.world}, slots are embedded states"
    return EpisodeSplits(tuple(slots.all(train)), tuple(slots.all(test)), note)


# --------------------------------------------------------------------------------------------------------------------
# Worlds
# --------------------------------------------------------------------------------------------------------------------


def world_of(data: CausalDataSettings) -> Any:
    """The world that the settings name, with all it can do: discs with their settings, others with their defaults."""
    from jepa_causal.worlds import open_world
    from jepa_causal.worlds.discs import Discs, DiscSettings

    if data.world != "discs":
        return open_world(data.world)
    try:
        return Discs(DiscSettings(fewest=data.objects_min, most=data.objects_max, repulsion=data.repulsion))
    except ValueError as error:
        raise ConfigError(f"data.objects_min, data.objects_max, data.repulsion: {error}") from None


def _recorded(data: CausalDataSettings, split: str, count: int) -> Iterator[Episode]:
    world: World = world_of(data)
    for index in range(count):
        # 32 bits are what every world's generator takes.
        episode = world.episode(sample_seed(data.seed, 0, f"{split} {index}") >> 31, data.steps)
        yield world.with_frames(episode, data.frame_size) if data.slots == "learned" else episode


def state_slot_settings(data: CausalDataSettings) -> StateSlotSettings:
    """The embedding of true states that the settings name."""
    from jepa_causal.slots.states import StateSlotSettings
    from jepa_causal.worlds.disc_state import PALETTE

    colour = 0 if data.world == "discs" else None
    return StateSlotSettings(width=data.slot_width, colours=len(PALETTE), colour_column=colour)


# --------------------------------------------------------------------------------------------------------------------
# Learned slots
# --------------------------------------------------------------------------------------------------------------------


def slot_folder(config: CausalRun) -> Path:
    """Where slot encoders of these episodes and settings, and their slots, are kept."""
    root = Path(config.data.root) if config.data.root is not None else Path(config.runs_dir) / "slots"
    return root / hashlib.sha256(_key(config.data).encode()).hexdigest()[:16]


def _learned(config: CausalRun, train: tuple[Episode, ...], test: tuple[Episode, ...]) -> EpisodeSplits:
    from jepa_causal.slots.storage import cached_slots, load_encoder
    from jepa_core.train.control import Control

    folder = slot_folder(config)

    def made() -> bool:
        trained = _train_where_needed(config, train, folder)
        model = load_encoder(folder)
        for split, episodes in (("train", train), ("test", test)):
            if episodes:
                cached_slots(model, episodes, folder, split)
        return trained

    trained = Control().first(made)
    model = load_encoder(folder)
    with_slots = [
        tuple(cached_slots(model, episodes, folder, split)) if episodes else ()
        for split, episodes in (("train", train), ("test", test))
    ]
    note = f"slots of an encoder {'trained for this run, kept' if trained else 'found'} in {folder}"
    return EpisodeSplits(with_slots[0], with_slots[1], note)


def _train_where_needed(config: CausalRun, train: tuple[Episode, ...], folder: Path) -> bool:
    """Trains and keeps the slot encoder where the folder has none, or one of other origin; whether it did."""
    from jepa_causal.slots.kept import origin, why_not
    from jepa_causal.slots.storage import save_encoder
    from jepa_causal.slots.training import train_slots

    plan, seed = slot_training(config.data), config.data.seed
    wanted = origin(plan, train, seed)
    reason = why_not(folder, wanted)
    if reason is None:
        return False
    if reason:
        _tell(f"slots: the encoder in {folder} is not used, another is trained: {reason}")
    device = "cuda" if config.trainer.device != "cpu" and torch.cuda.is_available() else "cpu"
    save_encoder(train_slots(train, plan, device, seed, _tell), folder, wanted)
    return True


def slot_training(data: CausalDataSettings) -> SlotTraining:
    """How the slot encoder that the settings name is trained."""
    from jepa_causal.slots.pixels import SlotSettings
    from jepa_causal.slots.training import SlotTraining, video_training

    model = SlotSettings(
        mode=data.slot_mode,
        resolution=data.frame_size,
        slots=data.slot_count or data.objects_max + 1,
        width=data.slot_width,
    )
    plan = video_training(model) if data.slot_mode == "video" else SlotTraining(model)
    return replace(plan, steps=data.slot_steps, warmup=min(plan.warmup, data.slot_steps))


def _tell(line: str) -> None:
    print(line, flush=True)


def _key(data: CausalDataSettings) -> str:
    """What episodes and slots depend on, as text."""
    facts = {name: value for name, value in asdict(data).items() if name not in ("workers", "max_bad_fraction")}
    return json.dumps({**facts, "frame_skip": 0}, sort_keys=True)


# --------------------------------------------------------------------------------------------------------------------
# Extracted slots
# --------------------------------------------------------------------------------------------------------------------


def _of_files(data: CausalDataSettings) -> EpisodeSplits:
    """All usable episodes, kept in memory; the last of them are held back."""
    from jepa_causal.slots.files import SlotFiles

    assert data.root is not None, "checked with the settings"
    found = SlotFiles(data.root, slots=data.slot_count).usable()
    total, bad = len(found.episodes) + len(found.rejected), len(found.rejected)
    if bad and bad > max(data.max_bad_fraction > 0, data.max_bad_fraction * total):
        raise DataError(
            f"{data.root}: {bad} of {total} episodes cannot be used, data.max_bad_fraction={data.max_bad_fraction} "
            f"allows fewer; the first: {found.rejected[0][1]}"
        )
    if data.test_episodes >= len(found.episodes):
        raise DataError(
            f"data.test_episodes: expected fewer than the {len(found.episodes)} usable episodes of {data.root}, got "
            f"{data.test_episodes}; 0 holds back none"
        )
    split = len(found.episodes) - data.test_episodes
    train, test = tuple(found.episodes[:split]), tuple(found.episodes[split:])
    return EpisodeSplits(train, test, f"read from {data.root}", tuple(reason for _, reason in found.rejected))


# --------------------------------------------------------------------------------------------------------------------
# Windows and their scales
# --------------------------------------------------------------------------------------------------------------------


def cut_of(config: CausalRun) -> Cut:
    """How windows are cut, with the streams that the training episodes have and the settings want."""
    first, causal = episodes_of(config).train[0], config.causal
    return Cut(
        causal.history + causal.future,
        config.data.frame_skip,
        presence="all" if config.data.slots == "learned" else "given",
        actions=causal.actions == "auto" and first.actions is not None,
        proprio=causal.proprio == "auto" and first.proprio is not None,
    )


def check_scored(config: CausalRun) -> None:
    """Refuses data that a run could train on and, at its end, not be scored on; nothing to say where none is held back.

    Raises:
        DataError: fewer than two training episodes, or no test episode, that are as long as a window.
    """
    found, span = episodes_of(config), cut_of(config).span
    if not found.test:
        return
    for name, episodes, least in (("training", found.train, 2), ("test", found.test, 1)):
        enough = sum(episode.steps >= span for episode in episodes)
        if enough < least:
            raise DataError(
                f"probe: expected {least} or more {name} episodes of at least the {span} frames of a window, got "
                f"{enough} of {len(episodes)}; give more or longer ones, or set probe.enabled=false"
            )


def training_windows(config: CausalRun) -> SlotWindows:
    """All windows of the training episodes."""
    return SlotWindows(episodes_of(config).train, cut_of(config))


def slot_shape(config: CausalRun) -> SlotShape:
    """K and D of the training episodes."""
    windows = training_windows(config)
    return SlotShape(windows.slots, windows.width)


def front_end_of(config: CausalRun) -> SlotFrontEnd:
    """Scales of actions and proprioception of the training episodes."""
    cut, train = cut_of(config), episodes_of(config).train
    return SlotFrontEnd(
        action_scale(train, cut.frame_skip) if cut.actions else None,
        proprio_scale(train) if cut.proprio else None,
    )


def labelled_windows(config: CausalRun, split: Split) -> Labelled | None:
    """Windows of a split with their episode as group and its label; None where the split is empty."""
    found = episodes_of(config)
    episodes = {"train": found.train, "test": found.test, "all": (*found.train, *found.test)}[split]
    if not episodes:
        return None
    windows = SlotWindows(episodes, cut_of(config))
    places = np.array([windows.place(index)[0] for index in range(len(windows))])
    of = [windows.episodes[place] for place in places]
    return Labelled(windows, [episode.label for episode in of], [episode.episode_id for episode in of])
