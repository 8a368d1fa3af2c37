"""What the tests of the video method share: small configurations and clips of noise."""

from __future__ import annotations

import torch

from jepa_core.config import compose
from jepa_core.contracts import Batch
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.plugins import find_modality, recipes
from jepa_vision.video_modality import MODALITY
from jepa_vision.video_settings import VideoRun

RECIPES = tuple(recipes(find_modality(MODALITY.name)))
CHEAP = ["trainer.device=cpu", "vision.encoder.size=nano", "vision.predictor.width=32", "vision.predictor.depth=1"]
# Few tokens, whatever the recipe's own.
LITTLE = ["data.frames=8", "data.height=64", "data.width=64"]


def whole(recipe: str, *overrides: str) -> VideoRun:
    """A recipe as the command line would compose it."""
    return compose(VideoRun, MODALITY.recipes / f"{recipe}.yaml", list(overrides))


def configured(recipe: str, *overrides: str) -> VideoRun:
    """A recipe made cheap; the predictor's heads are those of the small encoder."""
    return whole(recipe, *CHEAP, "vision.predictor.heads=0", *overrides)


def built(config: VideoRun, seed: int = 0) -> MaskedPrediction:
    """Its method, with the weights of this seed."""
    torch.manual_seed(seed)
    method = MODALITY.build(config)
    assert isinstance(method, MaskedPrediction)
    return method


def noise(batch: int, frames: int, height: int, width: int) -> Batch:
    """A batch of random clips with fixed seeds."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (batch, 3, frames, height, width), dtype=torch.uint8, generator=generator)
    return Batch(clips, torch.arange(11, 11 + batch), tuple(f"clip-{i}" for i in range(batch)), batch_seed=5)
