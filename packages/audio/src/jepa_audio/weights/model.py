"""A model to use: waveforms in, features in all, or a feature each time step, out; loaded, written and shared."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from jepa_audio.readouts import READOUTS, timestamps
from jepa_audio.waveforms import Waveforms
from jepa_audio.weights.clips import Clips, as_waveforms, at_rate, in_pieces, step_samples
from jepa_audio.weights.contents import Weights
from jepa_audio.weights.facts import Facts
from jepa_audio.weights.official import Hints, read_official
from jepa_audio.weights.read import OWN, has_copies, read_run
from jepa_core.contracts import Tokens
from jepa_core.weights import Copy, Parts, hub


class AudioModel(hub.PushesToHub, nn.Module):
    """An encoder with its front end and, where there is one, its predictor.

    >>> model = AudioModel.from_run("runs/audio-quickstart", which="online")  # doctest: +SKIP
    >>> model.features(waveforms, sample_rate_hz=16000)  # float [B, S] to [B, D]  # doctest: +SKIP

    Attributes:
        facts: sizes, filter bank, usual length, readout.
        front_end: waveforms at ``sample_rate_hz`` to tiles or frames.
        encoder: see :class:`jepa_audio.encoder.AudioTransformer`.
        predictor: see :class:`jepa_core.nn.predictor.TransformerPredictor`; None = there is none. It predicts on the
            lattice of the usual clip only.
    """

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.facts = facts
        lattice = facts.lattice
        self.front_end = facts.front_end()
        self.encoder = facts.encoder(lattice)
        self.predictor = None if facts.predictor is None else facts.build_predictor(lattice)

    # ---------------------------------------------------------------------------------------------- use

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms that the front end takes; others are resampled."""
        return self.facts.input.sample_rate_hz

    @property
    def step_ms(self) -> float:
        """Milliseconds from one time step to the next."""
        return self.encoder.lattice.spacing[0] * 1000

    @property
    def longest_steps(self) -> int | None:
        """Time steps of the longest clip that can be embedded as a whole; None = any.

        A front end of fixed length and learned positions have such a bound.
        """
        if self.facts.frames is not None:
            return self.facts.frames // self.facts.patch[0]
        return None if self.encoder.learned is None else len(self.encoder.learned.time)

    def feature_size(self, readout: str | None = None) -> int:
        """D of :meth:`features`; None = the model's own readout."""
        width, bands = self.encoder.width, self.encoder.lattice.count // self.encoder.lattice.sizes[0]
        sizes = {"frequency": bands * width, "frequency_std": 2 * bands * width}
        return sizes.get(self._readout(readout), width * (self.facts.size.depth if readout == "layers" else 1))

    @property
    def timestamp_size(self) -> int:
        """D of :meth:`timestamps`: the width for each frequency of the lattice."""
        return self.feature_size("frequency")

    def forward(self, inputs: Waveforms) -> Tokens:
        """Tokens ``[B, N, D]`` after the last norm, of clips at the model's sample rate, each as a whole.

        A clip longer than a front end of fixed length is cut; :meth:`tokens` takes it in pieces.
        """
        patches, _ = self.front_end(inputs, self._no_seeds())
        return cast(Tokens, self.encoder(patches, None))

    def tokens(
        self, waveforms: Clips, sample_rate_hz: int, piece_seconds: float | None = None, *, blocks: bool = False
    ) -> Tokens:
        """Tokens ``[B, N, D]`` of clips, long ones in pieces (see :func:`jepa_audio.weights.clips.in_pieces`).

        Args:
            waveforms: float ``[B, S]``, one clip ``[S]``, a sequence of clips of any lengths, or ``Waveforms``.
            sample_rate_hz: theirs.
            piece_seconds: clips are embedded in pieces of so many seconds, rounded to whole time steps; None = as a
                whole, or in pieces of ``longest_steps`` where that is not None.
            blocks: the output of every block too, before any norm, in ``Tokens.layers``.

        Raises:
            ValueError: the samples are no such clips, or ``piece_seconds`` is not above 0.
        """
        device = next(self.parameters()).device
        given = at_rate(as_waveforms(waveforms), sample_rate_hz, self.sample_rate_hz)
        inputs = Waveforms(given.samples.to(device), None if given.lengths is None else given.lengths.to(device))
        encode = self._with_blocks if blocks else self.forward
        steps = self._piece(piece_seconds)
        return encode(inputs) if steps is None else in_pieces(encode, self.front_end, inputs, steps)

    def features(
        self, waveforms: Clips, sample_rate_hz: int, readout: str | None = None, piece_seconds: float | None = None
    ) -> Tensor:
        """One vector for each clip, float32 ``[B, D]``; only what is sound counts, not what fills a batch up.

        Args:
            waveforms, sample_rate_hz, piece_seconds: see :meth:`tokens`. Of a clip in pieces, the readout is that of
                all its pieces' tokens.
            readout: a name of :data:`jepa_audio.readouts.READOUTS`; None = the model's own.

        Raises:
            ValueError: there is no such readout, or as :meth:`tokens`.
        """
        name = self._readout(readout)
        return READOUTS[name](self.tokens(waveforms, sample_rate_hz, piece_seconds, blocks=name == "layers"))

    def timestamps(
        self, waveforms: Clips, sample_rate_hz: int, piece_seconds: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """A vector for each time step, its frequencies side by side.

        Returns:
            float32 ``[B, T, timestamp_size]``, zeros after the end of a clip, and the middle of each step in
            milliseconds from the start of the clip, float32 ``[B, T]``. T is that of the longest clip.
        """
        found = timestamps(self.tokens(waveforms, sample_rate_hz, piece_seconds))
        last = int(found.valid.any(0).nonzero().max()) + 1
        features, milliseconds = found.features[:, :last], 1000 * found.seconds[:last]
        return features, milliseconds.expand(len(features), -1)

    def _readout(self, name: str | None) -> str:
        chosen = self.facts.readout if name is None else name
        if chosen not in READOUTS:
            raise ValueError(f"readout: expected one of {', '.join(READOUTS)}, got {chosen!r}")
        return chosen

    def _piece(self, seconds: float | None) -> int | None:
        if seconds is None:
            return self.longest_steps
        if not seconds > 0:
            raise ValueError(f"piece_seconds: expected a number above 0, got {seconds}")
        steps = max(1, round(seconds * self.sample_rate_hz / step_samples(self.front_end)))
        return steps if self.longest_steps is None else min(steps, self.longest_steps)

    def _with_blocks(self, inputs: Waveforms) -> Tokens:
        patches, _ = self.front_end(inputs, self._no_seeds())
        return self.encoder.forward_layers(patches, None, tuple(range(self.facts.size.depth)))

    def _no_seeds(self) -> Tensor:
        return torch.empty(0, dtype=torch.long)

    # ---------------------------------------------------------------------------------------------- load

    @classmethod
    def from_weights(cls, weights: Weights) -> Self:
        """The model, in eval mode, of what :func:`jepa_audio.weights.read.read_weights` gave."""
        model = cls(weights.facts)
        model.front_end.load_state_dict(dict(weights.front_end))
        model.encoder.load_state_dict(dict(weights.encoder))
        if model.predictor is not None:
            assert weights.predictor is not None
            model.predictor.load_state_dict(dict(weights.predictor))
        return model.eval()

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | os.PathLike[str], revision: str | None = None, *, parts: Parts = "all"
    ) -> Self:
        """Loads a folder of :meth:`save_pretrained`: a local one, or one on the Hugging Face hub.

        Args:
            path_or_hub_id: a folder, or ``<owner>/<name>``.
            revision: branch, tag or commit on the hub; None = its main branch.
            parts: ``all`` or ``encoder``.

        Raises:
            ValueError: it is neither, is damaged or newer than this version, or cannot be had from the hub.
        """
        return cls.from_weights(OWN.read(hub.local_folder(path_or_hub_id, revision), parts=parts))

    @classmethod
    def from_run(
        cls, path: str | os.PathLike[str], which: Literal["online", "target"], *, parts: Parts = "all"
    ) -> Self:
        """Loads a run (its newest whole checkpoint) or a checkpoint folder; ``target`` is the moving average."""
        copy: Copy = "teacher" if which == "target" else "student"
        return cls.from_weights(read_run(Path(path), copy, parts=parts))

    @classmethod
    def from_official(
        cls, path: str | os.PathLike[str], which: Copy, *, parts: Parts = "all", hints: Hints | None = None
    ) -> Self:
        """Loads a released Audio-JEPA; arguments as of :func:`jepa_audio.weights.official.read_official`."""
        return cls.from_weights(read_official(path, which, parts=parts, hints=hints))

    def with_readout(self, readout: str) -> Self:
        """This model, with another readout of its own.

        Raises:
            ValueError: there is no such readout.
        """
        self.facts = replace(self.facts, readout=self._readout(readout))
        return self

    # ---------------------------------------------------------------------------------------------- write

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``config.json`` (with a format version and the weights' SHA-256) and ``model.safetensors``."""
        OWN.write(Path(folder), self.facts, self.state_dict())


def open_model(place: str) -> AudioModel:
    """A model by one string, for tools that pass nothing else.

    Args:
        place: a released ``.ckpt`` file, a folder of a run or of ``AudioModel.save_pretrained``, or ``<owner>/<name>``
            on the hub. ``#target`` or ``#online`` at its end says which encoder of a file or a run; without, it is the
            target's of a file, as its paper evaluates it, and the online one of a run, as its probe does.

    Raises:
        ValueError: it is none of these, or has but one encoder and ``#`` asks for one.
    """
    path, _, which = place.partition("#")
    if which not in ("", "target", "online"):
        raise ValueError(f"model: expected #target or #online at the end, got #{which}")
    if not has_copies(path):
        if which:
            raise ValueError(f"{path}: it has one encoder only: leave #{which} out")
        return AudioModel.from_pretrained(path, parts="encoder")
    if Path(path).is_file():
        return AudioModel.from_official(path, "student" if which == "online" else "teacher", parts="encoder")
    return AudioModel.from_run(path, "target" if which == "target" else "online", parts="encoder")
