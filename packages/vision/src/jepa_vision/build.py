"""Composes the parts that the settings name: what images and clips have in common."""

from __future__ import annotations

from collections.abc import Sequence

from jepa_core.contracts import Masker, TargetEncoder
from jepa_core.energy import build_energy
from jepa_core.lattice import Lattice
from jepa_core.masking.block import MultiBlockMasker, TubeMasker
from jepa_core.masking.future import FutureMasker
from jepa_core.methods.choices import NORMALISERS, variance_terms
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.nn.predictor import TransformerPredictor
from jepa_core.nn.transformer import draw_linear
from jepa_core.targets import (
    EmaTarget,
    MomentumSchedule,
    RawTarget,
    StopGradientTarget,
)
from jepa_vision.encoder import SIZES, VisionTransformer
from jepa_vision.frontend import PatchFrontEnd, patch_lattice, pixels
from jepa_vision.positions import channel_order, channel_split, pairing_of, predictor_positions
from jepa_vision.settings import EncoderSettings, VisionSettings
from jepa_vision.timm_encoder import TimmEncoder, build_timm_encoder


def build_encoder(wanted: EncoderSettings, lattice: Lattice, channels: int) -> VisionTransformer:
    """The encoder of flattened patches of ``channels`` values on a lattice."""
    return VisionTransformer(
        SIZES[wanted.size],
        channels,
        lattice,
        stem=wanted.stem,
        positions=wanted.positions,
        drop_path=wanted.drop_path,
        recompute=wanted.recompute,
        scale_residuals=wanted.scale_residuals,
    )


def choose_encoder(wanted: EncoderSettings, lattice: Lattice, channels: int) -> VisionTransformer | TimmEncoder:
    """The encoder of :func:`build_encoder`, or one of timm's where the settings name one."""
    if wanted.timm is not None:
        return build_timm_encoder(wanted, lattice)
    encoder = build_encoder(wanted, lattice, channels)
    draw_linear(encoder, wanted.init)
    return encoder


def build_predictor(
    options: VisionSettings, encoder: VisionTransformer | TimmEncoder, output_width: int | None = None
) -> TransformerPredictor:
    """The predictor over an encoder's tokens; ``output_width`` None = the encoder's."""
    wanted, positions = options.predictor, predictor_positions(options.encoder.positions, len(encoder.lattice.axes))
    predictor = TransformerPredictor(
        encoder.lattice,
        encoder.width,
        wanted.width,
        wanted.depth,
        wanted.heads or encoder.size.heads,
        output_width=output_width,
        positions="rotary" if positions.startswith("rotary") else "sin_cos",
        order=channel_order(positions, encoder.lattice),
        channels=channel_split(positions, encoder.lattice, wanted.width),
        pairing=pairing_of(positions),
        recompute=options.encoder.recompute,
        mask_tokens=wanted.mask_tokens,
        token=None if wanted.token < 0 else wanted.token,
        token_std=wanted.token_std,
        sequences=wanted.sequences,
    )
    draw_linear(predictor, options.encoder.init)
    return predictor


def build_method(
    options: VisionSettings,
    size: Sequence[int],
    patch: Sequence[int],
    masker: Masker,
    max_steps: int,
    monitor_rows: int,
) -> MaskedPrediction:
    """The method on inputs of ``size`` in patches of ``patch``, ``([frames,] height, width)`` both."""
    front_end = PatchFrontEnd(patch)
    lattice = patch_lattice(size, patch)
    if isinstance(masker, MultiBlockMasker | TubeMasker | FutureMasker):
        masker.check(lattice)  # here, where what a user can mend becomes one line
    encoder = choose_encoder(options.encoder, lattice, front_end.channels)
    on_pixels = options.target.policy == "pixels"
    method = MaskedPrediction(
        front_end=front_end,
        encoder=encoder,
        target=_target(options, encoder, max_steps),
        masker=masker,
        predictor=build_predictor(options, encoder, front_end.channels if on_pixels else None),
        energy=build_energy(options.energy),
        regularisers=variance_terms(options.variance_weight, options.variance_of),
        normaliser=NORMALISERS[options.target.normalise],
        monitor_rows=monitor_rows,
    )
    if options.weights is not None:
        from jepa_vision.weights.start import fill  # it builds encoders too

        fill(method, options, size, patch)
    return method


def _target(options: VisionSettings, encoder: VisionTransformer | TimmEncoder, max_steps: int) -> TargetEncoder:
    wanted = options.target
    if wanted.policy == "pixels":
        return RawTarget(pixels)
    if wanted.policy == "stop_gradient":
        return StopGradientTarget(encoder)
    return EmaTarget(encoder, "follow", MomentumSchedule(wanted.momentum_start, wanted.momentum_end, max_steps))
