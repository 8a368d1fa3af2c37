"""The audio plug-in: Audio-JEPA (arXiv 2507.02915), A-JEPA (2311.15830), M2D (2210.14648), WavJEPA (2509.23238)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import torch

from jepa_audio.build import build_method
from jepa_audio.evaluation import labelled_sounds, splits_of
from jepa_audio.front_ends import build_front_end, sample_rate_of
from jepa_audio.levels import levels_of
from jepa_audio.settings import AudioRun
from jepa_audio.sources import choose_root, plain_source, sounds_of, training_source
from jepa_audio.waveforms import Waveforms
from jepa_audio.weights.start import choice, untrained_rows
from jepa_core.contracts import Batch, Method, Picture, ProbeTable, SampleSource
from jepa_core.evaluation_source import LabelledSource, Split
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.results import SamplePictures


class AudioModality:
    """See :class:`jepa_core.contracts.Modality`."""

    name = "audio"
    schema = AudioRun
    recipes = files("jepa_audio") / "recipes"

    def build(self, config: AudioRun) -> Method:
        """The method of this configuration, on the CPU, in float32.

        Where neither the settings nor the preset know the level of the log energies, it is measured on the training
        recordings; a checkpoint brings its own.
        """
        front_end = build_front_end(config.audio, *levels_of(config))
        samples = round(config.data.seconds * sample_rate_of(config.audio.frontend))
        method = build_method(
            config.audio, front_end, samples, config.data.views, config.trainer.max_steps, config.monitor.rows
        )
        return cast(Method, method)

    def sources(self, config: AudioRun) -> SampleSource:
        """Random crops of the clips."""
        return training_source(config.data, splits_of(config).train, sample_rate_of(config.audio.frontend))

    def choices(self, config: AudioRun) -> Sequence[tuple[str, str, str]]:
        """Data, what is held back and the level of the input, each with its reason."""
        root, sounds, splits = choose_root(config.data), sounds_of(config.data), splits_of(config)
        classes = f"{len(sounds.classes)} classes" if sounds.classes else "no classes: there will be no probe"
        rows = [
            ("data", str(root.root), root.reason),
            ("sounds", f"{len(splits.train)} to train on", f"{sounds.kind}, {classes}"),
        ]
        if splits.test:
            rows.append(("held back", f"{len(splits.test)} sounds", splits.note))
        return [*rows, *choice(config.audio)]

    def probe(self, config: AudioRun, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Frozen features against the controls; None when switched off or where there are no classes to probe with."""
        splits = splits_of(config)
        if not config.probe.enabled or not sounds_of(config.data).classes or not splits.test:
            return None
        from jepa_audio.probe import SoundProbe

        rate = sample_rate_of(config.audio.frontend)
        train, test = plain_source(config.data, splits.train, rate), plain_source(config.data, splits.test, rate)
        probe = SoundProbe(train, test, splits, config.probe, device)
        probe.add("trained", cast(MaskedPrediction, trained))
        for name, method in untrained_rows(config, cast(MaskedPrediction, untrained), self.build, device).items():
            probe.add(name, method)
        probe.add_raw(cast(MaskedPrediction, untrained))
        return probe.table()

    def evaluation(self, config: AudioRun, split: Split) -> LabelledSource | None:
        """Whole clips with their classes."""
        return labelled_sounds(config, split)

    def pictures(self, config: AudioRun, method: Method, batch: Batch) -> Sequence[Picture]:
        """Masks over the first spectrograms."""
        from jepa_audio.pictures import mask_pictures

        return mask_pictures(cast(MaskedPrediction, method), batch)

    def feature_pictures(self, config: AudioRun, trained: Method, untrained: Method, batch: Batch) -> Sequence[Picture]:
        """Feature maps of the first clips."""
        from jepa_audio.pictures import feature_pictures

        device = cast(Waveforms, batch.inputs).samples.device
        controls = untrained_rows(config, cast(MaskedPrediction, untrained), self.build, device)
        return feature_pictures({"trained": cast(MaskedPrediction, trained), **controls}, batch)

    def sample_pictures(self, config: AudioRun, batch: Batch) -> SamplePictures:
        """Log energies of the clips, without what follows their end."""
        from jepa_audio.pictures import SAMPLE_HOW, sample_pngs

        front_end = build_front_end(config.audio, 0.0, 1.0)
        return SamplePictures(sample_pngs(front_end, batch.inputs), SAMPLE_HOW)

    def add_commands(self, subparsers: Any) -> None:
        """Brings none."""


MODALITY = AudioModality()
