"""The frozen-encoder probe: which class is this clip? Linear, nearest-neighbour and attentive heads on whole clips.

Each readout stands beside the same encoder untrained with the same readout: concatenated statistics of an untrained
encoder already tell environmental sounds apart. Control: mean and standard deviation over time of the log energies that
the encoder is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from jepa_audio.frontend import SpectrogramFrontEnd
from jepa_audio.presets import preset
from jepa_audio.readouts import BY_BAND, READOUTS
from jepa_audio.settings import AudioProbeSettings
from jepa_audio.sound_data import Sounds
from jepa_audio.sound_files import SoundRecord
from jepa_audio.sources import Splits
from jepa_audio.waveforms import Spectrogram, Waveforms
from jepa_core.contracts import BadSample, Measurement, ProbeTable, Tokens
from jepa_core.data.move import to_device
from jepa_core.evaluate.attentive import TokenSet
from jepa_core.evaluate.heads import ATTENTIVE, COLUMNS, measure, measure_tokens, note_of_heads, reads_pooled
from jepa_core.methods.frozen import frozen_blocks, frozen_tokens
from jepa_core.methods.masked import MaskedPrediction


@dataclass(frozen=True)
class Side:
    """Clips of one side of the split, decoded once.

    Attributes:
        records: of the clips, in the order in which they lie in the batches.
        batches: whole clips.
        labels: ``[S]``.
        groups: ``[S]`` number of each clip's recording or speaker.
        unreadable: clips that were left out.
    """

    records: tuple[SoundRecord, ...]
    batches: tuple[Waveforms, ...]
    labels: Tensor
    groups: Tensor
    unreadable: int


def load_side(source: Sounds, batch_size: int) -> Side:
    """The labelled clips of a source, longest last, so that batches hold little padding."""
    loaded, unreadable = [], 0
    for index, record in enumerate(source.records):
        if record.label is None:
            continue
        try:
            loaded.append((record, source.load(index, 0)))
        except BadSample:
            unreadable += 1
    if not loaded:
        raise ValueError(f"probe: expected labelled clips that can be read, got none of {len(source.records)}")
    loaded.sort(key=lambda pair: (pair[1].length, pair[0].sample_id))
    records = [record for record, _ in loaded]
    batches = [
        source.collate([views for _, views in loaded[start : start + batch_size]])
        for start in range(0, len(loaded), batch_size)
    ]
    labels = torch.tensor([cast(int, record.label) for record in records])
    return Side(tuple(records), tuple(batches), labels, _groups(records), unreadable)


def _groups(records: list[SoundRecord]) -> Tensor:
    names = [record.group or record.sample_id for record in records]
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    return torch.tensor([number[name] for name in names])


def level_statistics(spectrogram: Spectrogram) -> Tensor:
    """Mean and standard deviation over time of each bin, ``[R, 2 bins]``, of a clip's own frames."""
    values = spectrogram.values.double()
    rows, frames, _ = values.shape
    lengths = values.new_full((rows,), frames) if spectrogram.lengths is None else spectrogram.lengths
    own = (torch.arange(frames, device=values.device) < lengths[:, None]).unsqueeze(-1)
    count = own.sum(1)
    mean = torch.where(own, values, 0.0).sum(1) / count
    spread = torch.where(own, values - mean[:, None], 0.0).square().sum(1) / count
    return torch.cat([mean, spread.sqrt()], dim=1).float()


@torch.no_grad()
def clip_features(
    method: MaskedPrediction, side: Side, settings: AudioProbeSettings, device: torch.device
) -> dict[str, Tensor]:
    """Each readout ``[S, D]``; ``frequency`` and ``frequency_std`` only where there are bands."""
    parts: dict[str, list[Tensor]] = {}
    for clips in _on(device, side):
        tokens = _encode(method, clips, settings)
        for readout in settings.readouts:
            if readout not in BY_BAND or len(tokens.lattice.axes) > 1:
                parts.setdefault(readout, []).append(READOUTS[readout](tokens).cpu())
    return {readout: torch.cat(found) for readout, found in parts.items()}


@torch.no_grad()
def clip_levels(method: MaskedPrediction, side: Side, device: torch.device) -> Tensor:
    """:func:`level_statistics` of every clip, by the method's filter bank, or a usual one beside a waveform."""
    own = method.front_end
    bank = own.bank if isinstance(own, SpectrogramFrontEnd) else preset("default").bank().to(device)
    return torch.cat([level_statistics(bank(clips)).cpu() for clips in _on(device, side)])


def _on(device: torch.device, side: Side) -> Iterator[Waveforms]:
    for clips in side.batches:
        yield to_device(clips, device)


def _encode(method: MaskedPrediction, clips: Waveforms, settings: AudioProbeSettings) -> Tokens:
    tokens = frozen_tokens(method, settings.encoder, clips, settings.layer)
    if "layers" not in settings.readouts:
        return tokens
    return replace(tokens, layers=frozen_blocks(method, settings.encoder, clips).layers)


class SoundProbe:
    """Fits and tests the probes of one split.

    Args:
        train, test: sources of whole clips.
        splits: where they come from, for the note.
        settings: see there.
        device: where features are computed.
    """

    def __init__(
        self, train: Sounds, test: Sounds, splits: Splits, settings: AudioProbeSettings, device: torch.device
    ) -> None:
        self.settings, self.device, self.note = settings, device, splits.note
        self.train, self.test = load_side(train, settings.batch_size), load_side(test, settings.batch_size)
        self.rows: dict[str, dict[str, Measurement]] = {}

    def add(self, name: str, method: MaskedPrediction) -> None:
        """The row of an encoder."""
        if reads_pooled(self.settings.heads):
            train, test = (clip_features(method, side, self.settings, self.device) for side in (self.train, self.test))
            for readout in train:
                self._measure(name, readout, train[readout], test[readout])
        if "attentive" in self.settings.heads:
            sides = self._tokens(method, self.train), self._tokens(method, self.test)
            heads = cast(Any, method.encoder).size.heads
            self.rows.setdefault(name, {})[ATTENTIVE] = measure_tokens(heads, *sides, self.device)

    def add_raw(self, method: MaskedPrediction) -> None:
        """The row of the log energies themselves: those of the method's front end, or usual ones beside a waveform."""
        train, test = (clip_levels(method, side, self.device) for side in (self.train, self.test))
        self._measure("raw", self.settings.readouts[0], train, test)

    def _measure(self, name: str, readout: str, train: Tensor, test: Tensor) -> None:
        found = measure(
            (train, self.train.labels),
            (test, self.test.labels),
            self.settings.neighbours,
            (self.train.groups, self.test.groups),
            heads=self.settings.heads,
        )
        suffix = "" if readout == self.settings.readouts[0] else f", {readout}"
        self.rows.setdefault(name, {}).update({f"{metric}{suffix}": figure for metric, figure in found.items()})

    @torch.no_grad()
    def _tokens(self, method: MaskedPrediction, side: Side) -> TokenSet:
        """All tokens of a side, filled up to the longest clip."""
        found = [_encode(method, clips, self.settings) for clips in _on(self.device, side)]
        most = max(tokens.features.shape[1] for tokens in found)
        features, valid = [], []
        for tokens in found:
            missing = most - tokens.features.shape[1]
            features.append(torch.nn.functional.pad(tokens.features.float(), (0, 0, 0, missing)).cpu())
            valid.append(torch.nn.functional.pad(tokens.sites.valid_mask(), (0, missing)).cpu())
        every = TokenSet(torch.cat(features), side.labels, side.groups)
        return replace(every, valid=torch.cat(valid))

    def table(self) -> ProbeTable:
        """All rows so far."""
        share = self.test.labels.bincount().max().item() / len(self.test.labels)
        left_out = self.train.unreadable + self.test.unreadable
        note = (
            f"accuracy on {len(self.test.labels)} clips ({self.note}), fitted on {len(self.train.labels)}; the most "
            f"frequent class is {share:.3f} of them; columns without a name read {self.settings.readouts[0]}; raw is "
            f"mean and standard deviation over time of the log energies{note_of_heads(self.settings, 'sounds')}"
        )
        if left_out:
            note += f"; {left_out} unreadable clips left out"
        return ProbeTable(COLUMNS[self.settings.heads[0]], self.rows, len(self.test.labels), note)
