"""Weights of vision encoders: the core's, with this modality's facts."""

from __future__ import annotations

from typing import Literal

from jepa_core.weights import Copy as Copy
from jepa_core.weights import Parts as Parts
from jepa_core.weights import Weights as AnyWeights
from jepa_core.weights import WeightsError as WeightsError
from jepa_core.weights import refuse_misfits as refuse_misfits
from jepa_vision.weights.facts import Facts

Family = Literal["ijepa", "vjepa", "vjepa2"]
Weights = AnyWeights[Facts]
