"""What both sides of a vision row are given: sizes, weights, inputs and masks, drawn once by the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LR, DECAY, MOMENTUM = 1e-3, 0.04, 0.996
STAGES = ("input", "target", "context", "predictor", "loss", "backward", "optimiser", "moving average")


@dataclass(frozen=True)
class Case:
    """One pretraining step as its paper has it.

    Attributes:
        family: ``ijepa`` or ``vjepa``.
        model: ``tiny``, ``small``, ...: the row of both projects' tables of encoders.
        side: of the pictures in pixels; patches have 16.
        frames: of a clip, in tubelets of two; 1 = pictures.
        batch: samples of a step.
        depth: blocks of the predictor, of width 384, with as many heads as the encoder.
    """

    family: str
    model: str
    side: int
    frames: int
    batch: int
    depth: int

    @property
    def name(self) -> str:
        """For the table."""
        paper = "I-JEPA" if self.family == "ijepa" else "V-JEPA"
        size = f"{self.side} px" if self.frames == 1 else f"{self.frames} x {self.side} px"
        return f"{paper} ViT-{self.model.capitalize()}/16, {size}, batch {self.batch}, predictor 384 x {self.depth}"

    @property
    def size(self) -> tuple[int, ...]:
        """``([frames,] height, width)``."""
        return (self.side, self.side) if self.frames == 1 else (self.frames, self.side, self.side)


CASES: Mapping[str, Case] = {
    "ijepa-tiny": Case("ijepa", "tiny", 224, 1, 8, 6),
    "ijepa-small": Case("ijepa", "small", 224, 1, 8, 6),
    "vjepa-tiny": Case("vjepa", "tiny", 112, 16, 2, 12),
}


@dataclass(frozen=True)
class Step:
    """Inputs and masks of one step.

    Attributes:
        inputs: uint8 ``[B, 3, [T,] H, W]``.
        context: for each mask ``[B, N]`` ids.
        targets: for each mask ``[B, K, M]`` ids.
    """

    inputs: Tensor
    context: list[Tensor]
    targets: list[Tensor]


def lengths(steps: list[Step]) -> list[list[int]]:
    """For each step and mask: context tokens, target blocks, targets of a block, summed up as a row of numbers."""
    return [
        [n for seen, hidden in zip(step.context, step.targets, strict=True) for n in (seen.shape[1], *hidden.shape[1:])]
        for step in steps
    ]


def keep_steps(folder: Path, steps: list[Step]) -> None:
    """Writes what our side reads."""
    torch.save([(step.inputs, step.context, step.targets) for step in steps], folder / "steps.pt")


def read_steps(folder: Path) -> list[Step]:
    """What the reference wrote."""
    return [Step(*parts) for parts in torch.load(folder / "steps.pt", weights_only=True)]


def normalise(inputs: Tensor) -> Tensor:
    """What the references' transforms do to a batch: to 0..1, then by mean and deviation of each channel."""
    shape = (1, 3, *(1,) * (inputs.ndim - 2))
    mean, std = torch.tensor(MEAN).view(shape), torch.tensor(STD).view(shape)
    return inputs.float().div_(255).sub_(mean).div_(std)


def draw_inputs(case: Case, steps: int, seed: int) -> list[Tensor]:
    """Noise; nothing here depends on what the pictures show."""
    generator = torch.Generator().manual_seed(seed)
    shape = (case.batch, 3, *case.size)
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(steps)]


Options = Mapping[str, Any]
"""``case``, ``folder`` (shared by both sides), ``reference`` (checkout), ``steps``, ``precision``, ``settings``."""
