"""The transformer over tiles of a spectrogram or frames of a waveform: clips of any length, without interpolation."""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from jepa_core.lattice import Lattice
from jepa_core.nn.patch_encoder import PatchEncoder, Size, Stem
from jepa_core.nn.position import sin_cos_table
from jepa_core.nn.transformer import NormPlace

Positions = Literal["sin_cos", "sin_cos_ft", "rotary", "learned"]


def channel_order(positions: Positions, lattice: Lattice) -> tuple[str, ...] | None:
    """Axes in the order in which their channels follow each other in a sine-cosine table; None = the lattice's."""
    return lattice.axes[::-1] if positions == "sin_cos_ft" else None


class LearnedCodes(nn.Module):
    """A learned code for each place along time and one for each along frequency, added (Dasheng, arXiv 2406.06992).

    Args:
        lattice: axes ``t`` and perhaps ``f``.
        width: D.
        steps: of time that there are codes for.
    """

    no_decay = ("time", "frequency")

    def __init__(self, lattice: Lattice, width: int, steps: int) -> None:
        super().__init__()
        bands = lattice.count // lattice.sizes[0]
        self.time = nn.Parameter(torch.empty(max(steps, lattice.sizes[0]), width))
        self.frequency = nn.Parameter(torch.empty(bands, width))
        for table in (self.time, self.frequency):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, lattice: Lattice) -> Tensor:
        """``[N, D]`` of a lattice with the same bands and at most as many steps as there are codes for."""
        steps = lattice.sizes[0]
        if steps > len(self.time):
            raise ValueError(
                f"positions learned: expected clips of at most {len(self.time)} steps "
                f"({len(self.time) * lattice.spacing[0]:.0f} s), got {steps}; embed them in pieces, or train with "
                "positions=sin_cos or rotary, which have no end"
            )
        return (self.time[:steps, None] + self.frequency).flatten(0, 1)


def fixed_codes(positions: Positions, lattice: Lattice, width: int) -> Tensor:
    """Codes of all sites that are not trained, float32 ``[N, width]``; of no rows for rotary and learned positions."""
    if not positions.startswith("sin_cos"):
        return torch.empty(0, width)
    return sin_cos_table(lattice, width, channel_order(positions, lattice))


class AudioTransformer(PatchEncoder):
    """An encoder of tiles or frames; keeps the contract ``Encoder``.

    Positions belong to (time, frequency) by their indices: a clip of another length needs no other weights.

    Args:
        size: row of :data:`jepa_core.nn.patch_encoder.SIZES`.
        channels: width of a flattened tile.
        lattice: of the training clips.
        stem: ``linear`` (published), ``mlp`` (helps small encoders) or ``none`` (frames that are embedded already).
        positions: ``sin_cos`` (fixed, half of the channels for each axis; Audio-JEPA, A-JEPA, M2D; one axis for a
            waveform), ``sin_cos_ft`` (frequency's channels first: the released weights of Audio-JEPA), ``rotary``, or
            ``learned`` (:class:`LearnedCodes`).
        drop_path: rate of the last block, growing from 0.
        recompute: activation checkpointing.
        norm: ``pre`` or ``post`` (WavJEPA).
        longest: steps of time that ``learned`` has codes for.
    """

    def __init__(
        self,
        size: Size,
        channels: int,
        lattice: Lattice,
        stem: Stem = "linear",
        positions: Positions = "sin_cos",
        drop_path: float = 0.0,
        recompute: bool = False,
        norm: NormPlace = "pre",
        longest: int = 1024,
    ) -> None:
        super().__init__(
            size,
            channels,
            lattice,
            partial(fixed_codes, positions, width=size.width),
            "interleaved" if positions == "rotary" else None,
            stem=stem,
            drop_path=drop_path,
            recompute=recompute,
            norm=norm,
        )
        self.positions = positions
        self.learned = LearnedCodes(lattice, size.width, longest) if positions == "learned" else None

    def codes_on(self, lattice: Lattice) -> Tensor:
        """Position codes of a lattice, ``[N, D]``."""
        return super().codes_on(lattice) if self.learned is None else cast(Tensor, self.learned(lattice))
