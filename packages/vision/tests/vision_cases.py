"""What the tests of the vision method share: small configurations and batches of noise."""

from __future__ import annotations

import torch

from jepa_core.config import compose
from jepa_core.contracts import Batch
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.plugins import find_modality, recipes
from jepa_vision.modality import MODALITY
from jepa_vision.settings import VisionRun

RECIPES = tuple(recipes(find_modality(MODALITY.name)))
# The published shapes of masks and inputs with an encoder that fits into a test.
CHEAP = ["trainer.device=cpu", "vision.encoder.size=nano", "vision.predictor.width=32", "vision.predictor.depth=1"]


def configured(recipe: str, *overrides: str) -> VisionRun:
    """A recipe as the command line would compose it, made cheap."""
    return compose(VisionRun, MODALITY.recipes / f"{recipe}.yaml", [*CHEAP, *overrides])


def built(config: VisionRun, seed: int = 0) -> MaskedPrediction:
    """Its method, with the weights of this seed."""
    torch.manual_seed(seed)
    method = MODALITY.build(config)
    assert isinstance(method, MaskedPrediction)
    return method


def noise(batch: int, height: int, width: int, seed: int = 0) -> Batch:
    """A batch of random pictures with fixed seeds."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(11, 11 + batch), tuple(f"image-{i}" for i in range(batch)), batch_seed=5)
