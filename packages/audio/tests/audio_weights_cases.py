"""What tests of sound weights share: cheap methods, runs, models and clips."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from jepa_audio.modality import MODALITY
from jepa_audio.presets import preset
from jepa_audio.settings import AudioRun
from jepa_audio.waveforms import Waveforms
from jepa_audio.weights import AudioModel, Facts
from jepa_audio.weights.facts import WaveformSettings
from jepa_core.config import compose, to_yaml
from jepa_core.contracts import Batch
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.nn.patch_encoder import Size
from jepa_core.train import checkpoint as checkpoints

CHEAP = (
    "audio.frontend.mean=-7.0",
    "audio.frontend.std=4.0",
    "audio.encoder.size=nano",
    "audio.predictor.width=64",
    "audio.predictor.depth=1",
    "audio.predictor.heads=4",
    "trainer.max_steps=10",
)
SMALL = Size(32, 2, 2, 64)
RECIPES = sorted(path.name.removesuffix(".yaml") for path in Path(str(MODALITY.recipes)).glob("*.yaml"))


def configured(recipe: str = "quickstart", *overrides: str) -> AudioRun:
    """A recipe as the command line would compose it, made cheap."""
    return compose(AudioRun, MODALITY.recipes / f"{recipe}.yaml", [*CHEAP, *overrides])


def built(config: AudioRun, seed: int = 0) -> MaskedPrediction:
    """Its method, with the weights of this seed."""
    torch.manual_seed(seed)
    method = MODALITY.build(config)
    assert isinstance(method, MaskedPrediction)
    return method


def run_folder(folder: Path, *overrides: str, recipe: str = "quickstart") -> MaskedPrediction:
    """A run with one checkpoint, whose moving average is not its online encoder."""
    config = configured(recipe, *overrides)
    method = built(config)
    with torch.no_grad():
        for parameter in method.target.parameters():  # type: ignore[attr-defined]  # a target that is a module
            parameter.add_(0.1)
    kept = checkpoints.Checkpoint(7, checkpoints.model_tensors(method), {}, {}, [], {}, to_yaml(config))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.save(folder, kept, keep=0)
    return method.eval()


def small_model(name: str = "small", seed: int = 0) -> AudioModel:
    """A small encoder behind a preset, or behind ``waveform``."""
    torch.manual_seed(seed)
    if name == "waveform":
        return AudioModel(Facts(WaveformSettings(16_000, 16), SMALL, 32_000, stem="none")).eval()
    chosen = preset(name)
    samples = round(chosen.crop_s * chosen.settings.sample_rate_hz)
    model = AudioModel(Facts(chosen.settings, SMALL, samples, chosen.patch, chosen.frames)).eval()
    mean, std = (-7.0, 4.0) if chosen.mean is None or chosen.std is None else (chosen.mean, chosen.std)
    model.front_end.load_state_dict({"mean": torch.tensor(mean), "std": torch.tensor(std)})
    return model


def clips(rate_hz: int, *seconds: float, seed: int = 0) -> list[Tensor]:
    """Noise whose loudness changes, one clip for each length."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for length in (round(rate_hz * second) for second in seconds):
        loudness = torch.linspace(0.01, 0.3, length)
        made.append(loudness * torch.randn(length, generator=generator).clamp(-3, 3))
    return made


def batch_of(inputs: Waveforms, views: int = 1) -> Batch:
    """A batch with fixed seeds; the inputs hold the views one after the other."""
    rows = len(inputs.samples) // views
    return Batch(inputs, torch.arange(11, 11 + rows), tuple(f"clip-{i}" for i in range(rows)), batch_seed=5)


def equal_tensors(a: nn.Module, b: nn.Module) -> bool:
    """Bit for bit, by the same names."""
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
