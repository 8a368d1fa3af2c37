"""The vision plug-in: I-JEPA (arXiv 2301.08243) and its control MAE (2111.06377), composed from the common parts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import torch

from jepa_core.anticollapse import PooledVariance
from jepa_core.contracts import Batch, Masker, Method, Picture, ProbeTable, SampleSource, TargetEncoder
from jepa_core.energy import build_energy
from jepa_core.masking.block import MultiBlockMasker
from jepa_core.masking.random import RandomMasker
from jepa_core.methods.masked import MaskedPrediction, Regulariser
from jepa_core.nn.predictor import TransformerPredictor
from jepa_core.targets import EmaTarget, LayerNormalise, MomentumSchedule, RawTarget, StopGradientTarget
from jepa_vision.encoder import SIZES, VisionTransformer
from jepa_vision.frontend import PatchFrontEnd, patch_lattice, pixels
from jepa_vision.probe import ImageProbe
from jepa_vision.settings import VisionRun
from jepa_vision.sources import choose_root, images_of, size_of, splits_of, training_source


class VisionModality:
    """See :class:`jepa_core.contracts.Modality`."""

    name = "vision"
    schema = VisionRun
    recipes = files("jepa_vision") / "recipes"

    def build(self, config: VisionRun) -> Method:
        """The method of this configuration, on the CPU, in float32."""
        return cast(Method, build_method(config))

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
        return rows

    def probe(self, config: VisionRun, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Frozen features against the controls; None when switched off or where there are no classes to probe with."""
        images = images_of(config)
        splits = splits_of(config, images)
        if not config.probe.enabled or not images.classes or not splits.test:
            return None
        probe = ImageProbe(splits, size_of(config), config.probe, device)
        probe.add("trained", cast(MaskedPrediction, trained))
        probe.add("untrained", cast(MaskedPrediction, untrained))
        probe.add_raw()
        return probe.table()

    def pictures(self, config: VisionRun, method: Method, batch: Batch) -> Sequence[Picture]:
        """Masks over the first images."""
        from jepa_vision.pictures import mask_pictures

        return mask_pictures(cast(MaskedPrediction, method), batch)

    def add_commands(self, subparsers: Any) -> None:
        """Brings none."""


MODALITY = VisionModality()


def build_method(config: VisionRun) -> MaskedPrediction:
    """Composes the parts that the settings name."""
    options = config.vision
    patch = (options.encoder.patch, options.encoder.patch)
    front_end = PatchFrontEnd(patch)
    encoder = VisionTransformer(
        SIZES[options.encoder.size],
        front_end.channels,
        patch_lattice(size_of(config), patch),
        stem=options.encoder.stem,
        positions=options.encoder.positions,
        drop_path=options.encoder.drop_path,
        recompute=options.encoder.recompute,
        scale_residuals=options.encoder.scale_residuals,
    )
    return MaskedPrediction(
        front_end=front_end,
        encoder=encoder,
        target=_target(config, encoder),
        masker=build_masker(config),
        predictor=_predictor(config, encoder, front_end.channels),
        energy=build_energy(options.energy),
        regularisers=_regularisers(options.variance_weight),
        normaliser=LayerNormalise() if options.target.normalise == "layer" else None,
        monitor_rows=config.monitor.rows,
    )


def build_masker(config: VisionRun) -> Masker:
    """The masker that the settings name."""
    wanted = config.vision.masking
    if wanted.kind == "random":
        return RandomMasker(wanted.ratio)
    return MultiBlockMasker(
        wanted.blocks,
        (wanted.target_scale_min, wanted.target_scale_max),
        (wanted.target_aspect_min, wanted.target_aspect_max),
        (wanted.context_scale_min, wanted.context_scale_max),
        truncate=wanted.truncate,
        edges=wanted.edges,
        context_tokens=wanted.context_tokens,
    )


def _target(config: VisionRun, encoder: VisionTransformer) -> TargetEncoder:
    wanted = config.vision.target
    if wanted.policy == "pixels":
        return RawTarget(pixels)
    if wanted.policy == "stop_gradient":
        return StopGradientTarget(encoder)
    schedule = MomentumSchedule(wanted.momentum_start, wanted.momentum_end, config.trainer.max_steps)
    return EmaTarget(encoder, "follow", schedule)


def _predictor(config: VisionRun, encoder: VisionTransformer, channels: int) -> TransformerPredictor:
    wanted, positions = config.vision.predictor, config.vision.encoder.positions
    axes = encoder.lattice.axes
    return TransformerPredictor(
        encoder.lattice,
        encoder.width,
        wanted.width,
        wanted.depth,
        wanted.heads or encoder.size.heads,
        output_width=channels if config.vision.target.policy == "pixels" else None,
        positions="rotary" if positions.startswith("rotary") else "sin_cos",
        order=tuple(reversed(axes)) if positions == "sin_cos_xy" else axes,
        pairing="tiled" if positions == "rotary_tiled" else "interleaved",
        recompute=config.vision.encoder.recompute,
    )


def _regularisers(weight: float) -> list[Regulariser]:
    return [Regulariser(PooledVariance(), "context", 0, weight, l2_normalise=False)] if weight else []
