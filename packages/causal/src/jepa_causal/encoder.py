"""The encoder's side of Causal-JEPA (arXiv 2602.11389, section 3): slots are frozen, so they are read, not computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from jepa_causal.windows import SlotWindow
from jepa_core.contracts import Grid, Sites, Tokens


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each channel, float32 ``[A]``, of the training episodes."""

    mean: Tensor
    std: Tensor

    @classmethod
    def none(cls) -> Scale:
        """Of a stream that does not exist."""
        return cls(torch.zeros(0), torch.ones(0))


class SlotFrontEnd(nn.Module):
    """Z-scores actions and proprioception, and says which slots there are.

    The scales are buffers: a checkpoint brings its own.

    Args:
        actions, proprio: scales of the training episodes; None = there are none.
    """

    action_mean: Tensor
    action_std: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor

    def __init__(self, actions: Scale | None = None, proprio: Scale | None = None) -> None:
        super().__init__()
        for name, scale in (("action", actions or Scale.none()), ("proprio", proprio or Scale.none())):
            self.register_buffer(f"{name}_mean", scale.mean.clone())
            self.register_buffer(f"{name}_std", scale.std.clone())

    @property
    def action_width(self) -> int:
        """A; 0 without actions."""
        return len(self.action_mean)

    @property
    def proprio_width(self) -> int:
        """P; 0 without proprioception."""
        return len(self.proprio_mean)

    def forward(self, inputs: SlotWindow, seeds: Tensor) -> tuple[SlotWindow, Grid]:
        """The window with z-scored streams, and the grid of its slots.

        A stream that the model was built with and that the window lacks is one that is nowhere known.
        """
        steps = inputs.slots.shape[:2]
        actions = _stream("actions", inputs.actions, inputs.action_valid, self.action_mean, self.action_std, steps)
        proprio = _stream("proprio", inputs.proprio, inputs.proprio_valid, self.proprio_mean, self.proprio_std, steps)
        window = SlotWindow(inputs.slots, inputs.present, *actions, *proprio)
        return window, Grid(inputs.lattice, None if inputs.present is None else inputs.present.flatten(1))


def _stream(
    name: str, x: Tensor | None, valid: Tensor | None, mean: Tensor, std: Tensor, steps: torch.Size
) -> tuple[Tensor | None, Tensor | None]:
    """Z-scored ``[B, T, A]``, 0 where not known, and where it is; None where the model was built without it."""
    if not len(mean):
        return None, None
    if x is None:
        nowhere = torch.zeros(steps, dtype=torch.bool, device=mean.device)
        return mean.new_zeros(*steps, len(mean)), nowhere
    if x.shape[-1] != len(mean):
        raise ValueError(f"{name}: expected {len(mean)} numbers a step, as in training, got {x.shape[-1]}")
    scaled = (x - mean) / std
    return scaled if valid is None else torch.where(valid.unsqueeze(-1), scaled, 0.0), valid


class FrozenSlots(nn.Module):
    """The slots themselves as tokens; keeps the contract ``Encoder`` and has no parameters."""

    def forward(self, inputs: SlotWindow, keep: Sites | None) -> Tokens:
        """Tokens at ``keep``, zeros where it is not valid; without it all slots there are."""
        return slot_tokens(inputs, keep)


def slot_tokens(inputs: SlotWindow, keep: Sites | None) -> Tokens:
    """What :class:`FrozenSlots` gives, as the raw target too."""
    lattice, features_BND = inputs.lattice, inputs.slots.flatten(1, 2)
    whole = Sites.whole(lattice, len(features_BND), features_BND.device)
    if inputs.present is not None:
        whole = replace(whole, valid=inputs.present.flatten(1))
    tokens = Tokens(_zero_where_not(features_BND, whole.valid), whole, lattice)
    if keep is None:
        return tokens
    return Tokens(_zero_where_not(tokens.at(keep), keep.valid), keep, lattice)


def _zero_where_not(features: Tensor, valid: Tensor | None) -> Tensor:
    return features if valid is None else torch.where(valid.unsqueeze(-1), features, 0.0)
