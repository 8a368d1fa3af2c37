"""A sensor of your own in one file: 5-second windows of a wrist's 6-axis motion (acceleration in g, turning in rad/s).

    jepa train modality=examples/own_modality.py          # trains, probes against controls, writes report.html
    jepa train modality=examples/own_modality.py --help   # every setting, yours included

Persons are simulated; recordings of your own are read in ``MotionWindows.read``. Label and group are for the probe.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from jepa_core.contracts import Grid
from jepa_core.energy import SmoothL1
from jepa_core.lattice import Lattice
from jepa_core.masking.time import TimeMasker
from jepa_core.methods.choices import variance_terms
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.modality import Item, ItemSource, SimpleModality, SimpleRun
from jepa_core.nn.patch_encoder import PatchEncoder, Patches, Size
from jepa_core.nn.predictor import TransformerPredictor
from jepa_core.nn.transformer import draw_linear
from jepa_core.settings import OptimizerSettings, TrainerSettings
from jepa_core.targets import EmaTarget, LayerNormalise, MomentumSchedule

AXES, RATE_HZ, READINGS, PATCH = 6, 50, 256, 8
# Strokes a second, their strength in g, share of the second harmonic, trembling in g.
ACTIVITIES = {
    "walking": (1.8, 0.40, 0.4, 0.10),
    "stairs": (1.5, 0.45, 0.8, 0.12),
    "running": (2.6, 0.90, 0.3, 0.20),
    "cycling": (1.3, 0.25, 0.1, 0.25),
    "washing up": (2.1, 0.30, 0.9, 0.25),
}


@dataclass
class MotionSettings:
    """Settings of your own; --help shows what stands here.

    Attributes:
        persons: simulated; every fourth is held back for the probe.
        windows: of each person and activity.
        hidden: share of the time that must be predicted.
    """

    persons: int = 32
    windows: int = 12
    hidden: float = 0.6


@dataclass
class MotionRun(SimpleRun):
    """The settings of every run, with the values that this sensor starts from."""

    motion: MotionSettings = field(default_factory=MotionSettings)
    trainer: TrainerSettings = field(default_factory=lambda: TrainerSettings(600, batch_size=32, clip_norm=1.0))
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=2e-3, weight_decay=0.05))


class MotionWindows(ItemSource):
    """Windows ``[6, 256]``; in training (``moved``) each begins a little later, on a wrist turned another way."""

    def __init__(self, settings: MotionSettings, fourths: tuple[int, ...], moved: bool) -> None:
        persons = [person for person in range(settings.persons) if person % 4 in fourths]
        rows = [(p, a, w) for p in persons for a in ACTIVITIES for w in range(settings.windows)]
        super().__init__([Item(f"person{p}/{a}/{w}", a, f"person{p}", (p, a, w)) for p, a, w in rows])
        self.moved = moved

    def read(self, item: Item, seed: int) -> Tensor:
        person, activity, window = item.where
        own, here = np.random.default_rng(person), np.random.default_rng((person, window, len(activity)))
        worn, _ = np.linalg.qr((np.random.default_rng(seed) if self.moved else own).normal(size=(3, 3)))
        pace, strength, second, tremble = ACTIVITIES[activity] * own.lognormal(0, (0.1, 0.4, 0.1, 0.1))
        seconds = (np.arange(READINGS) + (seed % 64 if self.moved else 0)) / RATE_HZ
        beat = 2 * np.pi * (pace * seconds + here.uniform())
        swing = np.stack([np.sin(beat), second * np.sin(2 * beat + 1), np.cos(beat) / 2])
        force = worn @ (strength * swing + [[0], [0], [1]]) + here.normal(0, tremble, (3, READINGS))
        turning = worn @ (3 * strength * np.roll(swing, 1, 0)) + here.normal(0, 3 * tremble, (3, READINGS))
        return torch.from_numpy(np.concatenate([force, turning])).float()


class MotionFrontEnd(nn.Module):
    """``[B, 6, 256]`` to 32 patches of 8 readings of all axes."""

    lattice = Lattice(("t",), (READINGS // PATCH,), (PATCH / RATE_HZ,), ("s",), (PATCH / RATE_HZ / 2,))

    def forward(self, inputs: Tensor, seeds: Tensor) -> tuple[Patches, Grid]:
        return Patches(inputs.unfold(2, PATCH, PATCH).transpose(1, 2).flatten(2), self.lattice), Grid(self.lattice)


class MotionModality(SimpleModality):
    name, schema = "own_modality", MotionRun

    def build(self, config: MotionRun) -> MaskedPrediction:
        lattice = MotionFrontEnd.lattice
        encoder = PatchEncoder(Size(64, 3, 4, 256), AXES * PATCH, lattice, stem="mlp")
        draw_linear(encoder, "xavier")
        return MaskedPrediction(
            front_end=MotionFrontEnd(),
            encoder=encoder,
            target=EmaTarget(encoder, "follow", MomentumSchedule(0.99, 1.0, config.trainer.max_steps)),
            masker=TimeMasker(config.motion.hidden, length=3),
            predictor=TransformerPredictor(lattice, 64, width=48, depth=2, heads=4),
            energy=SmoothL1(),
            regularisers=variance_terms(0.1, of="samples"),
            normaliser=LayerNormalise(),
        )

    def sources(self, config: MotionRun) -> MotionWindows:
        return MotionWindows(config.motion, (1, 2, 3), moved=True)

    def evaluation(self, config: MotionRun, split: str) -> MotionWindows:
        fourths = {"train": (1, 2, 3), "test": (0,), "all": (0, 1, 2, 3)}[split]
        return MotionWindows(config.motion, fourths, moved=False)


MODALITY = MotionModality()
