"""Our side of the Causal-JEPA rows (arXiv 2602.11389): a training step of the slot predictor on CLEVRER's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from own_step import OwnStep
from safetensors.torch import save_file
from torch import Tensor

from jepa_causal.build import SlotShape, build_method
from jepa_causal.encoder import SlotFrontEnd
from jepa_causal.modality import MODALITY
from jepa_causal.settings import CausalRun
from jepa_causal.windows import SlotWindow
from jepa_core.config import compose
from jepa_core.contracts import Batch
from jepa_core.methods.masked import MaskedPrediction

SLOTS, WIDTH, SEED = 7, 128, 42
MASKED = 2

# What makes our recipe the released code's mathematics; dropout is 0 on both sides.
AS_RELEASED = (
    f"causal.masking.masked_objects=[{MASKED},{MASKED}]",
    "causal.masking.released_fixed_mask=true",
    "causal.masking.released_anchor_in_loss=true",
    "causal.predictor.released_attention=true",
    f"seed={SEED}",
)


def configuration(options: Mapping[str, Any]) -> CausalRun:
    """The recipe with the overrides of a row."""
    recipe = cast(Any, MODALITY.recipes) / "causal_jepa.yaml"
    return cast(
        CausalRun, compose(CausalRun, recipe, ["data.root=not-read", "trainer.clip_norm=0", *options["overrides"]])
    )


def slots_of(config: CausalRun, batch: int) -> Tensor:
    """Windows of random slots ``[B, T, K, D]``."""
    steps = config.causal.history + config.causal.future
    return torch.randn(batch, steps, SLOTS, WIDTH, generator=torch.Generator().manual_seed(1))


def built(config: CausalRun) -> MaskedPrediction:
    """The method with the weights of seed 0, in train mode."""
    torch.manual_seed(0)
    return build_method(config.causal, SlotShape(SLOTS, WIDTH), SlotFrontEnd(), config.seed).train()


def exchange(options: Mapping[str, Any], path: Path) -> None:
    """Writes what both sides start from: weights by our names, slots."""
    config = configuration(options)
    tensors = {f"weights.{name}": tensor.contiguous() for name, tensor in built(config).state_dict().items()}
    save_file({**tensors, "slots": slots_of(config, options["batch"])}, path)


def build(options: Mapping[str, Any]) -> OwnStep:
    """Our side of a row."""
    config, size, device = configuration(options), int(options["batch"]), torch.device(options["device"])
    window = SlotWindow(slots_of(config, size).to(device))
    batch = Batch(window, torch.arange(size, device=device), tuple(map(str, range(size))))
    return OwnStep(built(config).to(device), batch, config, options["steps"])
