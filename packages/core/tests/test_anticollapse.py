"""Golden values and properties of the anti-collapse terms; exactness over processes is in the distributed tests."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import jepa_core.anticollapse as ac


def wave(rows: int, width: int) -> Tensor:
    """A fixed matrix without any random numbers."""
    i = torch.arange(rows, dtype=torch.float64)[:, None]
    j = torch.arange(width, dtype=torch.float64)[None]
    return torch.sin(0.7 * (i + 1) * (j + 1) + 0.3 * i) + 0.5 * torch.cos(1.3 * (i + 1) - 0.9 * (j + 1) ** 2)


def directions(width: int, slices: int) -> Tensor:
    columns = torch.cos(torch.arange(1, width * slices + 1, dtype=torch.float64)).view(width, slices)
    return columns / columns.norm(dim=0)


Z = wave(32, 8)
Z2 = Z + 0.1 * torch.cos(torch.arange(256, dtype=torch.float64)).view(32, 8)
GRID_3 = ac.Quadrature.one_sided(3, 17)
GRID_5 = ac.Quadrature.one_sided(5, 17)


def close(value: Tensor, expected: float) -> bool:
    return value.item() == pytest.approx(expected, abs=6e-7)


def test_epps_pulley_on_the_axes() -> None:
    on_3 = ac.epps_pulley(Z, GRID_3)
    assert close(on_3.mean(), 0.679820)
    assert on_3[:3].tolist() == pytest.approx([0.953194, 0.635388, 0.526670], abs=6e-7)
    assert close(ac.epps_pulley(Z, GRID_5).mean(), 0.693453)
    assert close(ac.epps_pulley(Z, ac.Quadrature.two_sided(5, 17)).mean(), 0.693457)
    # eb_jepa's: ten nodes on [-3, 3] and no factor N.
    assert close(ac.epps_pulley(Z, ac.Quadrature.two_sided(3, 10)).mean() / 32, 0.021107)


@pytest.mark.parametrize(("grid", "expected"), [(GRID_3, 1.188201), (GRID_5, 1.208073)])
def test_sliced_statistic_golden(grid: ac.Quadrature, expected: float) -> None:
    assert close(ac.sliced_statistic(Z[None], None, directions(8, 4), grid), expected)


def test_epps_pulley_of_simple_samples() -> None:
    line = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    zeros = torch.zeros(10, 1, dtype=torch.float64)
    quantiles = torch.special.ndtri((torch.arange(1001, dtype=torch.float64) + 0.5) / 1001)[:, None]
    assert close(ac.epps_pulley(line, GRID_3), 1.034785)
    assert close(ac.epps_pulley(line, GRID_5), 1.035520)
    assert close(ac.epps_pulley(zeros, GRID_3), 4.020476)
    assert close(ac.epps_pulley(zeros, GRID_5), 4.089214)
    assert ac.epps_pulley(quantiles, GRID_3).item() == pytest.approx(3.525954e-05, rel=1e-6)


@pytest.mark.parametrize(("at", "expected"), [(0.0, 0.0), (1.0, 1.380385)])
def test_gradient_of_a_collapsed_sample(at: float, expected: float) -> None:
    x = torch.full((10, 1), at, dtype=torch.float64, requires_grad=True)
    ac.epps_pulley(x, GRID_3).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx([expected] * 10, abs=6e-7)


def test_sigreg_is_taken_for_each_view() -> None:
    views = wave(24, 5).view(4, 6, 5)
    assert close(ac.sliced_statistic(views, None, directions(5, 3), GRID_3), 0.692291)
    assert close(ac.sliced_statistic(views.reshape(1, 24, 5), None, directions(5, 3), GRID_3), 0.973330)


def test_epps_pulley_equals_its_closed_form_and_is_even() -> None:
    x = wave(40, 1) * 1.3
    n = x.shape[0]
    pairs = torch.exp(-((x - x.T) ** 2) / 2).sum() / n
    single = math.sqrt(2) * torch.exp(-x.square() / 4).sum()
    closed = math.sqrt(2 * math.pi) * (pairs - single + n / math.sqrt(3))
    wide = ac.Quadrature.one_sided(10, 401)
    assert ac.epps_pulley(x, wide).item() == pytest.approx(closed.item(), abs=1e-9)
    assert ac.epps_pulley(-x, GRID_3).item() == pytest.approx(ac.epps_pulley(x, GRID_3).item(), abs=1e-12)


def test_sigreg_of_normal_features_is_its_expectation() -> None:
    assert GRID_3.null_expectation() == pytest.approx(1.052464, abs=6e-7)
    assert GRID_5.null_expectation() == pytest.approx(1.059424, abs=6e-7)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(1, 256, 64, generator=generator) for _ in range(30)]
    values = [ac.SIGReg(slices=64)(z, None, step)["sigreg"].item() for step, z in enumerate(draws)]
    assert sum(values) / len(values) == pytest.approx(1.0525, abs=0.1)


def test_slices_follow_the_step_and_have_unit_length() -> None:
    first = ac.random_slices(16, 32, 5)
    assert torch.equal(first, ac.random_slices(16, 32, 5))
    assert not torch.equal(first, ac.random_slices(16, 32, 6))
    torch.testing.assert_close(first.norm(dim=0), torch.ones(32))


def test_chunks_of_slices_change_neither_value_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for elements in (1 << 24, 2 * 32 * 17 * 3):
        monkeypatch.setattr(ac, "_CHUNK_ELEMENTS", elements)
        z = torch.stack([Z, Z2]).requires_grad_()
        loss = ac.SIGReg(slices=16)(z, None, 0)["sigreg"]
        loss.backward()
        results.append((loss.detach(), z.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


def test_vicreg_golden_in_both_forms() -> None:
    terms = ac.vicreg(Z, Z2)
    expected = {"total": 4.849758, "invariance": 0.005020, "variance": 0.184342, "covariance": 0.115700}
    for name, value in expected.items():
        assert close(terms[name], value), name
    assert close(ac.vicreg_paper(Z, Z2)["total"], 10.336816)


def test_vicreg_is_its_parts() -> None:
    views = torch.stack([Z, Z2])
    terms = ac.VICReg()(views, None, 0)
    torch.testing.assert_close(terms["variance"], ac.VarianceHinge()(views, None, 0)["variance"])
    torch.testing.assert_close(terms["covariance"], 2 * ac.Covariance()(views, None, 0)["covariance"])


def test_barlow_golden() -> None:
    assert close(ac.Barlow()(torch.stack([Z, Z2]), None, 0)["barlow"], 0.005507)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.189496), (0.1, 0.918340)])
def test_hinge_golden(scale: float, expected: float) -> None:
    assert close(ac.VarianceHinge()(scale * Z[None], None, 0)["variance"], expected)


TERMS = [
    ac.VarianceHinge(),
    ac.VarianceHinge(scope="sample"),
    ac.Covariance(),
    ac.Covariance(scope="sample"),
    ac.VICReg(),
    ac.Barlow(),
    ac.SIGReg(slices=8),
    ac.PooledVariance(),
]


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_rows_that_are_not_valid_influence_nothing(term: ac.VICReg) -> None:
    padded = torch.full((2, 40, 8), float("nan"), dtype=torch.float64)
    padded[:, 3:35] = torch.stack([Z, Z2])
    padded.requires_grad_()
    valid = torch.zeros(2, 40, dtype=torch.bool)
    valid[:, 3:35] = True
    got, expected = term(padded, valid, 1), term(torch.stack([Z, Z2]), None, 1)
    torch.testing.assert_close(got, expected)
    torch.stack(list(got.values())).sum().backward()
    assert padded.grad is not None
    assert torch.equal(padded.grad[~valid], torch.zeros_like(padded.grad[~valid]))
    assert padded.grad[valid].isfinite().all()


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_terms_are_float32_under_autocast(term: ac.VICReg) -> None:
    views = torch.stack([Z, Z2]).float()
    plain = term(views, None, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = term(views, None, 1)
    for name, value in plain.items():
        assert cast[name].dtype == torch.float32
        assert torch.equal(cast[name], value), name


@pytest.mark.parametrize("term", TERMS, ids=repr)
@pytest.mark.parametrize("rows", [0, 1])
def test_sets_without_spread_give_finite_terms(term: ac.VICReg, rows: int) -> None:
    views = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    valid = torch.zeros(2, 4, dtype=torch.bool)
    valid[:, :rows] = True
    total = torch.stack(list(term(views, valid, 0).values())).sum()
    total.backward()
    assert total.isfinite()
    assert views.grad is not None and views.grad.isfinite().all()


def test_sample_scope_leaves_sets_of_one_row_out_of_the_mean() -> None:
    sets = torch.stack([Z, 0.1 * Z, Z])
    valid = torch.ones(3, 32, dtype=torch.bool)
    valid[2, 1:] = False
    for term in (ac.VarianceHinge(scope="sample"), ac.Covariance(scope="sample")):
        alone = [next(iter(term(one[None], None, 0).values())) for one in sets[:2]]
        got = next(iter(term(sets, valid, 0).values()))
        torch.testing.assert_close(got, torch.stack(alone).mean())


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="scope: expected batch or sample"):
        ac.VarianceHinge(scope="scan")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match=r"expected features \[V, N, D\]"):
        ac.Covariance()(Z, None, 0)
    with pytest.raises(ValueError, match="two views"):
        ac.Barlow()(Z[None], None, 0)
    with pytest.raises(ValueError, match="slices >= 1"):
        ac.SIGReg(slices=0)


def test_the_pooled_term_sees_the_means_of_samples_alone() -> None:
    x = wave(6 * 5, 4).view(6, 5, 4)
    means = x.mean(1)[None]
    found = ac.PooledVariance(covariance=0.5)(x, None, 0)
    assert close(found["pooled_variance"], ac.VarianceHinge()(means, None, 0)["variance"].item())
    assert close(found["pooled_covariance"], 0.5 * ac.Covariance()(means, None, 0)["covariance"].item())
    # Tokens that differ within a sample but not between samples do not count as spread.
    same = x[:1].expand(6, -1, -1)
    assert ac.PooledVariance()(same, None, 0)["pooled_variance"] > 0.98
    valid = torch.ones(6, 5, dtype=torch.bool)
    valid[:, 3:] = False
    cut = ac.PooledVariance(covariance=0.5)(torch.where(valid[..., None], x, float("nan")), valid, 0)
    kept = ac.PooledVariance(covariance=0.5)(x[:, :3], None, 0)
    assert all(close(cut[name], kept[name].item()) for name in kept)
