"""Two processes on uneven parts of a batch against one on the whole: the same loss, gradients and statistics.

The file is also the program of each process: it works every case out alone on the joined batch, joins the group, works
it out on its own part, averages gradients as DDP does, and compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lidar_cases import PAPER_LIKE, Scan, batch_of, built, configured, gradients, scan_of_cells, simulated
from torch import Tensor, nn

import jepa_core
import jepa_lidar
from jepa_core.contracts import Batch, Grid
from jepa_core.methods.masked import MaskedPrediction
from jepa_lidar.voxels import Points, Voxels

CASES: dict[str, tuple[str, list[str]]] = {
    "quickstart": ("quickstart", []),
    "occupancy": ("occupancy", []),
    "paper": ("quickstart", [*PAPER_LIKE, "lidar.target.buffers=own", "lidar.predictor.last=bn_relu"]),
}
# Scans of process 0; the rest goes to process 1. With 3 the other one holds nothing but an empty scan.
CUTS = (1, 3)
LIMITS = {"float64": 1e-6, "float32": 1e-5}


class WideFrontEnd(nn.Module):
    """The front end with float64 voxel features."""

    def __init__(self, front_end: nn.Module) -> None:
        super().__init__()
        self.front_end = front_end

    def forward(self, inputs: Points, seeds: Tensor) -> tuple[Voxels, Grid]:
        voxels, grid = self.front_end(inputs, seeds)
        return replace(voxels, features=voxels.features.double()), grid


def scans() -> list[Scan]:
    """Uneven ones: a whole scene, nine cells, one cell, none."""
    return [simulated(1, azimuths=64), scan_of_cells(9), scan_of_cells(1, seed=1), scan_of_cells(0)]


def part(batch: Batch, first: int, last: int) -> Batch:
    """Some of the batch's scans, with the seeds they have in it."""
    some = batch_of(scans()[first:last])
    return replace(some, seeds=batch.seeds[first:last], sample_id=batch.sample_id[first:last])


def method_of(name: str, dtype: str) -> MaskedPrediction:
    recipe, overrides = CASES[name]
    method = built(configured(recipe, *overrides)).train()
    if dtype == "float64":
        method.double()
        method.front_end = WideFrontEnd(method.front_end)  # type: ignore[arg-type]  # a module, as it was
    return method


def work_out(name: str, dtype: str, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss, terms and batch-norm statistics; gradients."""
    method = method_of(name, dtype)
    losses = method(batch, 1)
    losses.total.backward()
    method.after_step(1)
    values = {"loss": losses.total.detach(), **losses.terms}
    return values | dict(method.named_buffers()), gradients(method)


def averaged(gradient: Tensor) -> Tensor:
    """What DDP does with gradients."""
    total = gradient.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def gap(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, relative where the expected value is above 1."""
    assert list(got) == list(expected)
    gaps = [(got[name] - value).abs() / value.abs().clamp(min=1) for name, value in expected.items()]
    return max(float(difference.max()) for difference in gaps)


def main(place: int, folder: Path) -> None:
    """One process: all cases alone, then all cases together."""
    torch.set_num_threads(1)
    batch = batch_of(scans())
    tasks = [(name, dtype) for name in CASES for dtype in LIMITS]
    alone = {task: work_out(*task, batch) for task in tasks}
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=place, world_size=2)
    results: dict[str, float] = {"world": dist.get_world_size()}
    for cut in CUTS:
        mine = part(batch, 0, cut) if place == 0 else part(batch, cut, len(batch))
        for name, dtype in tasks:
            values, own = work_out(name, dtype, mine)
            shared = {key: averaged(gradient) for key, gradient in own.items()}
            expected_values, expected = alone[name, dtype]
            key = f"{name}/{dtype}/{cut}"
            results[f"{key}/values"], results[f"{key}/gradients"] = gap(values, expected_values), gap(shared, expected)
            # What each process would have without its neighbour is something else: the comparison is able to fail.
            results[f"{key}/own"] = gap(own, expected)
            results[f"{key}/size"] = max(float(gradient.abs().max()) for gradient in expected.values())
    (folder / f"{place}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What both processes found; they are started once for all cases."""
    folder = tmp_path_factory.mktemp("two")
    sources = [str(Path(module.__file__ or "").parents[1]) for module in (jepa_core, jepa_lidar)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sources)}
    commands = [[sys.executable, __file__, str(place), str(folder)] for place in range(2)]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=110)[1] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(errors)
    return [json.loads((folder / f"{place}.json").read_text()) for place in range(2)]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(results: list[dict[str, float]], name: str, dtype: str, cut: int) -> None:
    key = f"{name}/{dtype}/{cut}"
    for found in results:
        assert found["world"] == 2
        assert found[f"{key}/values"] < LIMITS[dtype] and found[f"{key}/gradients"] < LIMITS[dtype], found
        assert found[f"{key}/size"] > 1e-3 and found[f"{key}/own"] > 1e-4


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
