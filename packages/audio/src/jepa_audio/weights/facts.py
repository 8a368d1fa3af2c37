"""What must be known of a sound encoder, its front end and its predictor to build them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from jepa_audio.encoder import AudioTransformer, Positions, channel_order
from jepa_audio.front_ends import FrontEnd, chosen_preset
from jepa_audio.frontend import Centre, SpectrogramFrontEnd
from jepa_audio.kaldi import KaldiFbank, KaldiSettings
from jepa_audio.log_mel import LogMel, LogMelSettings
from jepa_audio.readouts import READOUTS
from jepa_audio.settings import WAVEFORM, AudioSettings
from jepa_audio.wave_frontend import WaveformFrontEnd
from jepa_core.lattice import Lattice
from jepa_core.nn.patch_encoder import SIZES, Size, Stem
from jepa_core.nn.predictor import TransformerPredictor
from jepa_core.nn.transformer import NormPlace
from jepa_core.weights.build import check_names, set_norm_eps, shapes_of
from jepa_core.weights.contents import by


@dataclass(frozen=True)
class WaveformSettings:
    """The trained convolutions of :class:`jepa_audio.wave_frontend.WaveformFrontEnd`.

    Attributes:
        sample_rate_hz: of the waveforms.
        channels: of each convolution.
    """

    sample_rate_hz: int
    channels: int


InputSettings = LogMelSettings | KaldiSettings | WaveformSettings
KINDS: Mapping[str, type] = {"log_mel": LogMelSettings, "kaldi": KaldiSettings, "waveform": WaveformSettings}


@dataclass(frozen=True)
class PredictorFacts:
    """A predictor.

    Attributes:
        width, depth, heads, mlp_hidden: of its transformer.
        output_width: D of its predictions.
    """

    width: int
    depth: int
    heads: int
    mlp_hidden: int
    output_width: int


@dataclass(frozen=True)
class Facts:
    """An encoder, its input and its predictor. The level of the log energies is a tensor of the front end.

    Attributes:
        input: of the filter bank or of the convolutions.
        size: of the transformer.
        samples: of a clip of the usual length, at the front end's rate; any other is possible.
        patch: frames and bins of a tile; (1, 1) with convolutions.
        frames: every clip is cut or filled up to so many; None = as many as there are.
        centre: what is taken off log energies, see :class:`jepa_audio.frontend.SpectrogramFrontEnd`.
        stem, positions, norm, longest: see :class:`jepa_audio.encoder.AudioTransformer`.
        norm_eps: of the layer norms of encoder and predictor.
        predictor: None = the encoder alone.
        readout: what :meth:`jepa_audio.weights.model.AudioModel.features` gives unless asked for another.
    """

    input: InputSettings
    size: Size
    samples: int
    patch: tuple[int, int] = (1, 1)
    frames: int | None = None
    centre: Centre = "data"
    stem: Stem = "linear"
    positions: Positions = "sin_cos"
    norm: NormPlace = "pre"
    longest: int = 0
    norm_eps: float = 1e-6
    predictor: PredictorFacts | None = None
    readout: str = "mean"

    @property
    def kind(self) -> str:
        """``log_mel``, ``kaldi`` or ``waveform``."""
        return next(name for name, kind in KINDS.items() if isinstance(self.input, kind))

    @property
    def lattice(self) -> Lattice:
        """Sites of a clip of the usual length."""
        return self.front_end().lattice_for(self.samples)

    def without_predictor(self) -> Facts:
        """The same encoder alone."""
        return replace(self, predictor=None)

    def as_json(self) -> dict[str, Any]:
        """Plain values; :func:`facts_from_json` reads them back."""
        return {**asdict(self), "input": {"kind": self.kind, **asdict(self.input)}}

    def describe(self) -> list[str]:
        """A line on the input, one on the encoder and, where there is one, one on the predictor."""
        size, inner = self.size, self.predictor
        tile = "" if self.kind == "waveform" else f", tiles of {by(self.patch)} (frames x bins)"
        seconds = self.samples / self.input.sample_rate_hz
        lines = [
            f"input: {self.kind} at {self.input.sample_rate_hz} Hz{tile}, usual clip {seconds:g} s",
            f"encoder: width {size.width}, {size.depth} blocks, {size.heads} heads, MLP {size.mlp_hidden}, positions "
            f"{self.positions}, {self.norm}-norm with epsilon {self.norm_eps:g}",
        ]
        if inner is not None:
            lines.append(f"predictor: width {inner.width}, {inner.depth} blocks, {inner.heads} heads")
        return lines

    def front_end(self) -> FrontEnd:
        """A front end; its level, or its convolutions, are those of nobody."""
        wanted = self.input
        if isinstance(wanted, WaveformSettings):
            return WaveformFrontEnd(wanted.sample_rate_hz, self.size.width, wanted.channels)
        bank = LogMel(wanted) if isinstance(wanted, LogMelSettings) else KaldiFbank(wanted)
        return SpectrogramFrontEnd(bank, self.patch, frames=self.frames, centre=self.centre)

    def encoder(self, lattice: Lattice | None = None) -> AudioTransformer:
        """An encoder with random weights; ``lattice`` saves computing the usual one again."""
        on_wave = self.kind == "waveform"
        encoder = AudioTransformer(
            self.size,
            self.size.width if on_wave else self.patch[0] * self.patch[1],
            self.lattice if lattice is None else lattice,
            stem=self.stem,
            positions=self.positions,
            norm=self.norm,
            longest=self.longest,
        )
        set_norm_eps(encoder, self.norm_eps)
        return encoder

    def build_predictor(self, lattice: Lattice | None = None) -> TransformerPredictor:
        """A predictor with random weights; there must be one."""
        assert self.predictor is not None
        wanted, lattice = self.predictor, self.lattice if lattice is None else lattice
        predictor = TransformerPredictor(
            lattice,
            self.size.width,
            wanted.width,
            wanted.depth,
            wanted.heads,
            mlp_hidden=wanted.mlp_hidden,
            output_width=wanted.output_width,
            positions="rotary" if self.positions == "rotary" else "sin_cos",
            order=channel_order(self.positions, lattice),
        )
        set_norm_eps(predictor, self.norm_eps)
        return predictor

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes of the tensors of ``encoder``, ``front_end`` and, where there is one, ``predictor``, by our names."""
        lattice = self.lattice
        found = shapes_of(
            lambda: self.encoder(lattice),
            None if self.predictor is None else lambda: self.build_predictor(lattice),
            self.front_end if self.kind == "waveform" else None,
        )
        # A filter bank computes on its way to its tables, which meta tensors cannot; none of them is saved.
        level: dict[str, tuple[int, ...]] = {"mean": (), "std": ()}
        return {"front_end": level} | found


def facts_from_json(values: Mapping[str, Any]) -> Facts:
    """The inverse of :meth:`Facts.as_json`.

    Raises:
        ValueError: a key is unknown or missing, or a value cannot be.
    """
    check_names(values, Facts, "model")
    given, inner = dict(values), values["predictor"]
    given["input"] = _input_from_json(values["input"])
    check_names(values["size"], Size, "model.size")
    given["size"] = Size(**values["size"])
    given["patch"] = tuple(values["patch"])
    if inner is not None:
        check_names(inner, PredictorFacts, "model.predictor")
        given["predictor"] = PredictorFacts(**inner)
    choices = {
        "stem": get_args(Stem),
        "positions": get_args(Positions),
        "norm": get_args(NormPlace),
        "centre": get_args(Centre),
    }
    for key, possible in {**choices, "readout": tuple(READOUTS)}.items():
        if given[key] not in possible:
            raise ValueError(f"model.{key}: expected one of {', '.join(possible)}, got {given[key]!r}")
    return Facts(**given)


def _input_from_json(values: Any) -> InputSettings:
    if not isinstance(values, Mapping) or values.get("kind") not in KINDS:
        raise ValueError(f"model.input: expected a section with a kind of {', '.join(KINDS)}, got {values!r}")
    kind, rest = KINDS[values["kind"]], {key: value for key, value in values.items() if key != "kind"}
    check_names(rest, kind, "model.input")
    made: InputSettings = kind(**rest)
    return made


def facts_from_settings(options: AudioSettings, samples: int) -> Facts:
    """The facts of what a run builds on clips of so many samples, as ``build_method`` takes them."""
    encoder, predictor, own = options.encoder, options.predictor, SIZES[options.encoder.size]
    facts = replace(
        _input_facts(options, own, samples),
        positions=encoder.positions,
        norm=encoder.norm,
        norm_eps=encoder.norm_eps,
    )
    if encoder.positions == "learned":
        facts = replace(facts, longest=max(encoder.longest, facts.lattice.sizes[0]))
    on_pixels = options.target.policy == "pixels"
    output = facts.patch[0] * facts.patch[1] if on_pixels else own.width
    heads = predictor.heads or own.heads
    inner = PredictorFacts(predictor.width, predictor.depth, heads, 4 * predictor.width, output)
    return replace(facts, predictor=inner)


def _input_facts(options: AudioSettings, size: Size, samples: int) -> Facts:
    wanted = options.frontend
    if wanted.preset == WAVEFORM:
        return Facts(WaveformSettings(wanted.sample_rate_hz, wanted.channels), size, samples, stem="none")
    chosen = chosen_preset(wanted)
    patch = wanted.patch_frames or chosen.patch[0], wanted.patch_bins or chosen.patch[1]
    return Facts(chosen.settings, size, samples, patch, chosen.frames, wanted.centre, options.encoder.stem)
