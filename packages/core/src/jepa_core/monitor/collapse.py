"""The collapse monitor: measures features of all processes every n steps and says what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_core.distributed import drawn_rows, gather_rows, rank, world
from jepa_core.drawn import Drawn
from jepa_core.monitor.metrics import collapse_metrics
from jepa_core.monitor.verdict import Judge, Verdict
from jepa_core.settings import MonitorSettings


class CollapseMonitor:
    """Watches whether features still depend on the input.

    Every process must call :meth:`observe` at the same steps (rows are gathered); each then holds the same verdict.
    """

    def __init__(self, settings: MonitorSettings) -> None:
        if settings.rows < 2:
            raise ValueError(f"monitor.rows: expected at least 2 (spread needs two rows), got {settings.rows}")
        self._rows = settings.rows
        self._judge = Judge()

    @torch.no_grad()
    def observe(
        self,
        step: int,
        features: Mapping[str, Tensor | Drawn],
        losses: Mapping[str, float],
        diagnosis: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> dict[str, float]:
        """Measures one step, with one host synchronisation.

        Args:
            step: optimiser steps done.
            features: name to ``[R, D]`` rows of this process, or what it offers for a draw over all of them; at most
                ``rows`` of all processes are measured, the same as one process with all of them would measure.
            losses: terms by name, already joined over processes; ``loss`` or ``total`` is the whole.
            diagnosis: further figures by name, the same on all processes: what a method's ``diagnose()`` gives.

        Returns:
            ``monitor/<name>/<figure>`` to value. Features of fewer than two rows have only ``rows``; of features
            that are not finite all figures but ``rows``, ``dimensions`` and ``finite`` are NaN.
        """
        measured = {name: self._measure(rows) for name, rows in features.items()}
        figures = _to_host({**measured, **(diagnosis or {})})
        self._judge.update(step, figures, losses)
        return {f"monitor/{name}/{key}": value for name, values in figures.items() for key, value in values.items()}

    def _measure(self, found: Tensor | Drawn) -> dict[str, Tensor | float]:
        if isinstance(found, Drawn):
            joined = _some_rows(drawn_rows(found), self._rows)
        else:
            joined = _some_of_all(found, self._rows)
        count, width = joined.shape
        if count < 2:
            return {"rows": float(count)}
        finite = torch.isfinite(joined).all()
        # A decomposition of NaN raises on some devices, so it gets zeros, and its figures are made NaN afterwards.
        values = collapse_metrics(torch.where(finite, joined, torch.zeros_like(joined)))
        figures: dict[str, Tensor | float] = {
            name: torch.where(finite, value.float(), torch.nan) for name, value in values.items()
        }
        return {**figures, "finite": finite.float(), "rows": float(count), "dimensions": float(width)}

    def verdict(self) -> Verdict:
        """What to think of the run so far."""
        return self._judge.verdict()

    def state_dict(self) -> dict[str, Any]:
        """JSON values; a resumed run gives the same verdicts."""
        return self._judge.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from :meth:`state_dict`."""
        self._judge.load_state_dict(state)


def _some_rows(rows_RD: Tensor, count: int) -> Tensor:
    """The same ``count`` rows of a given R each time, drawn without a pattern that could match the lattice's."""
    return rows_RD.detach()[_places(len(rows_RD), count).to(rows_RD.device)] if len(rows_RD) > count else rows_RD


def _places(total: int, count: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count]


def _some_of_all(rows_RD: Tensor, count: int) -> Tensor:
    """As :func:`_some_rows` of the rows of all processes, of which only those that are drawn travel."""
    if world() == 1:
        return _some_rows(rows_RD, count)
    sizes = gather_rows(torch.tensor([[len(rows_RD)]], device=rows_RD.device)).flatten().tolist()
    if sum(sizes) <= count:
        return gather_rows(rows_RD)
    places, before = _places(sum(sizes), count), sum(sizes[: rank()])
    mine = places[(places >= before) & (places < before + len(rows_RD))].sort().values - before
    joined = gather_rows(rows_RD.detach()[mine.to(rows_RD.device)])
    # They came in the order of the rows; wanted is that of the draw.
    return joined[places.argsort().argsort().to(joined.device)]


def _to_host(measured: Mapping[str, Mapping[str, Tensor | float]]) -> dict[str, dict[str, float]]:
    tensors = [v.float() for values in measured.values() for v in values.values() if isinstance(v, Tensor)]
    host = iter(torch.stack(tensors).tolist() if tensors else [])
    return {
        name: {key: next(host) if isinstance(value, Tensor) else value for key, value in values.items()}
        for name, values in measured.items()
    }
