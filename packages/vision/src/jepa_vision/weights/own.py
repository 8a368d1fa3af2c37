"""The project's own format of vision models; see :mod:`jepa_core.weights.own`."""

from __future__ import annotations

from jepa_core.weights.own import OwnFormat
from jepa_vision.weights.facts import facts_from_json

OWN = OwnFormat("jepakit-vision", 1, "jepa-vision", facts_from_json)
