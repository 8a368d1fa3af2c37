"""The vision plug-in: I-JEPA (arXiv 2301.08243) and its control MAE (2111.06377), composed from the common parts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import torch
from torch import Tensor

from jepa_core.checks import check_between
from jepa_core.contracts import Batch, Masker, Method, Picture, ProbeTable, SampleSource
from jepa_core.evaluation_source import LabelledSource, Split
from jepa_core.masking.block import MultiBlockMasker
from jepa_core.masking.random import RandomMasker
from jepa_core.masking.source import MaskSource
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.results import SamplePictures
from jepa_core.thumbnails import image_png
from jepa_vision.build import build_method
from jepa_vision.evaluation import labelled_images
from jepa_vision.frontend import PatchFrontEnd
from jepa_vision.pictures import pixels_last
from jepa_vision.probe import ImageProbe
from jepa_vision.settings import VisionRun
from jepa_vision.sources import choose_root, images_of, size_of, splits_of, training_source
from jepa_vision.weights.start import choice, untrained_rows


class VisionModality:
    """See :class:`jepa_core.contracts.Modality`."""

    name = "vision"
    schema = VisionRun
    recipes = files("jepa_vision") / "recipes"

    def build(self, config: VisionRun) -> Method:
        """The method of this configuration, on the CPU, in float32."""
        patch = (config.vision.encoder.patch, config.vision.encoder.patch)
        method = build_method(
            config.vision,
            size_of(config),
            patch,
            build_masker(config),
            config.trainer.max_steps,
            config.monitor.rows,
        )
        # timm's models tell only now how many blocks they have.
        check_between("probe.layer", config.probe.layer, -1, cast(Any, method.encoder).size.depth - 1)
        return cast(Method, method)

    def masking(self, config: VisionRun) -> MaskSource:
        """Masks of this configuration; see :class:`jepa_core.masking.source.MakesMasks`."""
        patch = config.vision.encoder.patch
        return MaskSource(PatchFrontEnd((patch, patch)), build_masker(config))

    def sources(self, config: VisionRun) -> SampleSource:
        """Training views of the images."""
        return training_source(config)

    def choices(self, config: VisionRun) -> Sequence[tuple[str, str, str]]:
        """Data and what is held back, each with its reason."""
        root, images = choose_root(config), images_of(config)
        splits = splits_of(config, images)
        classes = f"{len(images.classes)} classes" if images.classes else "no classes: there will be no probe"
        rows = [
            ("data", str(root.root), root.reason),
            ("images", f"{len(splits.train)} to train on", f"{images.kind}, {classes}"),
        ]
        if splits.test:
            rows.append(("held back", f"{len(splits.test)} images", splits.note))
        return [*rows, *choice(config.vision)]

    def probe(self, config: VisionRun, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Frozen features against the controls; None when switched off or where there are no classes to probe with."""
        images = images_of(config)
        splits = splits_of(config, images)
        if not config.probe.enabled or not images.classes or not splits.test:
            return None
        probe = ImageProbe(splits, size_of(config), config.probe, device)
        probe.add("trained", cast(MaskedPrediction, trained))
        for name, method in untrained_rows(config, cast(MaskedPrediction, untrained), self.build, device).items():
            probe.add(name, method)
        probe.add_raw()
        return probe.table()

    def evaluation(self, config: VisionRun, split: Split) -> LabelledSource | None:
        """Centre cuts with their classes."""
        return labelled_images(config, split)

    def pictures(self, config: VisionRun, method: Method, batch: Batch) -> Sequence[Picture]:
        """Masks over the first images."""
        from jepa_vision.pictures import mask_pictures

        return mask_pictures(cast(MaskedPrediction, method), batch)

    def feature_pictures(
        self, config: VisionRun, trained: Method, untrained: Method, batch: Batch
    ) -> Sequence[Picture]:
        """Feature maps of the first images."""
        from jepa_vision.feature_maps import feature_pictures

        device = cast(Tensor, batch.inputs).device
        controls = untrained_rows(config, cast(MaskedPrediction, untrained), self.build, device)
        return feature_pictures({"trained": cast(MaskedPrediction, trained), **controls}, batch)

    def sample_pictures(self, config: VisionRun, batch: Batch) -> SamplePictures:
        """The images."""
        return SamplePictures([image_png(image) for image in pixels_last(batch.inputs)])

    def add_commands(self, subparsers: Any) -> None:
        """``jepa data show-weights`` and ``jepa data convert-weights``."""
        from jepa_vision.commands import add_weights_commands

        add_weights_commands(subparsers)


MODALITY = VisionModality()


def build_masker(config: VisionRun) -> Masker:
    """The masker that the settings name."""
    wanted = config.vision.masking
    if wanted.kind == "random":
        return RandomMasker(wanted.ratio, wanted.masks)
    return MultiBlockMasker(
        wanted.blocks,
        (wanted.target_scale_min, wanted.target_scale_max),
        (wanted.target_aspect_min, wanted.target_aspect_max),
        (wanted.context_scale_min, wanted.context_scale_max),
        truncate=wanted.truncate,
        edges=wanted.edges,
        context_tokens=wanted.context_tokens,
    )
