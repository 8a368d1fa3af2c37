"""The reference's side of the Causal-JEPA rows: the predictor of galilai-group/cjepa from a checkout.

Its predictor is imported from ``--reference DIR``; the loss is the one of its training script for slots, written anew:
that script needs its whole environment to be imported. It needs ``einops``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from driver import Stopwatch
from rows import StepTaker
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

HISTORY, FUTURE, MASKED, SEED = 6, 10, 2, 42
DEPTH, HEADS, MLP, LR = 6, 16, 2048, 5e-4


class Step(StepTaker):
    """The body of its training loop: forward, loss, backward, optimiser, the figures of its progress bar."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        sys.path.insert(0, str(Path(options["reference"]) / "src"))
        from cjepa_predictor import MaskedSlotPredictor  # type: ignore[import-not-found]  # of the checkout

        device = torch.device(options["device"])
        stored = load_file(options["exchange"])
        self.slots = stored["slots"].to(device)
        slots, width = self.slots.shape[2:]
        self.model = MaskedSlotPredictor(
            slots, width, HISTORY, FUTURE, MASKED, SEED, depth=DEPTH, heads=HEADS, mlp_dim=MLP, dropout=0.0
        )
        self.model.load_state_dict(named_as_theirs(stored))
        self.model.to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR)
        self.steps, self.watch = int(options["steps"]), Stopwatch()
        self.watch.watch(self.model, "predictor")

    def step(self) -> float:
        """One training step of the predictor."""
        with self.watch.of("optimiser and target"):
            self.optimizer.zero_grad()
        history, future = self.slots[:, :HISTORY], self.slots[:, HISTORY:]
        with self.watch.of("forward"):
            predicted, masked = self.model(history)
            past = functional.mse_loss(predicted[:, :HISTORY, masked], history[:, :, masked])
            coming = functional.mse_loss(predicted[:, HISTORY:], future)
            loss = past + coming
        with self.watch.of("backward"):
            loss.backward()
        with self.watch.of("optimiser and target"):
            self.optimizer.step()
        coming.item(), past.item()
        return float(loss.item())


def build(options: Mapping[str, Any]) -> Step:
    """The reference's side of a row."""
    return Step(options)


def named_as_theirs(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under its names."""
    places = {"anchor.": "id_projector.", "project.": "to_out.", "transformer.norm.": "transformer.norm."}
    found = {}
    for name, tensor in stored.items():
        own = name.removeprefix("weights.predictor.")
        if own == name:
            continue
        if own == "mask_vector":
            found["mask_token"] = tensor.view(1, 1, -1)
        elif own == "time_embed":
            found["time_pos_embed"] = tensor[None, :, None]
        elif own.startswith("transformer.blocks."):
            number, _, rest = own.removeprefix("transformer.blocks.").partition(".")
            found[f"transformer.layers.{number}.{rest.replace('attn.', '0.').replace('mlp.', '1.')}"] = tensor
        else:
            old = next(place for place in places if own.startswith(place))
            found[places[old] + own.removeprefix(old)] = tensor
    return found
