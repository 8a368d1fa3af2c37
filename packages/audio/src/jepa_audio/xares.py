"""The encoder interface of X-ARES (arXiv 2505.16369): waveforms to features over time, in pieces where they are long.

Give ``jepa_audio/xares.py`` to the benchmark as the encoder's file and name the model in the environment, for example
``JEPA_XARES_MODEL=runs/mine``: the benchmark makes the class whose name ends in ``Encoder``, without arguments.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from jepa_audio.weights.model import open_model

VARIABLE = "JEPA_XARES_MODEL"


class JepaEncoder(nn.Module):
    """A frozen encoder as X-ARES takes it.

    Args:
        place: see :func:`jepa_audio.weights.model.open_model`; None = the environment's ``JEPA_XARES_MODEL``.
        piece_seconds: longer sounds are embedded in pieces of so many seconds; the benchmark's are up to 10 minutes.

    Attributes:
        sampling_rate: Hz of the sounds that it takes.
        output_dim: D of a time step: the frequencies of the lattice side by side.
        hop_size_in_ms: from one time step to the next.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(self, place: str | None = None, piece_seconds: float = 10.0) -> None:
        super().__init__()
        chosen = os.environ.get(VARIABLE) if place is None else place
        if not chosen:
            raise ValueError(f"X-ARES: expected a model in the environment variable {VARIABLE}, got none")
        self.model = open_model(chosen)
        self.piece_seconds = piece_seconds
        self.sampling_rate: int = self.model.sample_rate_hz
        self.output_dim: int = self.model.timestamp_size
        self.hop_size_in_ms: float = self.model.step_ms
        self.eval()

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """Sounds ``[B, samples]`` or ``[samples]`` to float32 ``[B, T, output_dim]``."""
        return self.model.timestamps(audio, self.sampling_rate, self.piece_seconds)[0]
