"""The motion example, whose method writes down which samples each process consumed at which step.

The folder is named by RECORD_IDS; one JSON line a micro-batch: ``{"step", "process", "ids"}``.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from jepa_core.contracts import Batch, Losses
from jepa_core.distributed import rank

_FILE = Path(__file__).resolve().parents[2] / "examples" / "own_modality.py"
_SPEC = importlib.util.spec_from_file_location("own_modality", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
_EXAMPLE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_EXAMPLE)


class RecordingModality(_EXAMPLE.MotionModality):  # type: ignore[misc,name-defined]  # loaded by its path
    """Trains as the example does."""

    name = "recording"

    def build(self, config: Any) -> Any:
        """The example's method, wrapped at its forward pass."""
        method = super().build(config)
        plain = type(method)

        class Recorded(plain):  # type: ignore[misc,valid-type]
            def forward(self, batch: Batch, step: int) -> Losses:
                if self.training:
                    with (Path(os.environ["RECORD_IDS"]) / f"{os.getpid()}.jsonl").open("a") as file:
                        line = {"step": step, "process": rank(), "ids": list(batch.sample_id)}
                        file.write(json.dumps(line) + "\n")
                return super().forward(batch, step)

        method.__class__ = Recorded
        return method


MODALITY = RecordingModality()
