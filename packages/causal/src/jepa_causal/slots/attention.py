"""Slot attention (Locatello et al., arXiv 2006.15055, algorithm 1): slots compete for the inputs they explain."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from jepa_core.nn.transformer import Mlp
from jepa_core.seeds import uniform

Start = Literal["learned", "gaussian"]
_STREAM = 601
_EPS = 1e-8


class SlotAttention(nn.Module):
    """Inputs to slots by a few rounds of attention in which the softmax runs over the slots.

    The published MLP has a ReLU, ours the GELU of :class:`jepa_core.nn.transformer.Mlp`.

    Args:
        inputs: Din, width of an input.
        slots: K.
        width: D of a slot.
        hidden: width inside the MLP.
        iterations: rounds R.
        start: ``learned`` (one vector for each slot, and ``noise``) or ``gaussian`` (one mean and one deviation for
            all slots, so that they can be exchanged).
        noise: deviation of what is added to a learned start in training; it breaks ties between slots.

    Raises:
        ValueError: a count below 1, another start.
    """

    def __init__(
        self,
        inputs: int,
        slots: int,
        width: int,
        hidden: int,
        iterations: int = 3,
        start: Start = "learned",
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        if min(inputs, slots, width, hidden, iterations) < 1:
            raise ValueError(
                "SlotAttention: expected inputs, slots, width, hidden and iterations from 1, got "
                f"{inputs}, {slots}, {width}, {hidden} and {iterations}"
            )
        if start not in get_args(Start):
            raise ValueError(f"start: expected one of {', '.join(get_args(Start))}, got {start!r}")
        self.slots, self.width, self.iterations, self.start = slots, width, iterations, start
        rows = slots if start == "learned" else 1
        self.mean = nn.Parameter(torch.randn(rows, width))
        spread = torch.full((1, width), math.log(noise) if noise > 0 else -math.inf)
        # A learned start has a fixed spread: the reconstruction alone would drive it to zero.
        if start == "learned":
            self.register_buffer("log_spread", spread, persistent=False)
        else:
            self.log_spread = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, width)))
        self.norm_inputs, self.norm_slots = nn.LayerNorm(inputs), nn.LayerNorm(width)
        self.key = nn.Linear(inputs, width, bias=False)
        self.value = nn.Linear(inputs, width, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.update = nn.GRUCell(width, width)
        self.norm_mlp, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)
        self.apply(init_weights)

    def initial(self, batch: int, seeds: Tensor | None = None) -> Tensor:
        """Where the slots start, ``[B, K, D]``.

        Args:
            batch: B.
            seeds: int64 ``[B]``, each sample's own noise comes from its seed. None: a learned start without noise; of
                a ``gaussian`` one, which without noise would have K times the same slot, the draw of seed 0 for all.
        """
        mean = self.mean.expand(batch, self.slots, self.width)
        if seeds is None:
            if self.start == "learned":
                return mean
            seeds = torch.zeros(batch, dtype=torch.int64, device=mean.device)
        noise = normal(seeds, self.slots * self.width).view(batch, self.slots, self.width)
        return mean + self.log_spread.exp() * noise.to(mean.dtype)

    def forward(
        self, inputs: Tensor, slots: Tensor, valid: Tensor | None = None, iterations: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slots ``[B, K, D]`` and the attention ``[B, K, P]`` of the last round.

        Args:
            inputs: ``[B, P, Din]``, positions added already.
            slots: where to start, ``[B, K, D]``.
            valid: bool ``[B, P]``; what is not valid changes nothing and gets attention 0. None = all are.
            iterations: rounds; None = those of this module.

        Over the slots the attention of a valid input sums to 1.
        """
        if valid is not None:
            inputs = torch.where(valid[..., None], inputs, 0.0)
        normed = self.norm_inputs(inputs)
        key, value = self.key(normed) * self.width**-0.5, self.value(normed)
        attention = slots.new_zeros(len(slots), slots.shape[1], inputs.shape[1])
        for _ in range(self.iterations if iterations is None else iterations):
            attention = compete(self.query(self.norm_slots(slots)), key, valid)
            slots = self._updated(slots, weighted_mean(attention, value, valid))
        return slots, attention

    def _updated(self, slots: Tensor, found: Tensor) -> Tensor:
        """Slots ``[B, K, D]`` after one round in which they found ``[B, K, D]``."""
        state = self.update(found.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return state + self.mlp(self.norm_mlp(state))


def compete(query: Tensor, key: Tensor, valid: Tensor | None) -> Tensor:
    """Attention ``[B, K, P]`` of queries ``[B, K, D]`` and keys ``[B, P, D]``, a softmax over K; 0 where not valid."""
    attention = (query @ key.transpose(1, 2)).softmax(1)
    return attention if valid is None else attention * valid[:, None]


def weighted_mean(attention: Tensor, value: Tensor, valid: Tensor | None) -> Tensor:
    """Mean ``[B, K, D]`` of values ``[B, P, D]`` under each slot's attention ``[B, K, P]``; 0 without a valid input."""
    weights = attention + _EPS
    if valid is not None:
        weights = weights * valid[:, None]
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny) @ value


def init_weights(module: nn.Module) -> None:
    """Glorot's weights and no bias, as in the published code; for ``module.apply``.

    With torch's own, smaller ones the first attention is nearly even and pixels tell their place alone: slots then stay
    equal for hundreds of steps.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GRUCell):
        for kernel, gate_init in ((module.weight_ih, nn.init.xavier_uniform_), (module.weight_hh, nn.init.orthogonal_)):
            for gate in kernel.data.chunk(3):
                gate_init(gate)
        nn.init.zeros_(module.bias_ih)
        nn.init.zeros_(module.bias_hh)


def normal(seeds: Tensor, n: int) -> Tensor:
    """Standard normal float32 ``[B, n]``, each row from its int64 seed ``[B]`` alone."""
    # In the middle of each step of the uniform grid, so that neither 0 nor 1 is met; float32 would round to 1.
    middle = uniform(seeds, n, _STREAM).double() + 2.0**-25
    return torch.special.ndtri(middle).float()
