"""Our side of the audio rows: training steps from waveforms; and the same step behind torchaudio's spectrogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torchaudio
from own_step import OwnStep
from safetensors.torch import save_file
from torch import Tensor

from jepa_audio.build import build_method
from jepa_audio.framing import FilterBank
from jepa_audio.front_ends import build_front_end, sample_rate_of
from jepa_audio.frontend import SpectrogramFrontEnd
from jepa_audio.log_mel import LogMel
from jepa_audio.modality import MODALITY
from jepa_audio.settings import AudioRun
from jepa_audio.waveforms import Waveforms
from jepa_core.config import compose
from jepa_core.contracts import Batch
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.train.schedule import rates_at

# The released code's mathematics: its loss is twice our cosine, its tables have frequency's channels first. A clip of
# 10.08 s has all 256 frames, so that what fills up shorter ones (zeros there, silence here) plays no part.
AS_RELEASED = (
    "audio.energy=cosine",
    "audio.target.normalise=layer",
    "audio.encoder.positions=sin_cos_ft",
    "data.seconds=10.08",
)
LOSS_FACTOR = 2.0


def configuration(options: Mapping[str, Any]) -> AudioRun:
    """The recipe with the overrides of a row."""
    recipe = cast(Any, MODALITY.recipes) / f"{options['recipe']}.yaml"
    return cast(AudioRun, compose(AudioRun, recipe, ["trainer.precision=fp32", *options["overrides"]]))


def built(config: AudioRun) -> MaskedPrediction:
    """The method with the weights of seed 0, in train mode."""
    torch.manual_seed(0)
    front_end = build_front_end(config.audio, 0.0, 1.0)
    samples = samples_of(config)
    return build_method(config.audio, front_end, samples, config.data.views, config.trainer.max_steps, 512).train()


def samples_of(config: AudioRun) -> int:
    """Samples of a clip."""
    return round(config.data.seconds * sample_rate_of(config.audio.frontend))


def clips(config: AudioRun, count: int) -> Tensor:
    """Noise and a chirp, ``[views * B, S]``."""
    time = torch.arange(samples_of(config)) / sample_rate_of(config.audio.frontend)
    noise = torch.randn(config.data.views * count, len(time), generator=torch.Generator().manual_seed(2))
    return 0.1 * noise + 0.3 * torch.sin(2 * math.pi * (200 + 300 * time) * time)


def batch_of(config: AudioRun, count: int) -> Batch:
    """A batch of such clips."""
    return Batch(Waveforms(clips(config, count)), torch.arange(count), tuple(map(str, range(count))))


def exchange(options: Mapping[str, Any], path: Path) -> None:
    """Writes what both sides start from: weights by our names, clips, the mask that ours draws."""
    config = configuration(options)
    method, batch = built(config), batch_of(config, options["batch"])
    _, (mask,) = method.masks(batch)
    tensors = {f"weights.{name}": tensor.contiguous() for name, tensor in method.state_dict().items()}
    given = {"clips": batch.inputs.samples, "context": mask.context.ids, "targets": mask.target_union.ids}
    save_file({**tensors, **{name: tensor.contiguous() for name, tensor in given.items()}}, path)


def first_rate(options: Mapping[str, Any]) -> float:
    """Learning rate of the first step."""
    config = configuration(options)
    return rates_at(1, config.trainer.max_steps, config.optimizer).lr


class TorchaudioMel(FilterBank):
    """torchaudio's batched mel spectrogram with the settings of ours, and a logarithm."""

    def __init__(self, own: LogMel) -> None:
        super().__init__(own.sample_rate_hz, own.window, own.hop, own.reach, own.bins, own.silence)
        wanted = self.settings = own.settings
        self.mel = torchaudio.transforms.MelSpectrogram(
            wanted.sample_rate_hz,
            wanted.n_fft,
            wanted.win_length,
            wanted.hop_length,
            wanted.f_min_hz,
            wanted.f_max_hz,
            n_mels=wanted.n_mels,
            norm=wanted.norm,
            mel_scale=wanted.mel_scale,
        )

    def log_energies(self, inputs: Waveforms) -> Tensor:
        """See :class:`FilterBank`."""
        energies: Tensor = self.mel(inputs.samples)
        return (energies + self.settings.eps).log().transpose(1, 2)

    def forward(self, inputs: Waveforms) -> Any:
        """All clips at once."""
        from jepa_audio.waveforms import Spectrogram

        return Spectrogram(self.log_energies(inputs))


def build(options: Mapping[str, Any]) -> OwnStep:
    """Our side of a row; with ``torchaudio`` the same encoder behind torchaudio's features."""
    config, device = configuration(options), torch.device(options["device"])
    method, batch = built(config), batch_of(config, options["batch"])
    if options.get("torchaudio"):
        front_end = method.front_end
        assert isinstance(front_end, SpectrogramFrontEnd) and isinstance(front_end.bank, LogMel)
        front_end.bank = TorchaudioMel(front_end.bank)
    batch.inputs = Waveforms(batch.inputs.samples.to(device))
    batch.seeds = batch.seeds.to(device)
    return OwnStep(method.to(device), batch, config, options["steps"], options.get("factor", 1.0))
