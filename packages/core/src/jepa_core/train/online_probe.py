"""Probes of the frozen encoder while it trains: linear and kNN on labelled samples that are held back.

They read the weights and leave everything else as it was: modes of modules, generators, buffers. The same run without
them ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from jepa_core.contracts import Modality
from jepa_core.distributed import rank
from jepa_core.errors import ConfigError, DataError, value_errors_are_users
from jepa_core.evaluate.features import probed_features
from jepa_core.evaluate.labelled import LabelledSamples, frozen_rows, measure_rows, read_rows
from jepa_core.evaluation_source import Evaluable
from jepa_core.settings import RunSettings
from jepa_core.train import state

BATCH_SIZE = 64
PENALTY = 1e-2
"""Of the linear probe, on standardised features; the probe at the end chooses its own, at many times the cost."""


class OnlineProbe:
    """Linear and kNN accuracy of mean tokens, every so many steps.

    Args:
        train, test: what it is fitted and tested on; decoded anew each time, in this process.
        config: the run's settings; ``probe.encoder`` and ``probe.layer`` count where a modality has them.
        device: where features are computed.
    """

    def __init__(
        self, train: LabelledSamples, test: LabelledSamples, config: RunSettings, device: torch.device
    ) -> None:
        self.train, self.test, self.device = train, test, device
        self.every, self.neighbours = config.probe.every, config.probe.neighbours
        self.encoder, self.layer = probed_features(config.probe)

    def is_due(self, step: int) -> bool:
        """Whether ``step`` is one of its steps."""
        return step % self.every == 0

    def measure(self, method: Any) -> Mapping[str, float]:
        """``probe/linear``, ``probe/kNN`` and their standard errors; every process must call it.

        All processes embed, so that none waits inside a collective of the method's own; process 0 alone fits.

        Raises:
            DataError: the samples cannot be read, or their features are not finite.
        """
        with undisturbed(method), value_errors_are_users(DataError):
            to_rows = frozen_rows(method, self.encoder, self.layer)
            train, test = (read_rows(side, to_rows, self.device) for side in (self.train, self.test))
            if rank() != 0 or not bool(torch.isfinite(train.features).all() & torch.isfinite(test.features).all()):
                # A diverged run is told of by its loss, which is looked at in the same step.
                return {"probe/samples": float(len(test.labels))}
            found, count = measure_rows(train, test, self.neighbours, PENALTY)
        figures = {"probe/samples": float(count)}
        for name, measurement in found.items():
            figures[f"probe/{name}"] = measurement.value
            figures[f"probe/{name}_stderr"] = measurement.stderr or 0.0
        return figures


def build_online_probe(config: RunSettings, modality: Modality, device: torch.device) -> OnlineProbe | None:
    """The probe that the settings ask for.

    Raises:
        ConfigError: ``probe.every`` is set, and one side of the split has no labelled samples.
    """
    if not config.probe.every:
        return None
    sides = []
    for split in ("train", "test"):
        with value_errors_are_users():
            source = modality.evaluation(config, split) if isinstance(modality, Evaluable) else None
            side = None if source is None else LabelledSamples(source, config.probe.samples, BATCH_SIZE, config.seed)
        if not side:
            raise ConfigError(
                f"probe.every: expected labelled samples to train and to test on, but nothing of {split} has a label; "
                "set probe.every=0"
            )
        sides.append(side)
    return OnlineProbe(sides[0], sides[1], config, device)


@contextmanager
def undisturbed(method: nn.Module) -> Iterator[None]:
    """Eval mode, no gradient; modes and generators are afterwards as they were."""
    generators = state.random_state()
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        state.load_random_state(generators)
