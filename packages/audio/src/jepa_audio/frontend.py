"""The front end: waveforms to normalised tiles of a spectrogram, batched and on the device.

A tile is flattened with time outermost, so that one linear layer on tiles is the published convolution whose stride is
its kernel (AST, arXiv 2104.01778; there the kernel's first axis is frequency).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from jepa_audio.augment import TimeFrequencyCrop
from jepa_audio.framing import FilterBank, clip_lengths, within_clip
from jepa_audio.waveforms import Patches, Spectrogram, Waveforms
from jepa_core.contracts import Grid, Sites, Tokens
from jepa_core.lattice import Lattice

Centre = Literal["data", "clip"]
_WAVE_EPS = 1e-5


def pixels(inputs: Patches, keep: Sites | None) -> Tokens:
    """What :class:`jepa_core.targets.RawTarget` asks for: the normalised values of each tile.

    With ``jepa_core.targets.LayerNormalise`` as normaliser each tile has mean 0 and variance 1, as in Audio-MAE.
    """
    return inputs.tokens(keep)


def tiles(values: Tensor, patch: tuple[int, int]) -> Tensor:
    """``[R, T, bins]`` to ``[R, N, frames * bins of a tile]``, row-major, time outermost in both."""
    rows, frames, bins = values.shape
    split = values.reshape(rows, frames // patch[0], patch[0], bins // patch[1], patch[1])
    return split.transpose(2, 3).reshape(rows, -1, math.prod(patch))


def untile(features: Tensor, lattice: Lattice, patch: tuple[int, int]) -> Tensor:
    """The inverse of :func:`tiles`."""
    steps, bands = lattice.sizes
    split = features.reshape(len(features), steps, bands, *patch)
    return split.transpose(2, 3).reshape(len(features), steps * patch[0], bands * patch[1])


def wave_normalise(inputs: Waveforms) -> Waveforms:
    """Each clip minus its mean, divided by its standard deviation + 1e-5 (WavJEPA, arXiv 2509.23238).

    Both are taken over the clip's own samples; zeros follow its end. A silent clip stays silent.
    """
    own = within_clip(inputs)
    samples = torch.where(own, inputs.samples.float(), 0.0)
    count = clip_lengths(inputs)[:, None]
    centred = torch.where(own, samples - samples.sum(1, keepdim=True) / count, 0.0)
    # The root of 0 has no gradient.
    deviation = (centred.square().sum(1, keepdim=True) / count).clamp(min=1e-12).sqrt()
    return Waveforms(centred / (deviation + _WAVE_EPS), inputs.lengths)


def _level_of(spectrogram: Spectrogram) -> Tensor:
    """Mean of each bin over a clip's own frames, ``[R, 1, bins]``."""
    values, lengths = spectrogram.values, spectrogram.lengths
    if lengths is None:
        return values.mean(1, keepdim=True)
    own = (torch.arange(values.shape[1], device=values.device) < lengths[:, None]).unsqueeze(-1)
    return torch.where(own, values, 0.0).sum(1, keepdim=True) / lengths[:, None, None].clamp(min=1)


class SpectrogramFrontEnd(nn.Module):
    """Spectrogram, normalised to (x - mean) / std, in tiles of a lattice of (t, f).

    A step of the lattice counts for a clip if at least half of its frames belong to it; the first always does. Without
    ``frames`` the lattice ends with the last step that counts for a clip of the batch's full length; what its last
    step lacks is filled with silence.

    Args:
        bank: :class:`jepa_audio.log_mel.LogMel` or :class:`jepa_audio.kaldi.KaldiFbank`.
        patch: frames and bins of a tile.
        mean, std: of the log energies, kept in the checkpoint. Models that divide by twice the standard deviation
            (Audio-MAE, BEATs) have it doubled here.
        frames: cuts every clip, or fills it up with silence, to so many frames; None = as many as there are.
        crop: of each row in train mode, drawn from its seed; None = no crop.
        centre: what is taken off log energies: ``data`` (``mean``) or ``clip`` (the mean of each bin over the clip's
            own frames, as cepstral mean normalisation does: loudness and microphone go with it).

    Raises:
        ValueError: the tile does not divide bins or ``frames``, or ``std`` is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        bank: FilterBank,
        patch: tuple[int, int],
        mean: float = 0.0,
        std: float = 1.0,
        frames: int | None = None,
        crop: TimeFrequencyCrop | None = None,
        centre: Centre = "data",
    ) -> None:
        super().__init__()
        if min(patch) < 1 or bank.bins % patch[1] or (frames is not None and (frames < 1 or frames % patch[0])):
            raise ValueError(
                f"front end: expected a patch (frames, bins) whose bins divide {bank.bins} and whose frames divide "
                f"{'any length' if frames is None else frames}, got {tuple(patch)}; "
                "change the patch or the number of bins"
            )
        if not (std > 0 and math.isfinite(std) and math.isfinite(mean)):
            raise ValueError(f"front end: expected a finite mean and a std above 0, got {mean} and {std}")
        self.bank = bank
        self.patch = (patch[0], patch[1])
        self.frames = frames
        self.crop = crop
        self.centre = centre
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    @property
    def channels(self) -> int:
        """Width of a flattened tile."""
        return math.prod(self.patch)

    def lattice_for(self, samples: int) -> Lattice:
        """The lattice of a batch whose longest clip has so many samples."""
        second = 1 / self.bank.sample_rate_hz
        hop_s, (step, band) = self.bank.hop * second, self.patch
        return Lattice(
            axes=("t", "f"),
            sizes=(self._steps(self.bank.frames_of(samples)), self.bank.bins // band),
            spacing=(step * hop_s, float(band)),
            units=("s", "bin"),
            origin=(self.bank.first_centre * second + (step - 1) / 2 * hop_s, (band - 1) / 2),
        )

    def forward(self, inputs: Waveforms, seeds: Tensor) -> tuple[Patches, Grid]:
        """Tiles of ``inputs`` and their grid; ``seeds`` int64 ``[R]`` are those of the crop."""
        spectrogram = self._cropped(self.bank(inputs), seeds)
        lattice = self.lattice_for(inputs.samples.shape[1])
        filled = self._filled(spectrogram.values, lattice.sizes[0] * self.patch[0])
        values = (filled - (self.mean if self.centre == "data" else _level_of(spectrogram))) / self.std
        present = self._present(spectrogram, lattice)
        return Patches(tiles(values, self.patch), lattice, present), Grid(lattice, present)

    def _cropped(self, spectrogram: Spectrogram, seeds: Tensor) -> Spectrogram:
        """A training view; where there is nothing to draw, the spectrogram itself."""
        if self.crop is None or not self.training:
            return spectrogram
        values, lengths = spectrogram.values, spectrogram.lengths
        if lengths is None:
            lengths = torch.full(values.shape[:1], values.shape[1], device=values.device)
        return Spectrogram(self.crop(values, lengths, seeds, self.bank.silence), spectrogram.lengths)

    def _steps(self, frames: int) -> int:
        """Steps of the lattice for clips of at most so many frames."""
        if self.frames is not None:
            return self.frames // self.patch[0]
        return max(1, (2 * frames + self.patch[0]) // (2 * self.patch[0]))

    def _filled(self, values: Tensor, frames: int) -> Tensor:
        missing = frames - values.shape[1]
        return (
            nn.functional.pad(values, (0, 0, 0, missing), value=self.bank.silence)
            if missing > 0
            else values[:, :frames]
        )

    def _present(self, spectrogram: Spectrogram, lattice: Lattice) -> Tensor | None:
        """Bool ``[R, N]``; None where every step counts for every clip."""
        rows, frames, _ = spectrogram.values.shape
        (steps, bands), step = lattice.sizes, self.patch[0]
        if spectrogram.lengths is None and 2 * frames >= (2 * steps - 1) * step:
            return None
        device = spectrogram.values.device
        lengths = torch.full((rows,), frames, device=device) if spectrogram.lengths is None else spectrogram.lengths
        start = torch.arange(steps, device=device) * step
        counts = (2 * (lengths[:, None] - start) >= step) | (start == 0)
        return counts.repeat_interleave(bands, 1)
