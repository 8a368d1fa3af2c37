"""The front end that the settings name: a filter bank, or convolutions on the samples."""

from __future__ import annotations

from jepa_audio.augment import TimeFrequencyCrop
from jepa_audio.frontend import SpectrogramFrontEnd
from jepa_audio.presets import Preset, preset
from jepa_audio.settings import WAVEFORM, AudioSettings, FrontEndSettings
from jepa_audio.wave_frontend import WaveformFrontEnd
from jepa_core.nn.patch_encoder import SIZES

FrontEnd = SpectrogramFrontEnd | WaveformFrontEnd


def chosen_preset(wanted: FrontEndSettings) -> Preset:
    """The preset with the hop that the settings ask for."""
    return preset(wanted.preset).with_hop(wanted.hop_length)


def sample_rate_of(wanted: FrontEndSettings) -> int:
    """The rate in Hz that recordings are resampled to."""
    return wanted.sample_rate_hz if wanted.preset == WAVEFORM else preset(wanted.preset).settings.sample_rate_hz


def build_front_end(options: AudioSettings, mean: float, std: float) -> FrontEnd:
    """The front end; ``mean`` and ``std`` of the log energies stand where neither settings nor preset have them."""
    wanted, augment = options.frontend, options.augment
    if wanted.preset == WAVEFORM:
        return WaveformFrontEnd(wanted.sample_rate_hz, SIZES[options.encoder.size].width, wanted.channels)
    chosen = chosen_preset(wanted)
    own = chosen.mean if wanted.mean is None else wanted.mean, chosen.std if wanted.std is None else wanted.std
    crop = TimeFrequencyCrop(augment.scale_min, augment.scale_max, augment.aspect_min, augment.aspect_max)
    return SpectrogramFrontEnd(
        chosen.bank(),
        (wanted.patch_frames or chosen.patch[0], wanted.patch_bins or chosen.patch[1]),
        mean if own[0] is None else own[0],
        std if own[1] is None else own[1],
        chosen.frames,
        crop if augment.scale_min < 1 else None,
        wanted.centre,
    )
