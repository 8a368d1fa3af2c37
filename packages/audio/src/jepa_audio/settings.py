"""The typed settings of the audio modality; recipes are values for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_audio.data_settings import AudioDataSettings, check_data
from jepa_audio.presets import PRESETS
from jepa_audio.readouts import READOUTS
from jepa_core.checks import check_between, check_rising, hint
from jepa_core.evaluate.heads import ProbeSettings
from jepa_core.nn.patch_encoder import SIZES
from jepa_core.settings import OptimizerSettings, RunSettings, TrainerSettings

WAVEFORM = "waveform"


@dataclass
class FrontEndSettings:
    """From a waveform to what is embedded.

    Attributes:
        preset: a filter bank of :data:`jepa_audio.presets.PRESETS` by name, or ``waveform`` (trained convolutions on
            the samples, WavJEPA).
        sample_rate_hz: of ``waveform``, in Hz; filter banks have theirs. Recordings are resampled to it.
        channels: of the convolutions of ``waveform``, a number.
        hop_length: samples from one frame to the next; 0 = the preset's.
        patch_frames: frames of a tile; 0 = the preset's.
        patch_bins: frequency bins of a tile; 0 = the preset's.
        mean, std: that log energies are normalised by, in their unit (natural log or dB, as the preset has them);
            None = the preset's, or measured on the training recordings where it has none.
        centre: what is taken off log energies: ``data`` (their mean over all recordings) or ``clip`` (each bin's own
            mean over the clip, cepstral mean normalisation: for speech, where loudness and microphone tell nothing).
    """

    preset: str = "default"
    sample_rate_hz: int = 16000
    channels: int = 512
    hop_length: int = 0
    patch_frames: int = 0
    patch_bins: int = 0
    mean: float | None = None
    std: float | None = None
    centre: Literal["data", "clip"] = "data"


@dataclass
class AugmentSettings:
    """A random rectangle of each training spectrogram, stretched over the whole; off where both shares are 1.

    It destroys what words are told by: for environmental sound, not for speech.

    Attributes:
        scale_min, scale_max: share of the spectrogram's area that is kept.
        aspect_min, aspect_max: share of the time over share of the bins.
    """

    scale_min: float = 1.0
    scale_max: float = 1.0
    aspect_min: float = 0.75
    aspect_max: float = 4 / 3


@dataclass
class EncoderSettings:
    """The transformer.

    Attributes:
        size: ``nano`` (0.8 M parameters) to ``huge``.
        stem: ``linear`` (published) or ``mlp`` (linear, GELU, linear on each tile); the waveform has its own.
        positions: ``sin_cos`` (fixed), ``sin_cos_ft`` (with frequency's channels first, as in the released weights of
            Audio-JEPA), ``rotary`` or ``learned`` (a table for each axis); any length of clip, though ``learned`` ends
            at ``longest`` steps.
        longest: steps of time that ``learned`` has codes for.
        norm: ``pre`` or ``post`` (WavJEPA).
        norm_eps: of all layer norms of encoder and predictor; released weights of Audio-JEPA have 1e-5.
        init: how linear layers are drawn, those of predictor and projector too: ``normal`` (standard deviation 0.02),
            ``xavier`` (by a layer's widths; M2D, and far better for narrow encoders) or ``torch`` (as the layers are
            made; the released code of Audio-JEPA).
        drop_path: rate of the last block, growing from 0.
        recompute: keep no activations inside a block, compute them again in backward.
    """

    size: Literal["nano", "micro", "tiny", "small", "base", "large", "huge"] = "base"
    stem: Literal["linear", "mlp"] = "linear"
    positions: Literal["sin_cos", "sin_cos_ft", "rotary", "learned"] = "sin_cos"
    longest: int = 1024
    norm: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    init: Literal["normal", "xavier", "torch"] = "normal"
    drop_path: float = 0.0
    recompute: bool = False


@dataclass
class MaskingSettings:
    """What is hidden.

    Attributes:
        kind: ``random`` (single tiles), ``multiblock`` (I-JEPA's rectangles), ``time`` (whole steps), ``inverse_block``
            (EAT: blocks stay visible), ``spans`` (WavJEPA, of a waveform) or ``curriculum`` (A-JEPA: from rectangles to
            time-frequency targets).
        ratio: with ``random`` and ``time`` the share that is hidden, with ``inverse_block`` at most.
        ratio_min, ratio_max: with ``random``, bounds of a share drawn for each batch instead; 0 = ``ratio`` always.
        masks: with ``random`` and ``inverse_block``, masks of a clip; they share one pass of the target encoder.
        length: steps of a hidden span with ``time``, tiles along a visible block with ``inverse_block``.
        blocks: with ``multiblock``, target blocks of a clip.
        target_scale_min, target_scale_max: with ``multiblock``, share of all tiles in a target block.
        target_aspect_min, target_aspect_max: with ``multiblock``, rows / columns of a target block.
        context_scale_min, context_scale_max: with ``multiblock``, share of all tiles in the block the context is cut
            from.
        edges: with ``multiblock``, whether blocks end at the edges or go on at the other side.
        span_length: with ``spans``, steps of time in a span.
        target_span_chance, context_span_chance: with ``spans``, share of the time that spans of a target, of what the
            context leaves out, would take if they did not overlap.
        targets: with ``spans``, targets of a clip.
        least_context: with ``spans``, least share of the steps that is left as context.
    """

    kind: Literal["random", "multiblock", "time", "inverse_block", "spans", "curriculum"] = "random"
    ratio: float = 0.7
    ratio_min: float = 0.0
    ratio_max: float = 0.0
    masks: int = 1
    length: int = 5
    blocks: int = 4
    target_scale_min: float = 0.15
    target_scale_max: float = 0.2
    target_aspect_min: float = 0.75
    target_aspect_max: float = 1.5
    context_scale_min: float = 0.85
    context_scale_max: float = 1.0
    edges: Literal["inside", "wrap"] = "wrap"
    span_length: int = 10
    target_span_chance: float = 0.25
    context_span_chance: float = 0.65
    targets: int = 4
    least_context: float = 0.1


@dataclass
class PredictorSettings:
    """The narrow transformer that predicts.

    Attributes:
        width: E of its tokens, in channels.
        depth: blocks.
        heads: attention heads; 0 = as many as the encoder.
    """

    width: int = 384
    depth: int = 6
    heads: int = 0


@dataclass
class TargetSettings:
    """What is predicted.

    Attributes:
        policy: ``ema`` (features of a moving average of the encoder), ``stop_gradient`` (the encoder's own), or
            ``pixels`` (the tiles themselves: the masked autoencoder, the control).
        view: ``full`` (the target encoder hears the whole clip) or ``masked`` (only what is hidden: M2D).
        blocks: the target is the mean of the last so many blocks' outputs; 0 = the encoder's output after its norm.
        block_norm: of each of them: ``instance`` (over the clip, each channel), ``layer`` or ``none``.
        normalise: ``layer`` (each target vector to mean 0 and variance 1), ``centred_layer`` (after the mean of the
            clip's targets is taken off) or ``none``.
        momentum_start, momentum_end: EMA momentum of the first and the last update.
        momentum_shape: ``linear`` or ``cosine`` between them.
    """

    policy: Literal["ema", "stop_gradient", "pixels"] = "ema"
    view: Literal["full", "masked"] = "full"
    blocks: int = 0
    block_norm: Literal["instance", "layer", "none"] = "instance"
    normalise: Literal["layer", "centred_layer", "none"] = "layer"
    momentum_start: float = 0.996
    momentum_end: float = 1.0
    momentum_shape: Literal["linear", "cosine"] = "linear"


@dataclass
class AgreementSettings:
    """Views of a clip shall have the same projected mean feature, kept from collapse by SIGReg (LeJEPA).

    For recordings of which any part tells what they are; it needs ``data.views`` of 2 or more.

    Attributes:
        weight: factor in the loss; 0 = none.
        share: of SIGReg in it, 0 to 1.
        hidden, output: widths of the projector, in channels.
        slices: random directions of SIGReg.
    """

    weight: float = 0.0
    share: float = 0.05
    hidden: int = 512
    output: int = 64
    slices: int = 256


@dataclass
class AudioSettings:
    """The method.

    Attributes:
        frontend, augment, encoder, masking, predictor, target, agreement: see there.
        energy: ``cosine`` (half of the published 2 - 2 cos), ``l2``, ``smooth_l1`` or ``l1``.
        variance_weight: weight of variance hinge and covariance of context features; 0 = none.
        variance_of: ``samples`` (mean features of the clips of the batch) or ``tokens`` (the tokens of each clip).
        weights: what training starts from: a released ``.ckpt`` file of Audio-JEPA, a folder of
            ``AudioModel.save_pretrained``, or the folder of a run; None = random weights. It must fit the front end,
            encoder and predictor set here, and brings the level that its log energies are normalised by.
        weights_copy: of weights that have both: ``teacher`` (the moving average) or ``student`` (the trained encoder).
        weights_parts: ``all`` (encoder and predictor) or ``encoder`` (a random predictor).
    """

    frontend: FrontEndSettings = field(default_factory=FrontEndSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    predictor: PredictorSettings = field(default_factory=PredictorSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    agreement: AgreementSettings = field(default_factory=AgreementSettings)
    energy: Literal["cosine", "l2", "smooth_l1", "l1"] = "l2"
    variance_weight: float = 0.0
    variance_of: Literal["samples", "tokens"] = "samples"
    weights: str | None = None
    weights_copy: Literal["teacher", "student"] = "teacher"
    weights_parts: Literal["all", "encoder"] = "all"


@dataclass
class AudioProbeSettings(ProbeSettings):
    """The probe on frozen features: which class is this clip?

    Attributes:
        readouts: ``mean`` (of all tokens), ``frequency`` (the mean over time of each band, side by side),
            ``frequency_std`` (that and the standard deviation over time) and ``layers`` (the mean of each block, side
            by side). The first leads the table.
    """

    readouts: list[str] = field(default_factory=lambda: ["mean", "frequency", "frequency_std"])
    neighbours: int = 10
    batch_size: int = 16

    def validate(self) -> None:
        """Names that are no head or no readout, and none at all."""
        super().validate()
        if not self.readouts:
            raise ValueError(f"readouts: expected some of {', '.join(READOUTS)}, got none")
        for name in self.readouts:
            if name not in READOUTS:
                raise ValueError(
                    f"readouts: expected some of {', '.join(READOUTS)}, got {name!r}{hint(name, list(READOUTS))}"
                )


@dataclass
class AudioRun(RunSettings):
    """A run on sound: the common settings and this modality's.

    Attributes:
        data: see there.
        audio: the method.
        probe: the probe.
    """

    modality: str = "audio"
    data: AudioDataSettings = field(default_factory=AudioDataSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    probe: AudioProbeSettings = field(default_factory=AudioProbeSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def validate(self) -> None:
        """Impossible values; each message names the key, what was expected and what came."""
        check_data(self.data)
        _check_front_end(self.audio)
        _check_masking(self.audio)
        _check_method(self.audio, self.data.views, self.probe.encoder)
        check_between("probe.layer", self.probe.layer, -1, SIZES[self.audio.encoder.size].depth - 1)
        for key in ("neighbours", "batch_size"):
            check_between(f"probe.{key}", getattr(self.probe, key), 1, float("inf"))


def _check_front_end(options: AudioSettings) -> None:
    wanted, augment = options.frontend, options.augment
    names = (*PRESETS, WAVEFORM)
    if wanted.preset not in names:
        raise ValueError(
            f"audio.frontend.preset: expected one of {', '.join(names)}, got {wanted.preset!r}"
            f"{hint(wanted.preset, names)}"
        )
    for key, low in (("sample_rate_hz", 1), ("channels", 1), ("hop_length", 0), ("patch_frames", 0), ("patch_bins", 0)):
        check_between(f"audio.frontend.{key}", getattr(wanted, key), low, float("inf"))
    if wanted.std is not None and wanted.std <= 0:
        raise ValueError(f"audio.frontend.std: expected a number above 0, got {wanted.std}")
    check_rising("audio.augment.scale", augment.scale_min, augment.scale_max, 1)
    check_rising("audio.augment.aspect", augment.aspect_min, augment.aspect_max, 32)
    if wanted.preset != WAVEFORM:
        return
    if options.target.policy == "pixels":
        raise ValueError("audio.target.policy: pixels needs a spectrogram, got audio.frontend.preset=waveform")
    if augment.scale_min < 1:
        raise ValueError("audio.augment.scale_min: expected 1 with audio.frontend.preset=waveform, which has no bins")


def _check_masking(options: AudioSettings) -> None:
    masking, waveform = options.masking, options.frontend.preset == WAVEFORM
    check_between("audio.masking.ratio", masking.ratio, 0.01, 0.99)
    if masking.ratio_min or masking.ratio_max:
        check_rising("audio.masking.ratio", masking.ratio_min, masking.ratio_max, 0.99)
        if masking.kind != "random":
            raise ValueError(f"audio.masking.ratio_min: expected 0 with kind={masking.kind}, got {masking.ratio_min}")
    for key in ("masks", "blocks", "targets"):
        check_between(f"audio.masking.{key}", getattr(masking, key), 1, 64)
    for key in ("length", "span_length"):
        check_between(f"audio.masking.{key}", getattr(masking, key), 1, float("inf"))
    for key in ("target_span_chance", "context_span_chance", "least_context"):
        check_between(f"audio.masking.{key}", getattr(masking, key), 0.001, 0.999)
    check_rising("audio.masking.target_scale", masking.target_scale_min, masking.target_scale_max, 1)
    check_rising("audio.masking.target_aspect", masking.target_aspect_min, masking.target_aspect_max, 32)
    check_rising("audio.masking.context_scale", masking.context_scale_min, masking.context_scale_max, 1)
    flat = ("random", "time", "spans")
    if waveform and masking.kind not in flat:
        raise ValueError(
            f"audio.masking.kind: expected one of {', '.join(flat)} with audio.frontend.preset=waveform, which has no "
            f"bins, got {masking.kind}"
        )
    if masking.kind == "spans" and not waveform:
        raise ValueError("audio.masking.kind: spans needs audio.frontend.preset=waveform; use time, got a spectrogram")


def _check_method(options: AudioSettings, views: int, probed: str) -> None:
    predictor, target, agreement = options.predictor, options.target, options.agreement
    check_between("audio.encoder.drop_path", options.encoder.drop_path, 0, 0.99)
    check_between("audio.encoder.norm_eps", options.encoder.norm_eps, 1e-12, 0.1)
    check_between("audio.encoder.longest", options.encoder.longest, 1, float("inf"))
    for key in ("width", "depth"):
        check_between(f"audio.predictor.{key}", getattr(predictor, key), 1, float("inf"))
    check_between("audio.predictor.heads", predictor.heads, 0, float("inf"))
    check_between("audio.target.blocks", target.blocks, 0, SIZES[options.encoder.size].depth)
    check_between("audio.target.momentum_start", target.momentum_start, 0, 1)
    check_between("audio.target.momentum_end", target.momentum_end, 0, 1)
    check_between("audio.variance_weight", options.variance_weight, 0, float("inf"))
    check_between("audio.agreement.weight", agreement.weight, 0, float("inf"))
    check_between("audio.agreement.share", agreement.share, 0, 1)
    for key in ("hidden", "output", "slices"):
        check_between(f"audio.agreement.{key}", getattr(agreement, key), 1, float("inf"))
    if agreement.weight and views < 2:
        raise ValueError(f"audio.agreement.weight: expected data.views of 2 or more beside it, got {views}")
    if target.policy == "pixels" and (target.blocks or target.view != "full"):
        raise ValueError("audio.target.policy: pixels have no blocks and no view; set blocks=0 and view=full")
    if probed == "target" and target.policy != "ema":
        raise ValueError(f"probe.encoder: target needs audio.target.policy=ema, got {target.policy}")
