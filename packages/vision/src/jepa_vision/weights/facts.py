"""What must be known of an encoder and its predictor to build them again: sizes, patches, positions, normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from jepa_core.lattice import Lattice
from jepa_core.nn.predictor import Sequences, TransformerPredictor
from jepa_core.weights.build import check_names, set_norm_eps, shapes_of
from jepa_core.weights.contents import by
from jepa_vision.encoder import SIZES, Size, Stem, VisionTransformer
from jepa_vision.frontend import IMAGENET_MEAN, IMAGENET_STD, PatchFrontEnd, patch_lattice
from jepa_vision.positions import Positions, channel_order, channel_split, pairing_of, predictor_positions
from jepa_vision.settings import VisionSettings

NORM_EPS = 1e-6


@dataclass(frozen=True)
class PredictorFacts:
    """A predictor.

    Attributes:
        width, depth, heads, mlp_hidden: of its transformer.
        output_width: D of its predictions.
        mask_tokens: rows of its table of mask tokens.
        token: the row that all masks take; None = each mask its own.
        positions: its code, by the encoder's names; never ``stored``.
        sequences: see :class:`jepa_core.nn.predictor.TransformerPredictor`.
    """

    width: int
    depth: int
    heads: int
    mlp_hidden: int
    output_width: int
    mask_tokens: int = 1
    token: int | None = 0
    positions: Positions = "sin_cos_xy"
    sequences: Sequences = "per_block"


@dataclass(frozen=True)
class Facts:
    """An encoder, its input and its predictor.

    Attributes:
        size: of the transformer.
        patch: ``([frames,] rows, columns)`` of a patch.
        input_size: ``([frames,] height, width)`` that is usual; any multiple of the patch is possible.
        stem, positions: see :class:`jepa_vision.encoder.VisionTransformer`.
        norm_eps: of the layer norms.
        mean, std: of each channel, of values in 0..1.
        predictor: None = the encoder alone.
    """

    size: Size
    patch: tuple[int, ...]
    input_size: tuple[int, ...]
    stem: Stem = "linear"
    positions: Positions = "sin_cos_xy"
    norm_eps: float = NORM_EPS
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    predictor: PredictorFacts | None = None

    @property
    def lattice(self) -> Lattice:
        """Sites of an input of the usual size."""
        return patch_lattice(self.input_size, self.patch)

    @property
    def is_video(self) -> bool:
        """Clips rather than pictures."""
        return len(self.patch) == 3

    def without_predictor(self) -> Facts:
        """The same encoder alone."""
        return replace(self, predictor=None)

    def as_json(self) -> dict[str, Any]:
        """Plain values; :func:`facts_from_json` reads them back."""
        return asdict(self)

    def describe(self) -> list[str]:
        """A line on the encoder and, where there is one, a line on the predictor."""
        size = self.size
        lines = [
            f"encoder: width {size.width}, {size.depth} blocks, {size.heads} heads, MLP {size.mlp_hidden}, "
            f"patch {by(self.patch)}, usual input {by(self.input_size)}, positions {self.positions}",
        ]
        if self.predictor is not None:
            inner = self.predictor
            row = "each mask its own" if inner.token is None else f"row {inner.token}"
            lines.append(
                f"predictor: width {inner.width}, {inner.depth} blocks, {inner.heads} heads, {inner.mask_tokens} mask "
                f"tokens ({row}), positions {inner.positions}, sequences {inner.sequences}"
            )
        return lines

    def front_end(self) -> PatchFrontEnd:
        """Normalises and cuts into patches."""
        return PatchFrontEnd(self.patch, self.mean, self.std)

    def encoder(self) -> VisionTransformer:
        """An encoder with random weights."""
        channels = len(self.mean) * math.prod(self.patch)
        encoder = VisionTransformer(self.size, channels, self.lattice, self.stem, self.positions)
        set_norm_eps(encoder, self.norm_eps)
        return encoder

    def build_predictor(self) -> TransformerPredictor:
        """A predictor with random weights; there must be one."""
        assert self.predictor is not None
        wanted, lattice = self.predictor, self.lattice
        predictor = TransformerPredictor(
            lattice,
            self.size.width,
            wanted.width,
            wanted.depth,
            wanted.heads,
            mlp_hidden=wanted.mlp_hidden,
            output_width=wanted.output_width,
            positions="rotary" if wanted.positions.startswith("rotary") else "sin_cos",
            order=channel_order(wanted.positions, lattice),
            channels=channel_split(wanted.positions, lattice, wanted.width),
            pairing=pairing_of(wanted.positions),
            mask_tokens=wanted.mask_tokens,
            token=wanted.token,
            sequences=wanted.sequences,
        )
        set_norm_eps(predictor, self.norm_eps)
        return predictor

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes of the tensors of ``encoder`` and, where there is one, ``predictor``, by our names."""
        return shapes_of(self.encoder, None if self.predictor is None else self.build_predictor)


def facts_from_json(values: Mapping[str, Any]) -> Facts:
    """The inverse of :meth:`Facts.as_json`.

    Raises:
        ValueError: a key is unknown or missing, or a value cannot be.
    """
    check_names(values, Facts, "model")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    size, inner = values["size"], values["predictor"]
    check_names(size, Size, "model.size")
    given["size"] = Size(**size)
    if inner is not None:
        inner = {"sequences": "per_block", **inner}  # folders from before there was a choice do not say it
        check_names(inner, PredictorFacts, "model.predictor")
        given["predictor"] = PredictorFacts(**inner)
    for key, choices in (("stem", get_args(Stem)), ("positions", get_args(Positions))):
        if given[key] not in choices:
            raise ValueError(f"model.{key}: expected one of {', '.join(choices)}, got {given[key]!r}")
    return Facts(**given)


def facts_from_settings(options: VisionSettings, size: Sequence[int], patch: Sequence[int]) -> Facts:
    """The facts of what a run builds on inputs of ``size`` in patches of ``patch``, as ``build_method`` takes them."""
    encoder, predictor = options.encoder, options.predictor
    own = SIZES[encoder.size]
    channels = len(IMAGENET_MEAN) * math.prod(patch)
    token = None if predictor.token < 0 else predictor.token
    return Facts(
        own,
        tuple(patch),
        tuple(size),
        stem=encoder.stem,
        positions=encoder.positions,
        predictor=PredictorFacts(
            predictor.width,
            predictor.depth,
            predictor.heads or own.heads,
            4 * predictor.width,
            channels if options.target.policy == "pixels" else own.width,
            predictor.mask_tokens,
            0 if predictor.mask_tokens == 1 else token,
            predictor_positions(encoder.positions, len(patch)),
            predictor.sequences,
        ),
    )


def ratio_of(hidden: int, width: int) -> float:
    """The MLP's ratio from which others compute ``int(width * ratio)``, so that they get ``hidden`` again."""
    ratio = hidden / width
    while int(width * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio
