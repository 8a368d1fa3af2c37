"""The frozen-encoder probe: is there an object point in this occupied bird's-eye cell, and how tall is what it holds?

Class-weighted logistic regression and ridge regression on features of single cells, with controls: the same encoder
untrained, untrained with calibrated batch norm, and raw statistics of the 3 x 3 cells around.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from jepa_core.contracts import Batch, Measurement, Method, ProbeTable
from jepa_core.evaluate.probes import average_precision, bootstrap_stderr, fit_logistic, paired_bootstrap, ridge_r2
from jepa_core.nn.norm import JointBatchNorm
from jepa_lidar.geometry import VoxelGrid
from jepa_lidar.raw_features import cell_statistics, height_span, neighbourhood, without_extremes
from jepa_lidar.voxels import join_scans

BATCH = 4
# Frozen features are the map beside the earlier stages, as detection heads read several depths; the map alone too.
AP, AP_MAP, AP_RAW, SPAN = "AP, all stages", "AP, map alone", "AP, all stages + raw", "height span R2"


@dataclass(frozen=True)
class ProbeScan:
    """One scan with what the probe needs to know.

    Attributes:
        points: float32 ``[P, F]``.
        unit: the scan or block of scans it belongs to; errors are over units.
        counted: bool ``[cells]``, occupied cells where labels (if any) exist.
        objects: bool ``[cells]``, cells with an object point; None without boxes.
    """

    points: Tensor
    unit: int
    counted: Tensor
    objects: Tensor | None


@dataclass(frozen=True)
class ProbeSplit:
    """Scans to fit on and later or other scans to test on.

    Attributes:
        train, test: disjoint.
        note: how they were chosen, one sentence.
    """

    train: Sequence[ProbeScan]
    test: Sequence[ProbeScan]
    note: str

    @property
    def labelled(self) -> bool:
        """Whether objects are known, with both classes present on both sides."""
        return all(
            all(scan.objects is not None for scan in scans) and _both_classes(scans)
            for scans in (self.train, self.test)
        )


def _both_classes(scans: Sequence[ProbeScan]) -> bool:
    labels = torch.cat([cast(Tensor, scan.objects)[scan.counted] for scan in scans])
    return bool(labels.any()) and not bool(labels.all())


@dataclass(frozen=True)
class Rows:
    """Counted cells of many scans: ``features`` by layer ``[R, D]``."""

    features: Mapping[str, Tensor]

    def joined(self, *names: str) -> Tensor:
        """Several layers side by side."""
        return torch.cat([self.features[name] for name in names], dim=1)


def encoder_rows(method: Method, scans: Sequence[ProbeScan], device: torch.device) -> Rows:
    """Frozen features of the counted cells: ``map`` (the last layer) and ``stages``."""
    parts: dict[str, list[Tensor]] = {"map": [], "stages": []}
    for start in range(0, len(scans), BATCH):
        group = scans[start : start + BATCH]
        embedding = method.embed(_batch(group, device))
        for row, scan in enumerate(group):
            parts["map"].append(embedding["tokens"].features[row].cpu()[scan.counted])
            parts["stages"].append(embedding["stages"].features[row].cpu()[scan.counted])
    return Rows({name: torch.cat(rows) for name, rows in parts.items()})


def raw_rows(scans: Sequence[ProbeScan], grid: VoxelGrid) -> Rows:
    """``raw`` 3 x 3 statistics and ``own`` cell statistics of the counted cells, and their height ``span``."""
    parts: dict[str, list[Tensor]] = {"raw": [], "own": [], "span": []}
    for scan in scans:
        statistics = cell_statistics(scan.points, grid)
        parts["raw"].append(neighbourhood(statistics, grid)[scan.counted])
        parts["own"].append(statistics[scan.counted])
        parts["span"].append(height_span(statistics)[scan.counted].unsqueeze(1))
    return Rows({name: torch.cat(rows) for name, rows in parts.items()})


def _batch(scans: Sequence[ProbeScan], device: torch.device) -> Batch:
    points = join_scans([scan.points.numpy() for scan in scans]).to(device)
    names = tuple(str(index) for index in range(len(scans)))
    return Batch(points, torch.zeros(len(scans), dtype=torch.long, device=device), names)


@torch.no_grad()
def calibrate_batch_norm(method: Method, scans: Sequence[ProbeScan], device: torch.device) -> Method:
    """A copy whose batch-norm statistics are those of these scans: what an encoder gains without learning anything."""
    calibrated = copy.deepcopy(method)
    assert isinstance(calibrated, nn.Module)
    calibrated.eval()  # the front end keeps every voxel, as it does when features are read
    norms = [module for module in calibrated.modules() if isinstance(module, JointBatchNorm)]
    encoder = cast(nn.Module, calibrated.encoder).train()
    for count, start in enumerate(range(0, len(scans), BATCH), 1):
        for norm in norms:
            norm.blend = 1 / count  # a plain average over the batches
        batch = _batch(scans[start : start + BATCH], device)
        inputs, _ = calibrated.front_end(batch.inputs, batch.seeds)  # type: ignore[operator]  # a module's attribute
        encoder(inputs, None)
    encoder.eval()
    return cast(Method, calibrated)


class CellProbe:
    """Fits and tests the probes of one split; keeps scores so that differences can be paired.

    Args:
        split: scans.
        grid: voxel grid.
    """

    def __init__(self, split: ProbeSplit, grid: VoxelGrid) -> None:
        self.split = split
        self.train_raw, self.test_raw = raw_rows(split.train, grid), raw_rows(split.test, grid)
        self.units = torch.cat([torch.full((int(scan.counted.sum()),), scan.unit) for scan in split.test])
        if split.labelled:
            self.train_labels, self.test_labels = self._labels(split.train), self._labels(split.test)
        self.scores: dict[tuple[str, str], Tensor] = {}
        self.rows: dict[str, dict[str, Measurement]] = {}

    @staticmethod
    def _labels(scans: Sequence[ProbeScan]) -> Tensor:
        return torch.cat([cast(Tensor, scan.objects)[scan.counted] for scan in scans]).double()

    def add_raw(self) -> None:
        """Rows of the raw statistics; the height span is read from those that do not hold it already."""
        r2 = ridge_r2(
            without_extremes(self.train_raw.joined("raw")),
            self.train_raw.joined("span"),
            without_extremes(self.test_raw.joined("raw")),
            self.test_raw.joined("span"),
        )
        self.rows.setdefault("raw", {})[SPAN] = Measurement(r2)
        self._objects("raw", AP, self.train_raw.joined("raw"), self.test_raw.joined("raw"))
        self._objects("raw, own cell", AP, self.train_raw.joined("own"), self.test_raw.joined("own"))

    def add(self, name: str, method: Method, device: torch.device) -> None:
        """Rows of an encoder: all its stages, its map alone, stages beside raw statistics, and the height span."""
        train = encoder_rows(method, self.split.train, device)
        test = encoder_rows(method, self.split.test, device)
        self._objects(name, AP, train.joined("stages"), test.joined("stages"))
        self._objects(name, AP_MAP, train.joined("map"), test.joined("map"))
        self._objects(
            name,
            AP_RAW,
            torch.cat((train.joined("stages"), self.train_raw.joined("raw")), 1),
            torch.cat((test.joined("stages"), self.test_raw.joined("raw")), 1),
        )
        r2 = ridge_r2(
            train.joined("stages"), self.train_raw.joined("span"), test.joined("stages"), self.test_raw.joined("span")
        )
        self.rows.setdefault(name, {})[SPAN] = Measurement(r2)

    def _objects(self, name: str, column: str, train: Tensor, test: Tensor) -> None:
        if not self.split.labelled:
            return
        scores = fit_logistic(train, self.train_labels)(test)
        self.scores[name, column] = scores
        found = bootstrap_stderr(average_precision, scores, self.test_labels, self.units)
        self.rows.setdefault(name, {})[column] = Measurement(found.value, found.stderr)

    def difference(self, a: tuple[str, str], b: tuple[str, str]) -> Measurement:
        """Average precision of ``a`` minus that of ``b``, each (row, column), error paired over units."""
        found = paired_bootstrap(average_precision, self.scores[a], self.scores[b], self.test_labels, self.units)
        return Measurement(found.value, found.stderr)

    def table(self) -> ProbeTable:
        """All rows so far."""
        metric = AP if self.split.labelled else SPAN
        return ProbeTable(metric, self.rows, len(self.units), self.split.note)


def run_probe(
    split: ProbeSplit, grid: VoxelGrid, trained: Method, untrained: Method, device: torch.device
) -> ProbeTable:
    """The table a run ends with: trained, untrained, untrained with calibrated batch norm, raw."""
    probe = CellProbe(split, grid)
    probe.add("trained", trained, device)
    probe.add("untrained", untrained, device)
    probe.add("untrained, batch norm calibrated", calibrate_batch_norm(untrained, split.train, device), device)
    probe.add_raw()
    return probe.table()
