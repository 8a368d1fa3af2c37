"""The video plug-in: V-JEPA (arXiv 2404.08471), V-JEPA 2 (2506.09985) and their control, a masked autoencoder on
tubelets (2203.12602), composed from the common parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import torch
from torch import Tensor

from jepa_core.contracts import Batch, Masker, Method, Picture, ProbeTable, SampleSource
from jepa_core.evaluation_source import LabelledSource, Split
from jepa_core.masking.block import TubeMasker, Tubes
from jepa_core.masking.future import FutureMasker
from jepa_core.masking.random import RandomMasker
from jepa_core.masking.source import MaskSource
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.results import SamplePictures
from jepa_core.thumbnails import strip_png
from jepa_vision.build import build_method
from jepa_vision.evaluation import labelled_clips
from jepa_vision.frontend import PatchFrontEnd
from jepa_vision.pictures import pixels_last
from jepa_vision.video_settings import VideoMaskingSettings, VideoRun
from jepa_vision.video_sources import describe, probe_split, size_of, training_source
from jepa_vision.weights.start import choice, untrained_rows


class VideoModality:
    """See :class:`jepa_core.contracts.Modality`."""

    name = "video"
    schema: type = VideoRun
    recipes = files("jepa_vision") / "video_recipes"

    def build(self, config: VideoRun) -> Method:
        """The method of this configuration, on the CPU, in float32."""
        encoder = config.vision.encoder
        method = build_method(
            config.vision,
            (config.data.frames, *size_of(config)),
            (encoder.tubelet, encoder.patch, encoder.patch),
            build_masker(config.vision.masking),
            config.trainer.max_steps,
            config.monitor.rows,
        )
        return cast(Method, method)

    def masking(self, config: VideoRun) -> MaskSource:
        """Masks of this configuration; see :class:`jepa_core.masking.source.MakesMasks`."""
        encoder = config.vision.encoder
        front_end = PatchFrontEnd((encoder.tubelet, encoder.patch, encoder.patch))
        return MaskSource(front_end, build_masker(config.vision.masking))

    def sources(self, config: VideoRun) -> SampleSource:
        """Training clips."""
        return training_source(config)

    def choices(self, config: VideoRun) -> Sequence[tuple[str, str, str]]:
        """Data and what is held back, each with its reason."""
        return [*describe(config), *choice(config.vision)]

    def probe(self, config: VideoRun, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Frozen features against the controls; None when switched off or where there are no classes to probe with."""
        split = probe_split(config) if config.probe.enabled else None
        if split is None:
            return None
        from jepa_vision.video_probe import probe_table

        controls = untrained_rows(config, cast(MaskedPrediction, untrained), self.build, device)
        return probe_table(split, {"trained": cast(MaskedPrediction, trained), **controls}, config.probe, device)

    def evaluation(self, config: VideoRun, split: Split) -> LabelledSource | None:
        """One plain clip of each recording, with its class."""
        return labelled_clips(config, split)

    def pictures(self, config: VideoRun, method: Method, batch: Batch) -> Sequence[Picture]:
        """Masks over the frames of the first clip."""
        from jepa_vision.video_pictures import mask_pictures

        return mask_pictures(cast(MaskedPrediction, method), batch)

    def feature_pictures(self, config: VideoRun, trained: Method, untrained: Method, batch: Batch) -> Sequence[Picture]:
        """Feature maps of the first clip."""
        from jepa_vision.feature_maps import feature_pictures

        device = cast(Tensor, batch.inputs).device
        controls = untrained_rows(config, cast(MaskedPrediction, untrained), self.build, device)
        return feature_pictures({"trained": cast(MaskedPrediction, trained), **controls}, batch)

    def sample_pictures(self, config: VideoRun, batch: Batch) -> SamplePictures:
        """The first frame, one in the middle and the last of each clip."""
        return SamplePictures([strip_png(clip) for clip in pixels_last(batch.inputs)], "Time to the right.")

    def add_commands(self, subparsers: Any) -> None:
        """Brings none."""


MODALITY = VideoModality()


def build_masker(wanted: VideoMaskingSettings) -> Masker:
    """The masker that the settings name."""
    if wanted.kind == "random":
        return RandomMasker(wanted.ratio, wanted.masks)
    if wanted.kind == "future":
        future = wanted.future
        return FutureMasker(future.past, future.context_share, future.target_share)
    aspect = (wanted.aspect_min, wanted.aspect_max)
    sets = [
        Tubes(name, tubes.blocks, (tubes.scale, tubes.scale), tubes.context_share, tubes.target_share, aspect)
        for name, tubes in (("short", wanted.short), ("long", wanted.long))
        if tubes.blocks
    ]
    return TubeMasker(sets, wanted.truncate, wanted.edges)
