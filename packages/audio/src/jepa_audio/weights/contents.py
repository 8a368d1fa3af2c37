"""Weights of sound encoders: the core's, with this modality's facts."""

from __future__ import annotations

from jepa_audio.weights.facts import Facts
from jepa_core.weights import Weights as AnyWeights

Weights = AnyWeights[Facts]
