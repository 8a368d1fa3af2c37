"""Two processes against one on the joined batch: values, gradients and running statistics must be equal.

The file is also the program of each process: it works every case out alone on the joined batch, joins the group, works
it out on its own uneven part, averages gradients as DDP does, and compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from jepa_core import anticollapse
from jepa_core.contracts import AntiCollapse, Sites
from jepa_core.distributed import drawn_rows, first_samples, gather_rows, rank, sum_over_processes, world
from jepa_core.drawn import Drawn
from jepa_core.energy import build_energy, count_targets, reduce_energy
from jepa_core.monitor.collapse import CollapseMonitor
from jepa_core.nn.norm import JointBatchNorm
from jepa_core.settings import MonitorSettings

Cut = Callable[[Tensor, int], Tensor]
Case = Callable[[Tensor, Cut], dict[str, Tensor]]
ROWS = 11


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def anti_collapse(term: AntiCollapse, dim: int, with_valid: bool) -> Case:
    """A term over features that a weight makes; ``dim`` is what lies over processes: rows (1) or sets (0)."""

    def case(weight: Tensor, cut: Cut) -> dict[str, Tensor]:
        shape = (2, ROWS, 5) if dim == 1 else (ROWS, 6, 5)
        valid = random(*shape[:2], seed=3) > -0.3 if with_valid else None
        features = cut(random(*shape), dim) @ weight
        return dict(term(features, None if valid is None else cut(valid, dim), 4))

    return case


def chunked(case: Case) -> Case:
    def run(weight: Tensor, cut: Cut) -> dict[str, Tensor]:
        before, anticollapse._CHUNK_ELEMENTS = anticollapse._CHUNK_ELEMENTS, 3000
        try:
            return case(weight, cut)
        finally:
            anticollapse._CHUNK_ELEMENTS = before

    return run


def norm(shape: tuple[int, ...]) -> Case:
    """Batch norm, then a loss whose sum is joined."""

    def case(weight: Tensor, cut: Cut) -> dict[str, Tensor]:
        layer = JointBatchNorm(5, momentum=0.3).double()
        x = cut((random(*shape) + 3).movedim(1, -1), 0) @ weight
        out = layer(x.movedim(-1, 1))
        loss = sum_over_processes((out * cut(random(*shape, seed=7), 0)).sin().sum())
        return {
            "loss": loss,
            "mean": layer.running_mean,
            "var": layer.running_var,
            "n": layer.num_batches_tracked + 0.0,
        }

    return case


def energy(micro_batches: int) -> Case:
    def case(weight: Tensor, cut: Cut) -> dict[str, Tensor]:
        ids = torch.zeros(ROWS, 2, 4, dtype=torch.long)
        valid, kind = random(ROWS, 2, 4, seed=1) > -0.5, (random(ROWS, 2, 4, seed=2) > 1).long()
        sites = Sites(cut(ids, 0), cut(valid, 0), cut(kind, 0), ("occupied", "empty", "never"))
        distance = build_energy("cosine")(cut(random(ROWS, 2, 4, 5), 0) @ weight, cut(random(ROWS, 2, 4, 5, seed=5), 0))
        counts = 2 * count_targets(sites) if micro_batches == 2 else None
        factors = {"occupied": 0.25, "empty": 0.75, "never": 1.0}
        total, terms = reduce_energy(distance, sites, factors, counts, micro_batches)
        return {"loss": total, **terms, "counts": count_targets(sites)}

    return case


CASES: dict[str, Case] = {
    "hinge": anti_collapse(anticollapse.VarianceHinge(gamma=3), 1, False),
    "hinge_valid": anti_collapse(anticollapse.VarianceHinge(gamma=3), 1, True),
    "hinge_sample": anti_collapse(anticollapse.VarianceHinge(gamma=3, scope="sample"), 0, True),
    "covariance": anti_collapse(anticollapse.Covariance(), 1, True),
    "covariance_sample": anti_collapse(anticollapse.Covariance(scope="sample"), 0, True),
    "pooled": anti_collapse(anticollapse.PooledVariance(gamma=3), 0, False),
    "pooled_valid": anti_collapse(anticollapse.PooledVariance(gamma=3), 0, True),
    "vicreg": anti_collapse(anticollapse.VICReg(gamma=3), 1, True),
    "barlow": anti_collapse(anticollapse.Barlow(), 1, True),
    "sigreg": anti_collapse(anticollapse.SIGReg(slices=16), 1, True),
    "sigreg_chunked": chunked(anti_collapse(anticollapse.SIGReg(slices=16), 1, False)),
    "norm_rows": norm((ROWS, 5)),
    "norm_maps": norm((ROWS, 5, 3, 2)),
    "norm_one_row": norm((1, 5)),
    "norm_no_row": norm((0, 5)),
    "energy": energy(1),
    "energy_accumulated": energy(2),
}
# Process 0 holds this many of the eleven; with 11 the other one holds none.
CUTS = (8, 11)


def work_out(case: Case, cut: Cut) -> tuple[dict[str, Tensor], Tensor]:
    weight = random(5, 5, seed=9).requires_grad_()
    terms = case(weight, cut)
    torch.stack([value.double() for value in terms.values() if value.requires_grad]).sum().backward()
    assert weight.grad is not None
    return {name: value.detach().clone() for name, value in terms.items()}, weight.grad


def averaged(gradient: Tensor) -> Tensor:
    """What DDP does with gradients."""
    total = gradient.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def gathers_rows() -> bool:
    mine = 3 if rank() == 0 else 0
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        every = torch.arange(10).view(5, 2).to(dtype)
        got = gather_rows(every[:mine] if rank() == 0 else every[3:])
        nothing_on_1 = gather_rows(every[:3] if rank() == 0 else every[:0])
        if not (torch.equal(got, every) and torch.equal(nothing_on_1, every[:3]) and got.dtype == dtype):
            return False
    return True


def drawn(x: Tensor, keys: Tensor, most: int) -> Drawn:
    """What a process offers of its rows."""
    best = keys.topk(min(most, len(keys)))
    return Drawn(x[best.indices], best.values, most)


def draws(cut: Cut) -> dict[str, Tensor]:
    """Draws of more rows than there are, of fewer, of fewer than one process has, and where few or none are valid."""
    x, keys = random(ROWS, 4), random(ROWS, seed=8).mul(1e6).long().abs()
    found = {}
    for most in (2, 5, 8, 40):
        for valid in (ROWS, 3, 0):
            known = keys.masked_fill(keys < keys.sort(descending=True).values[valid - 1], -1) if valid else keys * 0 - 1
            # Where none is valid any row will do: all are alike.
            rows = x if valid else torch.ones_like(x)
            found[f"{most} of {valid}"] = drawn_rows(drawn(cut(rows, 0), cut(known, 0), most))
    return found


def samples(cut: Cut) -> dict[str, Tensor]:
    """First samples of several shapes and dtypes; lists that are longer elsewhere are filled up."""
    every = random(ROWS, 3, 2)
    dtypes = (torch.float32, torch.bool, torch.int64, torch.bfloat16)
    found = {
        f"{count} {dtype}": first_samples(cut(every, 0).to(dtype), count) for count in (2, 9, 30) for dtype in dtypes
    }
    ragged = cut(every, 0)[:, : 1 + 2 * rank()]
    return {**found, "ragged": first_samples(ragged, 10)[:, :1]}


def monitored(cut: Cut) -> dict[str, Tensor]:
    """Figures of plain rows, of more rows than are measured, and of a draw."""
    x, keys = random(ROWS, 4), random(ROWS, seed=8).mul(1e6).long().abs()
    given = {"plain": cut(x, 0), "drawn": drawn(cut(x, 0), cut(keys, 0), 8)}
    found = {}
    for rows in (5, 100):
        figures = CollapseMonitor(MonitorSettings(rows=rows)).observe(1, given, {})
        found |= {f"{rows} {name}": torch.tensor(value) for name, value in figures.items()}
    return found


SAME_BITS: dict[str, Callable[[Cut], dict[str, Tensor]]] = {"draws": draws, "samples": samples, "monitor": monitored}


def equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return list(got) == list(wanted) and all(torch.equal(got[name], value) for name, value in wanted.items())


def main(place: int, folder: Path) -> None:
    torch.set_num_threads(1)
    alone = {name: work_out(case, lambda x, dim: x) for name, case in CASES.items()}
    bits_alone = {name: work(lambda x, dim: x) for name, work in SAME_BITS.items()}
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=place, world_size=2)
    results: dict[str, float | bool] = {"gather": gathers_rows(), "world": world() == 2}
    for share in CUTS:

        def cut(x: Tensor, dim: int, share: int = share) -> Tensor:
            here = min(share, x.shape[dim])
            return x.narrow(dim, 0, here) if place == 0 else x.narrow(dim, here, x.shape[dim] - here)

        results |= {f"{name}/{share}": equal(work(cut), bits_alone[name]) for name, work in SAME_BITS.items()}
        for name, case in CASES.items():
            terms, gradient = work_out(case, cut)
            expected_terms, expected_gradient = alone[name]
            gaps = [(averaged(gradient) - expected_gradient).abs().max()]
            gaps += [(terms[term] - value).abs().max() for term, value in expected_terms.items()]
            results[f"{name}/{share}"] = max(float(gap) for gap in gaps)
            # A case that teaches nothing would pass whatever the reduction.
            results[f"{name}/{share}/learns"] = bool(expected_gradient.any())
    (folder / f"{place}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What both processes found; they are started once for all cases."""
    folder = tmp_path_factory.mktemp("two")
    source = str(Path(anticollapse.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    commands = [[sys.executable, __file__, str(place), str(folder)] for place in range(2)]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=100)[1] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(errors)
    return [json.loads((folder / f"{place}.json").read_text()) for place in range(2)]


@pytest.mark.parametrize("share", CUTS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(results: list[dict[str, float]], name: str, share: int) -> None:
    for found in results:
        assert found[f"{name}/{share}"] < 1e-10
        assert found[f"{name}/{share}/learns"] or name == "norm_no_row"


@pytest.mark.parametrize("share", CUTS)
@pytest.mark.parametrize("name", SAME_BITS)
def test_what_the_monitor_looks_at_is_that_of_one_process(
    results: list[dict[str, float]], name: str, share: int
) -> None:
    assert all(found[f"{name}/{share}"] is True for found in results)


def test_gather_rows_of_uneven_parts_in_every_dtype(results: list[dict[str, float]]) -> None:
    assert all(found["gather"] and found["world"] for found in results)


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert world() == 1 and rank() == 0
    assert sum_over_processes(x) is x
    assert torch.equal(gather_rows(x), x) and not gather_rows(x).requires_grad
    with pytest.raises(ValueError, match=r"expected \[R, D\]"):
        gather_rows(torch.zeros(3))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
