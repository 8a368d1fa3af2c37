"""Composes the parts that the settings name: masker, encoders, predictor."""

from __future__ import annotations

from jepa_audio.encoder import AudioTransformer, channel_order
from jepa_audio.front_ends import FrontEnd
from jepa_audio.frontend import pixels
from jepa_audio.settings import AudioSettings, MaskingSettings
from jepa_audio.wave_frontend import WaveformFrontEnd
from jepa_core.contracts import Masker, TargetEncoder
from jepa_core.energy import build_energy
from jepa_core.lattice import Lattice
from jepa_core.masking.block import MultiBlockMasker
from jepa_core.masking.curriculum import RootCurriculum
from jepa_core.masking.inverse_block import InverseBlockMasker
from jepa_core.masking.random import RandomMasker
from jepa_core.masking.spans import SpanMasker
from jepa_core.masking.time import TimeMasker
from jepa_core.methods.agreement import ViewAgreement
from jepa_core.methods.choices import NORMALISERS, variance_terms
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.nn.patch_encoder import SIZES
from jepa_core.nn.predictor import TransformerPredictor
from jepa_core.nn.transformer import draw_linear
from jepa_core.targets import (
    EmaTarget,
    MeanOfBlocks,
    MomentumSchedule,
    RawTarget,
    StopGradientTarget,
    TargetReadout,
)
from jepa_core.weights.build import set_norm_eps


def build_masker(wanted: MaskingSettings, max_steps: int) -> Masker:
    """The masker that the settings name."""
    if wanted.kind == "random":
        return RandomMasker((wanted.ratio_min, wanted.ratio_max) if wanted.ratio_max else wanted.ratio, wanted.masks)
    if wanted.kind == "time":
        return TimeMasker(wanted.ratio, wanted.length)
    if wanted.kind == "inverse_block":
        return InverseBlockMasker(wanted.ratio, length=wanted.length, masks=wanted.masks)
    if wanted.kind == "spans":
        return SpanMasker(
            wanted.targets,
            wanted.target_span_chance,
            wanted.context_span_chance,
            wanted.span_length,
            min_context=wanted.least_context,
            max_context=max(0.4, wanted.least_context),
        )
    if wanted.kind == "curriculum":
        return RootCurriculum(max_steps)
    return MultiBlockMasker(
        wanted.blocks,
        (wanted.target_scale_min, wanted.target_scale_max),
        (wanted.target_aspect_min, wanted.target_aspect_max),
        (wanted.context_scale_min, wanted.context_scale_max),
        edges=wanted.edges,
        fit="fitted",  # a long clip's context block would else be as short as its few bands
    )


def build_method(
    options: AudioSettings, front_end: FrontEnd, samples: int, views: int, max_steps: int, monitor_rows: int
) -> MaskedPrediction:
    """The method.

    Args:
        options: see there.
        front_end: of :func:`jepa_audio.front_ends.build_front_end`.
        samples: of a training clip, at the front end's rate.
        views: of each clip.
        max_steps: optimiser steps of the run.
        monitor_rows: see :class:`jepa_core.methods.masked.MaskedPrediction`.
    """
    lattice = front_end.lattice_for(samples)
    masker = build_masker(options.masking, max_steps)
    if hasattr(masker, "check"):
        masker.check(lattice)  # here, where what a user can mend becomes one line
    encoder = _encoder(options, front_end, lattice)
    method = MaskedPrediction(
        front_end=front_end,
        encoder=encoder,
        target=_target(options, encoder, max_steps),
        masker=masker,
        predictor=_predictor(options, encoder, front_end.channels),
        energy=build_energy(options.energy),
        regularisers=variance_terms(options.variance_weight, options.variance_of),
        normaliser=NORMALISERS[options.target.normalise],
        target_view="full" if options.target.view == "full" else "targets",
        views=views,
        agreement=_agreement(options, encoder.width, views),
        monitor_rows=monitor_rows,
    )
    if options.weights is not None:
        from jepa_audio.weights.start import fill  # it builds encoders too

        fill(method, options, samples)
    return method


def _encoder(options: AudioSettings, front_end: FrontEnd, lattice: Lattice) -> AudioTransformer:
    wanted = options.encoder
    encoder = AudioTransformer(
        SIZES[wanted.size],
        front_end.channels,
        lattice,
        stem="none" if isinstance(front_end, WaveformFrontEnd) else wanted.stem,
        positions=wanted.positions,
        drop_path=wanted.drop_path,
        recompute=wanted.recompute,
        norm=wanted.norm,
        longest=wanted.longest,
    )
    set_norm_eps(encoder, wanted.norm_eps)
    draw_linear(encoder, wanted.init)
    return encoder


def _agreement(options: AudioSettings, width: int, views: int) -> ViewAgreement | None:
    wanted = options.agreement
    if not wanted.weight:
        return None
    agreement = ViewAgreement(width, views, wanted.hidden, wanted.output, wanted.weight, wanted.share, wanted.slices)
    draw_linear(agreement.projector, options.encoder.init)
    return agreement


def _predictor(options: AudioSettings, encoder: AudioTransformer, channels: int) -> TransformerPredictor:
    wanted, positions = options.predictor, options.encoder.positions
    predictor = TransformerPredictor(
        encoder.lattice,
        encoder.width,
        wanted.width,
        wanted.depth,
        wanted.heads or encoder.size.heads,
        output_width=channels if options.target.policy == "pixels" else None,
        positions="rotary" if positions == "rotary" else "sin_cos",
        order=channel_order(positions, encoder.lattice),
        recompute=options.encoder.recompute,
    )
    set_norm_eps(predictor, options.encoder.norm_eps)
    draw_linear(predictor, options.encoder.init)
    return predictor


def _target(options: AudioSettings, encoder: AudioTransformer, max_steps: int) -> TargetEncoder:
    wanted = options.target
    if wanted.policy == "pixels":
        return RawTarget(pixels)
    readout: TargetReadout | None = MeanOfBlocks(wanted.blocks, wanted.block_norm) if wanted.blocks else None
    if wanted.policy == "stop_gradient":
        return StopGradientTarget(encoder, readout)
    schedule = MomentumSchedule(wanted.momentum_start, wanted.momentum_end, max_steps, wanted.momentum_shape)
    return EmaTarget(encoder, "follow", schedule, readout)
