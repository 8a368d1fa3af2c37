"""The typed settings of the vision modality; recipes are values for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_core.checks import check_between, check_rising
from jepa_core.evaluate.heads import ProbeSettings
from jepa_core.settings import DataSettings, OptimizerSettings, RunSettings, TrainerSettings
from jepa_vision.encoder import SIZES


@dataclass
class AugmentSettings:
    """The training view: one random resized crop, then flip, colour and blur where they are asked for.

    Attributes:
        scale_min, scale_max: share of the picture's area that is cut out.
        aspect_min, aspect_max: width / height of the cut, times that of the input size.
        flip: chance of a left-right flip.
        brightness, contrast, saturation: b draws a factor from 1 - b to 1 + b; 0 = as it is.
        hue: h turns the colours by -h to h of the circle; 0 = as they are.
        gray: chance that colours are taken away.
        blur: chance of a Gaussian blur of 0.1 to 2 pixels' width.
    """

    scale_min: float = 0.3
    scale_max: float = 1.0
    aspect_min: float = 0.75
    aspect_max: float = 1.3333333333333333
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gray: float = 0.0
    blur: float = 0.0


@dataclass
class VisionDataSettings(DataSettings):
    """Images.

    Attributes:
        root: folder of images, of tar shards, of .npz or .parquet files, or one that ``Dataset.save_to_disk`` wrote;
            None = ``JEPA_DATA``/images/clothing10, then the small copy of it in the package.
        height, width: input size in pixels, a multiple of ``vision.encoder.patch``.
        augment: see there.
    """

    height: int = 224
    width: int = 224
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass
class EncoderSettings:
    """The vision transformer.

    Attributes:
        size: ``nano`` (0.8 M parameters) to ``gigantic``; ``giant_22_heads`` and ``gigantic_26_heads`` differ in heads.
        patch: side of a patch in pixels.
        stem: ``linear`` (published) or ``mlp`` (linear, GELU, linear on each patch).
        positions: ``sin_cos_xy`` (I-JEPA's tables), ``sin_cos_yx`` (V-JEPA's), ``rotary_interleaved`` or
            ``rotary_tiled`` (V-JEPA 2 as intended and as released), or ``stored`` (a table that comes with
            ``vision.weights``).
        init: how linear layers are drawn, the predictor's too: ``normal`` (standard deviation 0.02, as published),
            ``xavier`` (by a layer's widths; far better for narrow encoders) or ``torch`` (as the layers are made).
        drop_path: rate of the last block, growing from 0.
        recompute: keep no activations inside a block, compute them again in backward.
        scale_residuals: ``constant`` or ``by_depth`` (V-JEPA 2's initialisation).
        timm: a plain vision transformer of timm instead, such as ``vit_tiny_patch16_224``, untrained and built for the
            run's input size and ``patch``; images only. ``size`` and ``stem`` are then left as they are by default, and
            ``positions``, which are the predictor's alone. None = the one described above.
    """

    size: Literal[
        "nano",
        "micro",
        "tiny",
        "small",
        "base",
        "large",
        "huge",
        "giant",
        "giant_22_heads",
        "gigantic",
        "gigantic_26_heads",
    ] = "base"
    patch: int = 16
    stem: Literal["linear", "mlp"] = "linear"
    positions: Literal["sin_cos_xy", "sin_cos_yx", "rotary_interleaved", "rotary_tiled", "stored"] = "sin_cos_xy"
    init: Literal["normal", "xavier", "torch"] = "normal"
    drop_path: float = 0.0
    recompute: bool = False
    scale_residuals: Literal["constant", "by_depth"] = "constant"
    timm: str | None = None


@dataclass
class MaskingSettings:
    """What is hidden.

    Attributes:
        kind: ``multiblock`` (I-JEPA) or ``random`` (single patches).
        ratio: with ``random``, the share that is hidden.
        masks: with ``random``, masks of an image; they share one pass of the target encoder.
        blocks: with ``multiblock``, target blocks of an image.
        target_scale_min, target_scale_max: share of the image of a target block.
        target_aspect_min, target_aspect_max: rows / columns of a target block.
        context_scale_min, context_scale_max: share of the image of the block the context is cut from.
        truncate: ``random`` (fixed context length, what is too much is left out at random) or ``prefix`` (as released:
            cut to the shortest of the batch from the top of the image down, the last row and column never used).
        edges: ``wrap`` (blocks go on at the other side: every patch is used equally often) or ``inside`` (as released;
            the only choice with ``prefix``).
        context_tokens: context length with ``random`` truncation; 0 = 2/7 of the patches.
    """

    kind: Literal["multiblock", "random"] = "multiblock"
    ratio: float = 0.75
    masks: int = 1
    blocks: int = 4
    target_scale_min: float = 0.15
    target_scale_max: float = 0.2
    target_aspect_min: float = 0.75
    target_aspect_max: float = 1.5
    context_scale_min: float = 0.85
    context_scale_max: float = 1.0
    truncate: Literal["random", "prefix"] = "random"
    edges: Literal["inside", "wrap"] = "wrap"
    context_tokens: int = 0


@dataclass
class PredictorSettings:
    """The narrow transformer that predicts.

    Attributes:
        width: E of its tokens, in channels.
        depth: blocks.
        heads: attention heads; 0 = as many as the encoder.
        mask_tokens: rows of the table of mask tokens; with one, all masks of a sample share it.
        token: the row that all masks take; -1 = each mask its own.
        token_std: width of the tokens' first draw; V-JEPA's are 0.
        sequences: ``per_block`` (as published: each target block is a sequence with the whole context) or ``packed``
            (all target blocks of a sample in one, the context once; the context does not attend to the mask tokens,
            which is other mathematics: about half of the predictor's work with four blocks).
    """

    width: int = 384
    depth: int = 12
    heads: int = 0
    mask_tokens: int = 1
    token: int = -1
    token_std: float = 0.02
    sequences: Literal["per_block", "packed"] = "per_block"


@dataclass
class TargetSettings:
    """What is predicted.

    Attributes:
        policy: ``ema`` (features of a moving average of the encoder), ``stop_gradient`` (the encoder's own), or
            ``pixels`` (the masked autoencoder, the control).
        normalise: ``layer`` (each target vector to mean 0 and variance 1; with pixels, each patch), ``centred_layer``
            (the same after the mean of the sample's targets is taken off: what all of them share need not be
            predicted) or ``none``.
        momentum_start: EMA momentum of the first update.
        momentum_end: EMA momentum of the last update.
    """

    policy: Literal["ema", "stop_gradient", "pixels"] = "ema"
    normalise: Literal["layer", "centred_layer", "none"] = "layer"
    momentum_start: float = 0.996
    momentum_end: float = 1.0


@dataclass
class VisionSettings:
    """The method.

    Attributes:
        encoder: see there.
        masking: see there.
        predictor: see there.
        target: see there.
        energy: ``smooth_l1`` (I-JEPA's code), ``l2`` (its paper; the masked autoencoder) or ``l1``.
        weights: what training starts from: a released .pth.tar or .pt file, a folder of transformers, timm or jepakit,
            or the folder of a run; None = random weights. It must fit the encoder and predictor set here.
        weights_copy: of weights that have both: ``teacher`` (the moving average, which the papers evaluate) or
            ``student``; it fills the encoder and its moving average.
        weights_parts: ``all`` (encoder and predictor) or ``encoder`` (a random predictor).
        variance_weight: weight of variance hinge and covariance of context features; 0 = none. Small encoders lose rank
            without it.
        variance_of: whose: ``samples`` (mean features of the samples of the batch) or ``tokens`` (the tokens within
            each sample: what differs from place to place and from time to time).
    """

    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    predictor: PredictorSettings = field(default_factory=PredictorSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    energy: Literal["smooth_l1", "l2", "l1"] = "smooth_l1"
    weights: str | None = None
    weights_copy: Literal["teacher", "student"] = "teacher"
    weights_parts: Literal["all", "encoder"] = "all"
    variance_weight: float = 0.0
    variance_of: Literal["samples", "tokens"] = "samples"


@dataclass
class VisionProbeSettings(ProbeSettings):
    """The probe on frozen features: which class is this image?

    Attributes:
        train_images: images the probe is fitted on, at most; 0 = all.
        test_images: images it is tested on, at most; 0 = all.
    """

    train_images: int = 0
    test_images: int = 0


@dataclass
class VisionRun(RunSettings):
    """A run on images: the common settings and this modality's.

    Attributes:
        data: see there.
        vision: the method.
        probe: the probe.
    """

    modality: str = "vision"
    data: VisionDataSettings = field(default_factory=VisionDataSettings)
    vision: VisionSettings = field(default_factory=VisionSettings)
    probe: VisionProbeSettings = field(default_factory=VisionProbeSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def validate(self) -> None:
        """Impossible values; each message names the key, what was expected and what came."""
        check_view(self.data.height, self.data.width, self.vision.encoder.patch, self.data.augment)
        self._check_masking()
        check_method(self.vision, self.probe.encoder)
        check_probe(self.probe, self.vision.encoder)
        for key in ("train_images", "test_images"):
            check_between(f"probe.{key}", getattr(self.probe, key), 0, float("inf"))

    def _check_masking(self) -> None:
        masking = self.vision.masking
        check_between("vision.masking.ratio", masking.ratio, 0.01, 0.99)
        check_between("vision.masking.masks", masking.masks, 1, 64)
        check_between("vision.masking.blocks", masking.blocks, 1, 64)
        check_between("vision.masking.context_tokens", masking.context_tokens, 0, float("inf"))
        check_rising("vision.masking.target_scale", masking.target_scale_min, masking.target_scale_max, 1)
        check_rising("vision.masking.target_aspect", masking.target_aspect_min, masking.target_aspect_max, 32)
        check_rising("vision.masking.context_scale", masking.context_scale_min, masking.context_scale_max, 1)
        if masking.truncate == "prefix" and masking.edges == "wrap":
            raise ValueError("vision.masking.edges: expected inside, which the released truncate=prefix has, got wrap")


# --------------------------------------------------------------------------------------------------------------------
# What images and clips have in common
# --------------------------------------------------------------------------------------------------------------------


def check_view(height: int, width: int, patch: int, augment: AugmentSettings) -> None:
    """Refuses an input that is no whole number of patches, and impossible crops."""
    check_between("vision.encoder.patch", patch, 1, float("inf"))
    for key, side in (("height", height), ("width", width)):
        if side < patch or side % patch:
            raise ValueError(f"data.{key}: expected a multiple of vision.encoder.patch ({patch}), got {side}")
    check_rising("data.augment.scale", augment.scale_min, augment.scale_max, 1)
    check_rising("data.augment.aspect", augment.aspect_min, augment.aspect_max, 32)
    for key in ("flip", "brightness", "contrast", "saturation", "gray", "blur"):
        check_between(f"data.augment.{key}", getattr(augment, key), 0, 1)
    check_between("data.augment.hue", augment.hue, 0, 0.5)


def check_method(options: VisionSettings, probed: str) -> None:
    """Refuses impossible encoders, predictors and targets; ``probed`` is the encoder that the probe takes."""
    predictor, target = options.predictor, options.target
    _check_timm(options.encoder)
    check_between("vision.encoder.drop_path", options.encoder.drop_path, 0, 0.99)
    for key in ("width", "depth", "mask_tokens"):
        check_between(f"vision.predictor.{key}", getattr(predictor, key), 1, float("inf"))
    check_between("vision.predictor.heads", predictor.heads, 0, float("inf"))
    check_between("vision.predictor.token", predictor.token, -1, predictor.mask_tokens - 1)
    check_between("vision.predictor.token_std", predictor.token_std, 0, 1)
    check_between("vision.target.momentum_start", target.momentum_start, 0, 1)
    check_between("vision.target.momentum_end", target.momentum_end, 0, 1)
    check_between("vision.variance_weight", options.variance_weight, 0, float("inf"))
    if options.encoder.timm is not None and options.weights is not None:
        raise ValueError("vision.weights: expected null beside vision.encoder.timm, which starts untrained, got a path")
    if options.encoder.init != "normal" and options.encoder.scale_residuals == "by_depth":
        raise ValueError(
            f"vision.encoder.init: expected normal beside scale_residuals=by_depth, got {options.encoder.init}"
        )
    if options.encoder.positions == "stored" and options.weights is None:
        raise ValueError("vision.encoder.positions: stored needs vision.weights, which bring the table, got none")
    if probed == "target" and target.policy != "ema":
        raise ValueError(f"probe.encoder: target needs vision.target.policy=ema, got {target.policy}")


def check_probe(probe: ProbeSettings, encoder: EncoderSettings) -> None:
    """Refuses a block that the encoder does not have, and numbers below 1; timm's models tell their blocks later."""
    if encoder.timm is None:
        check_between("probe.layer", probe.layer, -1, SIZES[encoder.size].depth - 1)
    for key in ("neighbours", "batch_size"):
        check_between(f"probe.{key}", getattr(probe, key), 1, float("inf"))


def _check_timm(encoder: EncoderSettings) -> None:
    """Refuses settings that timm's model has of its own: they would do nothing."""
    if encoder.timm is None:
        return
    for key in ("size", "stem", "positions"):
        usual = EncoderSettings.__dataclass_fields__[key].default
        if getattr(encoder, key) != usual:
            raise ValueError(
                f"vision.encoder.{key}: expected {usual} beside vision.encoder.timm, which has its own, got "
                f"{getattr(encoder, key)}"
            )
