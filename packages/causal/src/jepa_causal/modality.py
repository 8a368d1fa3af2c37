"""The causal plug-in: Causal-JEPA (arXiv 2602.11389) on the slots of worlds with ground truth, pixels, or files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import torch

from jepa_causal.build import build_method
from jepa_causal.settings import CausalRun
from jepa_causal.sources import (
    check_scored,
    cut_of,
    episodes_of,
    front_end_of,
    labelled_windows,
    slot_shape,
    training_windows,
)
from jepa_causal.windows import SlotWindow
from jepa_core.contracts import Batch, Method, Picture, ProbeTable, SampleSource
from jepa_core.evaluation_source import LabelledSource, Split
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.results import SamplePictures


class CausalModality:
    """See :class:`jepa_core.contracts.Modality`."""

    name = "causal"
    schema = CausalRun
    recipes = files("jepa_causal") / "recipes"

    def build(self, config: CausalRun) -> Method:
        """The method of this configuration, on the CPU, in float32; number and width of slots are the data's."""
        method = build_method(config.causal, slot_shape(config), front_end_of(config), config.seed, config.monitor.rows)
        return cast(Method, method)

    def sources(self, config: CausalRun) -> SampleSource:
        """Every window of every training episode; what cannot be scored at the end is told now."""
        if config.probe.enabled:
            check_scored(config)
        return training_windows(config)

    def choices(self, config: CausalRun) -> Sequence[tuple[str, str, str]]:
        """Episodes, slots, windows and streams, each with its reason."""
        found, windows, cut = episodes_of(config), training_windows(config), cut_of(config)
        rows = [
            ("episodes", f"{len(found.train)} to train on, {len(found.test)} held back", found.note),
            ("slots", f"{windows.slots} of width {windows.width}", f"data.slots={config.data.slots}"),
            ("windows", str(len(windows)), f"every start of {cut.steps} steps, frame_skip={cut.frame_skip}"),
            ("streams", _streams(cut.actions, cut.proprio), "what episodes have and the settings want"),
        ]
        if windows.too_short:
            rows.append(("too short", _episodes(windows.too_short), f"fewer than the {cut.span} frames of a window"))
        if found.left_out:
            rows.append(("left out", _episodes(len(found.left_out)), found.left_out[0]))
        return rows

    def probe(self, config: CausalRun, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Forecast, completion and counterfactual on what was held back; None when switched off or without any."""
        if not config.probe.enabled or not episodes_of(config).test:
            return None
        from jepa_causal.evaluation import evaluate

        return evaluate(config, trained, untrained, device)

    def evaluation(self, config: CausalRun, split: Split) -> LabelledSource | None:
        """Windows with the labels of their episodes; their tokens are the slots."""
        return labelled_windows(config, split)

    def pictures(self, config: CausalRun, method: Method, batch: Batch) -> Sequence[Picture]:
        """Masks of the first windows, steps by slots."""
        from jepa_causal.pictures import mask_pictures

        return mask_pictures(cast(MaskedPrediction, method), batch)

    def feature_pictures(
        self, config: CausalRun, trained: Method, untrained: Method, batch: Batch
    ) -> Sequence[Picture]:
        """Rollouts of the trained predictor on the episodes that :meth:`probe` scores; none where it scores none."""
        if not config.probe.enabled or not episodes_of(config).test:
            return []
        from jepa_causal.rollouts import run_pictures

        return run_pictures(config, trained, cast(SlotWindow, batch.inputs).slots.device)

    def sample_pictures(self, config: CausalRun, batch: Batch) -> SamplePictures:
        """Frames of the windows; none of episodes that have none and whose world is not known."""
        from jepa_causal.frames import SAMPLE_HOW, window_pngs

        return SamplePictures(window_pngs(config, batch.sample_id), SAMPLE_HOW)

    def add_commands(self, subparsers: Any) -> None:
        """Brings none."""


def _episodes(count: int) -> str:
    return "1 episode" if count == 1 else f"{count} episodes"


def _streams(actions: bool, proprio: bool) -> str:
    names = [name for name, there in (("actions", actions), ("proprioception", proprio)) if there]
    return " and ".join(names) or "none"


MODALITY = CausalModality()
