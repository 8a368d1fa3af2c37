"""Which trainable parameters get weight decay: matrices and kernels do; norms, biases and tokens do not."""

from __future__ import annotations

from torch import nn

from jepa_core.contracts import ParameterGroup


def decay_groups(module: nn.Module) -> tuple[ParameterGroup, ...]:
    """Every trainable parameter in exactly one of two groups.

    A parameter with fewer than two dimensions is a bias, a norm's scale or a token. A module names further parameters
    of its own that are not to decay, such as a table of tokens, in ``no_decay``.

    The released I-JEPA and V-JEPA decay their mask tokens, which they keep as arrays of three dimensions.
    """
    named = {id(getattr(part, name)) for part in module.modules() for name in getattr(part, "no_decay", ())}
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = tuple((name, p) for name, p in trainable if p.dim() >= 2 and id(p) not in named)
    vectors = tuple((name, p) for name, p in trainable if p.dim() < 2 or id(p) in named)
    groups = (
        ParameterGroup("matrices", matrices, weight_decay=True),
        ParameterGroup("norms, biases, tokens", vectors, weight_decay=False),
    )
    return tuple(group for group in groups if group.parameters)
