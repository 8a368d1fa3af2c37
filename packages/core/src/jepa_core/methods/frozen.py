"""Tokens of a frozen encoder, for probes and pictures."""

from __future__ import annotations

from typing import Any, cast

import torch

from jepa_core.contracts import Tokens
from jepa_core.methods.masked import MaskedPrediction


@torch.no_grad()
def frozen_tokens(method: MaskedPrediction, which: str, inputs: Any, layer: int = -1) -> Tokens:
    """Tokens of whole inputs.

    Args:
        method: its front end and encoders are used.
        which: encoder, ``online`` or ``target``.
        inputs: what its front end takes, on the method's device.
        layer: the block whose output is given, counted from 0, before any norm; -1 = the last one after its norm.
    """
    encoder, patches = _encoder(method, which), _patches(method, inputs)
    if layer < 0:
        return cast(Tokens, encoder(patches, None))
    tokens = cast(Tokens, encoder.forward_layers(patches, None, (layer,)))
    return tokens.with_features(tokens.layers[f"block_{layer}"])


@torch.no_grad()
def frozen_blocks(method: MaskedPrediction, which: str, inputs: Any) -> Tokens:
    """Tokens of whole inputs, with the output of every block in ``Tokens.layers``; arguments of ``frozen_tokens``."""
    encoder = _encoder(method, which)
    return cast(Tokens, encoder.forward_layers(_patches(method, inputs), None, tuple(range(encoder.size.depth))))


def _encoder(method: MaskedPrediction, which: str) -> Any:
    return cast(Any, method.target).encoder if which == "target" else method.encoder


def _patches(method: MaskedPrediction, inputs: Any) -> Any:
    """Seeds are for training views: a method in eval mode asks for none."""
    device = next(method.parameters()).device
    return method.front_end(inputs, torch.empty(0, dtype=torch.long, device=device))[0]
