"""How the probes of images and clips pool tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from jepa_core.contracts import Tokens


def mean_token(tokens: Tokens) -> Tensor:
    """The mean of all tokens, ``[B, D]``."""
    return tokens.features.float().mean(1)


def quarters(tokens: Tokens) -> Tensor:
    """Means of the four quarters of the image, ``[B, 4 D]``."""
    rows, columns = tokens.lattice.sizes
    maps = tokens.features.float().transpose(1, 2).unflatten(2, (rows, columns))
    return F.adaptive_avg_pool2d(maps, 2).flatten(1)


def each_step(tokens: Tokens) -> Tensor:
    """The mean of each time step of a clip, side by side, ``[B, T D]``."""
    return tokens.features.float().unflatten(1, (tokens.lattice.sizes[0], -1)).mean(2).flatten(1)
