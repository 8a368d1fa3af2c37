"""Sound as it passes between the loader, the front end and the encoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jepa_core.nn.patch_encoder import Patches as Patches


@dataclass(frozen=True)
class Waveforms:
    """Clips of one channel at the sample rate of the run: the ``inputs`` of a batch.

    Attributes:
        samples: float32 ``[R, S]`` in -1..1, zeros after the end of a clip. R rows: those of a batch of B samples, or
            of its V views one after the other (``[V * B, S]``, the first view of every sample first).
        lengths: int64 ``[R]``, samples of each clip; None = all S (the static fast path).
    """

    samples: Tensor
    lengths: Tensor | None = None


@dataclass(frozen=True)
class Spectrogram:
    """Log-scaled filter-bank energies.

    Attributes:
        values: float32 ``[R, frames, bins]``; frames after the end of a clip hold what silence gives.
        lengths: int64 ``[R]``, frames of each clip; None = all.
    """

    values: Tensor
    lengths: Tensor | None = None
