"""Golden values and invariances of the collapse figures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_core.monitor import metrics


def wave(rows: int, width: int) -> Tensor:
    """A fixed matrix without any random numbers."""
    i = torch.arange(rows, dtype=torch.float64)[:, None]
    j = torch.arange(width, dtype=torch.float64)[None]
    return torch.sin(0.7 * (i + 1) * (j + 1) + 0.3 * i) + 0.5 * torch.cos(1.3 * (i + 1) - 0.9 * (j + 1) ** 2)


Z = wave(32, 8)


def test_spread_of_the_golden_matrix() -> None:
    assert Z.sum().item() == pytest.approx(1.512905, abs=5e-7)
    assert metrics.mean_pairwise_cosine(Z).item() == pytest.approx(-0.029977, abs=5e-7)
    assert metrics.dimension_std(Z).mean().item() == pytest.approx(0.810442, abs=5e-7)
    assert metrics.dimension_std(Z).min().item() == pytest.approx(0.743485, abs=5e-7)
    assert metrics.normalised_std(Z).item() == pytest.approx(1.013377, abs=5e-7)


def test_ranks_of_the_golden_matrix() -> None:
    assert metrics.rankme(Z).item() == pytest.approx(7.856855, abs=5e-7)
    assert metrics.effective_rank(Z).item() == pytest.approx(7.856848, abs=5e-7)
    assert metrics.rankme(metrics.centred(Z)).item() == pytest.approx(7.856990, abs=2e-6)
    assert metrics.participation_ratio(Z).item() == pytest.approx(6.934767, abs=5e-7)


INDEX = torch.arange(1, 65, dtype=torch.float64)
SPECTRA = [
    ([4.0, 2, 1, 1], (3.363586, 3.363586, 3.363661, 2.276322, 1.766423)),
    ([1.0, 1, 0, 0], (2.000006, 2, 2.000448, 2, 2)),
    ((1 / INDEX).tolist(), (29.118583, 29.117882, 29.188070, 4.667760, 2.453100)),
    ((2.0 ** -(INDEX[:32] - 1)).tolist(), (4.000124, 4, 4.010356, 2.116535, 1.666667)),
    ([1.0] + [0.0] * 63, (1.000101, 1, 1.007269, 1, 1)),
]


@pytest.mark.parametrize(("spectrum", "expected"), SPECTRA)
def test_ranks_of_known_spectra(spectrum: list[float], expected: tuple[float, ...]) -> None:
    features = torch.diag(torch.tensor(spectrum, dtype=torch.float64))
    got = (
        metrics.rankme(features),
        metrics.effective_rank(features),
        metrics.rankme(features, eps=1e-5),
        metrics.eigenvalue_entropy_rank(features),
        metrics.participation(torch.tensor(spectrum, dtype=torch.float64).square()),
    )
    assert [value.item() for value in got] == pytest.approx(list(expected), abs=1e-6)


def test_rankme_does_not_change_under_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(50, 50, generator=generator, dtype=torch.float64)).Q
    r = torch.linalg.qr(torch.randn(50, 50, generator=generator, dtype=torch.float64)).Q
    features = q @ torch.diag(1 / INDEX[:50]) @ r
    assert metrics.rankme(features).item() == pytest.approx(24.462557, abs=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
@pytest.mark.parametrize(("first", "last"), [(1, 200), (10, 100)])
def test_spectrum_slope_finds_the_exponent(alpha: float, first: int, last: int) -> None:
    eigenvalues = torch.arange(1, 201, dtype=torch.float64) ** -alpha
    assert metrics.spectrum_slope(eigenvalues, first, last).item() == pytest.approx(alpha, abs=1e-9)


def test_alpha_req_leaves_the_centring_direction_out() -> None:
    q = torch.linalg.qr(torch.randn(21, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    # Columns orthogonal to the constant vector, so that centring changes nothing.
    basis = torch.linalg.qr(torch.cat([torch.ones(21, 1, dtype=torch.float64), q], 1)).Q[:, 1:21]
    features = basis * torch.arange(1, 21, dtype=torch.float64) ** -0.75
    assert metrics.alpha_req(features).item() == pytest.approx(1.5, abs=1e-9)


@pytest.mark.parametrize(("delta", "expected"), [(1e-4, 2.718795), (1e-2, 3.175723)])
def test_lidar_rank_golden(delta: float, expected: float) -> None:
    noise = 0.1 * torch.sin(1.7 * torch.arange(120, dtype=torch.float64) + 0.3).view(5, 4, 6)
    embeddings = wave(5, 6)[:, None] + noise
    assert metrics.lidar_rank(embeddings, delta).item() == pytest.approx(expected, abs=6e-7)


def test_lidar_rank_of_four_equal_classes_is_three() -> None:
    means = 3 * torch.eye(4, dtype=torch.float64)[:, None]
    offset = 0.1 * torch.tensor([1.0, -1.0], dtype=torch.float64)[None, :, None]
    assert metrics.lidar_rank(means + offset).item() == pytest.approx(3.0, abs=1e-4)


def test_collapse_metrics_agree_with_the_single_figures() -> None:
    for features in (Z, Z.T.contiguous()):
        got = metrics.collapse_metrics(features)
        unit = torch.nn.functional.normalize(features, dim=1)
        expected = {
            "std_mean": metrics.dimension_std(features).mean(),
            "std_min": metrics.dimension_std(features).min(),
            "normalised_std": metrics.normalised_std(features),
            "mean_cosine": metrics.mean_pairwise_cosine(features),
            "dead_dimensions": metrics.dead_dimensions(features),
            "mean_norm": features.norm(dim=1).mean(),
            "variance": features.var(0).mean(),
            "normalised_std_min": unit.std(0).min() * features.shape[1] ** 0.5,
            "rankme": metrics.rankme(metrics.centred(features)),
            "alpha_req": metrics.alpha_req(features),
            "effective_rank": metrics.effective_rank(metrics.centred(features)),
            "participation_ratio": metrics.participation_ratio(features),
            "top_eigenvalue_share": metrics.top_eigenvalue_share(features),
        }
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert got[name].item() == pytest.approx(value.item(), rel=1e-5), name
            assert got[name].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_features_have_no_rank(dtype: torch.dtype) -> None:
    features = (torch.randn(1, 64, generator=torch.Generator().manual_seed(2)) * 3).expand(100, 64).to(dtype)
    got = metrics.collapse_metrics(features)
    assert got["effective_rank"].item() == 1
    assert got["participation_ratio"].item() == 0
    assert got["dead_dimensions"].item() == 64
    assert got["mean_cosine"].item() == pytest.approx(1, abs=1e-4)
    assert got["normalised_std"].item() < 1e-3


def test_a_line_in_float32_has_rank_one() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(500, 1, generator=generator) * torch.randn(1, 256, generator=generator)
    got = metrics.collapse_metrics(features)
    assert got["effective_rank"].item() == pytest.approx(1, abs=0.01)
    assert got["top_eigenvalue_share"].item() == pytest.approx(1, abs=1e-5)
    assert all(math.isfinite(value.item()) for value in got.values())


def test_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        metrics.collapse_metrics(torch.zeros(1, 4))


def test_the_monitor_measures_the_golden_matrix() -> None:
    figures = {name: value.item() for name, value in metrics.collapse_metrics(Z).items()}
    centred = metrics.centred(Z)
    assert figures["rankme"] == pytest.approx(7.856990, abs=2e-6)
    assert figures["effective_rank"] == pytest.approx(metrics.effective_rank(centred).item(), abs=1e-6)
    assert figures["participation_ratio"] == pytest.approx(6.934767, abs=1e-6)
    assert figures["variance"] == pytest.approx(Z.var(0).mean().item(), rel=1e-6)
    assert figures["normalised_std"] == pytest.approx(1.013377, abs=5e-7)
    assert figures["normalised_std_min"] <= figures["normalised_std"]
    assert figures["alpha_req"] == pytest.approx(metrics.alpha_req(Z).item(), rel=1e-5)


def test_the_slope_of_the_monitor_leaves_rounding_out() -> None:
    """Eight directions of a power law in sixty-four dimensions: the other eigenvalues are 0."""
    q = torch.linalg.qr(torch.randn(33, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    basis = torch.linalg.qr(torch.cat([torch.ones(33, 1, dtype=torch.float64), q], 1)).Q[:, 1:9]
    scaled = basis * torch.arange(1, 9, dtype=torch.float64) ** -0.75
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q[:8]
    assert metrics.collapse_metrics(scaled @ turn)["alpha_req"].item() == pytest.approx(1.5, abs=1e-5)
    assert metrics.collapse_metrics(torch.ones(5, 3))["alpha_req"].item() == 0
