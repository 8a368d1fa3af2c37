"""A sensor of your own in one file: 5-second windows of a wrist's 6-axis motion (acceleration in g, turning in rad/s).

    jepa train modality=examples/own_modality.py          # trains, probes against controls, writes report.html
    jepa embed runs/own_modality-quickstart out=motion.parquet
    jepa train modality=examples/own_modality.py --help   # every setting, yours included

Persons are simulated here: each has a pace, a strength and a way of wearing the sensor. For recordings of your own,
read them in ``MotionWindows.load``; label and group (the person) are for the probe alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from jepa_core.contracts import Grid
from jepa_core.energy import SmoothL1
from jepa_core.evaluate.heads import ProbeSettings
from jepa_core.evaluation_source import Split
from jepa_core.lattice import Lattice
from jepa_core.masking.time import TimeMasker
from jepa_core.methods.choices import variance_terms
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.modality import SimpleModality
from jepa_core.nn.patch_encoder import SIZES, Patches, PatchEncoder
from jepa_core.nn.position import sin_cos_table
from jepa_core.nn.predictor import TransformerPredictor
from jepa_core.nn.transformer import draw_linear
from jepa_core.settings import OptimizerSettings, RunSettings, TrainerSettings
from jepa_core.targets import EmaTarget, LayerNormalise, MomentumSchedule

AXES, RATE_HZ, STEPS, PATCH = 6, 50, 256, 8
# Activity: steps a second, their strength in g, share of the second harmonic, tilt of the wrist in rad, trembling.
ACTIVITIES = {
    "walking": (1.8, 0.30, 0.5, 0.2, 0.05),
    "running": (2.7, 1.10, 0.3, 0.9, 0.15),
    "stairs up": (1.5, 0.35, 1.0, 0.3, 0.06),
    "cycling": (1.2, 0.10, 0.1, 1.3, 0.12),
    "sitting": (0.25, 0.01, 0.0, 1.1, 0.01),
    "washing up": (2.2, 0.15, 1.5, 1.5, 0.20),
}


@dataclass
class MotionSettings:
    """The method.

    Attributes:
        persons: simulated; every fourth is held back for the probe.
        windows: of each person and activity.
        hidden: share of the time steps that must be predicted.
    """

    persons: int = 16
    windows: int = 12
    hidden: float = 0.6


@dataclass
class MotionRun(RunSettings):
    """A run on motion: the common settings, and the values that this sensor starts from."""

    motion: MotionSettings = field(default_factory=MotionSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    trainer: TrainerSettings = field(default_factory=lambda: TrainerSettings(400, 64, clip_norm=1.0))
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=1e-3, weight_decay=0.05))


class MotionWindows:
    """Windows ``[6, 256]`` of some persons; keeps the contracts ``SampleSource`` and ``LabelledSource``."""

    def __init__(self, config: MotionSettings, persons: Sequence[int], moved: bool) -> None:
        self.rows = [(p, a, w) for p in persons for a in ACTIVITIES for w in range(config.windows)]
        self.moved = moved

    def __len__(self) -> int:
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        return "person{:02d}/{}/{:03d}".format(*self.rows[index])

    def label(self, index: int) -> str:
        return self.rows[index][1]

    def group(self, index: int) -> str:
        return f"person{self.rows[index][0]:02d}"

    def load(self, index: int, seed: int) -> Tensor:
        """A window; in training it starts a little later each time, by the seed. Unusable: raise BadSample."""
        person, activity, window = self.rows[index]
        own, here = np.random.default_rng(person), np.random.default_rng((person, window, len(activity), 7))
        pace, strength, second, tilt, tremble = ACTIVITIES[activity]
        turn, _ = np.linalg.qr(own.normal(size=(3, 3)) * 0.25 + np.eye(3))  # how the sensor is worn
        pace, strength = pace * own.normal(1, 0.08) * here.normal(1, 0.03), strength * own.lognormal(0, 0.25)
        t = (np.arange(STEPS) + (seed % 64 if self.moved else 0)) / RATE_HZ + here.uniform(0, 9)
        beat = 2 * math.pi * pace * t
        shape = np.stack([np.sin(beat), np.sin(2 * beat) * second, np.sin(beat + 1.1) * (1 - second / 2)])
        gravity = np.array([math.sin(tilt), 0.0, math.cos(tilt)]) @ turn
        force = turn @ (strength * shape) + gravity[:, None] + here.normal(0, 0.02 + tremble, (3, STEPS))
        spin = turn @ (4 * strength * np.roll(shape, 1, 0)) + here.normal(0, 0.05 + tremble, (3, STEPS))
        return torch.from_numpy(np.concatenate([force, spin])).float()

    def collate(self, samples: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(samples))


class MotionFrontEnd(nn.Module):
    """``[B, 6, 256]`` to 32 patches of 8 readings of all axes, on the lattice of time."""

    lattice = Lattice(("t",), (STEPS // PATCH,), (PATCH / RATE_HZ,), ("s",), (PATCH / RATE_HZ / 2,))

    def forward(self, inputs: Tensor, seeds: Tensor) -> tuple[Patches, Grid]:
        return Patches(inputs.unfold(2, PATCH, PATCH).transpose(1, 2).flatten(2), self.lattice), Grid(self.lattice)


class MotionModality(SimpleModality):
    name, schema = "own_modality", MotionRun

    def build(self, config: MotionRun) -> MaskedPrediction:
        lattice, size = MotionFrontEnd.lattice, SIZES["nano"]
        encoder = PatchEncoder(size, AXES * PATCH, lattice, lambda on: sin_cos_table(on, size.width), stem="mlp")
        predictor = TransformerPredictor(lattice, size.width, width=64, depth=2, heads=4)
        for part in (encoder, predictor):
            draw_linear(part, "xavier")
        return MaskedPrediction(
            front_end=MotionFrontEnd(),
            encoder=encoder,
            target=EmaTarget(encoder, "follow", MomentumSchedule(0.99, 1.0, config.trainer.max_steps)),
            masker=TimeMasker(config.motion.hidden, length=3),
            predictor=predictor,
            energy=SmoothL1(),
            regularisers=variance_terms(0.1, of="samples"),
            normaliser=LayerNormalise(),
            monitor_rows=config.monitor.rows,
        )

    def sources(self, config: MotionRun) -> MotionWindows:
        return MotionWindows(config.motion, [p for p in range(config.motion.persons) if p % 4], moved=True)

    def evaluation(self, config: MotionRun, split: Split) -> MotionWindows:
        wanted = {"train": (1, 2, 3), "test": (0,), "all": (0, 1, 2, 3)}[split]
        return MotionWindows(config.motion, [p for p in range(config.motion.persons) if p % 4 in wanted], moved=False)


MODALITY = MotionModality()
