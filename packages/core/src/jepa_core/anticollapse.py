"""Terms that keep features from collapsing: variance hinge and covariance (VICReg), Barlow Twins, SIGReg (LeJEPA).

Each is called with features ``[V, N, D]`` (V views or samples), ``valid`` bool ``[V, N]`` or None, and the step, and
returns its unweighted terms. Statistics are those of the joined batch: counts and sums go over all processes with their
gradient, so the averaged gradient is that of one process. All is computed in float32 (float64 for float64 features)
whatever autocast says. Non-linear in batch statistics: accumulating gradients is not the same as a bigger batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jepa_core.distributed import sum_over_processes

Scope = Literal["batch", "sample"]

# SIGReg holds some tensors of this many elements at a time (64 MiB each in float32).
_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class _Moments:
    """Centred rows of each set and how many there are.

    Attributes:
        count: ``[V]`` valid rows, at least 0.
        centred: ``[V, N, D]`` this process's rows minus the mean of the set; 0 where not valid.
        joint: whether a set lies over all processes.
    """

    count: Tensor
    centred: Tensor
    joint: bool

    def over(self, x: Tensor) -> Tensor:
        """A sum over this process's rows, made one over the whole set."""
        return sum_over_processes(x) if self.joint else x

    def variance(self) -> Tensor:
        """Unbiased variance ``[V, D]``; 0 for a set of fewer than 2 rows."""
        return self.over(self.centred.square().sum(1)) / (self.count - 1).clamp(min=1)[:, None]

    def mean_of_sets(self, values: Tensor) -> Tensor:
        """Mean of ``[V]`` values over the sets with at least 2 rows, on all processes; 0 when there is none."""
        counted = self.count > 1
        pair = torch.stack([torch.where(counted, values, 0.0).sum(), counted.sum().to(values.dtype)])
        # Sets over all processes are already the same everywhere.
        total = pair if self.joint else sum_over_processes(pair)
        return total[0] / total[1].detach().clamp(min=1)


def _check(features: Tensor, valid: Tensor | None) -> None:
    if features.ndim != 3 or (valid is not None and valid.shape != features.shape[:2]):
        got = f"{list(features.shape)} and {None if valid is None else list(valid.shape)}"
        raise ValueError(f"anti-collapse: expected features [V, N, D] and valid [V, N] or None, got {got}")


def _prepare(features: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Wide features with zeros where not valid, and the weights ``[V, N]``."""
    _check(features, valid)
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    if valid is None:
        return wide, wide.new_ones(wide.shape[:2])
    return torch.where(valid[:, :, None], wide, 0.0), valid.to(wide.dtype)


def _moments(features: Tensor, valid: Tensor | None, scope: Scope) -> _Moments:
    x_VND, weight_VN = _prepare(features, valid)
    joint = scope == "batch"
    packed = torch.cat([x_VND.sum(1), weight_VN.sum(1, keepdim=True)], dim=1)
    packed = sum_over_processes(packed) if joint else packed
    count_V = packed[:, -1].detach()
    mean_VD = packed[:, :-1] / count_V.clamp(min=1)[:, None]
    return _Moments(count_V, (x_VND - mean_VD[:, None]) * weight_VN[:, :, None], joint)


def _full_precision(features: Tensor) -> torch.autocast:
    """Products of batch statistics must not be rounded to half precision by autocast."""
    return torch.autocast(features.device.type, enabled=False)


def _check_scope(scope: str) -> None:
    if scope not in ("batch", "sample"):
        raise ValueError(f"scope: expected batch or sample, got {scope!r}")


@dataclass(frozen=True)
class VarianceHinge:
    """Mean over dimensions of ``max(0, gamma - sqrt(Var + eps))``, unbiased (VICReg, arXiv 2105.04906, eq. 1).

    Attributes:
        gamma: the std asked for, in the unit of the features.
        eps: added to the variance.
        scope: ``batch``: each of the V sets lies over all processes (a view: its rows are the joined batch).
            ``sample``: each set is whole where it is (a scan: its rows are its cells). Either way the mean is taken
            over the sets, of all processes, with at least 2 valid rows.
    """

    gamma: float = 1.0
    eps: float = 1e-4
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        _check_scope(self.scope)

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> dict[str, Tensor]:
        """``{"variance": ...}`` of ``[V, N, D]``."""
        moments = _moments(features, valid, self.scope)
        return {"variance": moments.mean_of_sets(self.per_set(moments))}

    def per_set(self, moments: _Moments) -> Tensor:
        """The hinge of each set, ``[V]``."""
        return torch.relu(self.gamma - (moments.variance() + self.eps).sqrt()).mean(-1)


@dataclass(frozen=True)
class Covariance:
    """``sum over i != j of C_ij^2 / D`` (VICReg, arXiv 2105.04906, eq. 3 and 4).

    Divided by D as in the paper and its released code. eb_jepa divides by D (D - 1), the number of pairs: a
    coefficient tuned there is (D - 1) times too large here.

    Attributes:
        scope: as in :class:`VarianceHinge`.
    """

    scope: Scope = "batch"

    def __post_init__(self) -> None:
        _check_scope(self.scope)

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> dict[str, Tensor]:
        """``{"covariance": ...}`` of ``[V, N, D]``."""
        with _full_precision(features):
            moments = _moments(features, valid, self.scope)
            return {"covariance": moments.mean_of_sets(self.per_set(moments))}

    def per_set(self, moments: _Moments) -> Tensor:
        """The squared off-diagonal of each set, ``[V]``."""
        z_VND = moments.centred
        scatter_VDD = moments.over(z_VND.transpose(1, 2) @ z_VND)
        c_VDD = scatter_VDD / (moments.count - 1).clamp(min=1)[:, None, None]
        off_VDD = c_VDD - torch.diag_embed(c_VDD.diagonal(dim1=1, dim2=2))
        return off_VDD.square().sum((1, 2)) / z_VND.shape[-1]


@dataclass(frozen=True)
class PooledVariance:
    """Variance hinge and covariance of each sample's mean feature, over the joined batch.

    It acts on what a readout of the mean sees, where :class:`VarianceHinge` of single tokens may be content with what
    differs between the tokens of one sample.

    Attributes:
        covariance: weight of the covariance beside the variance; 0.04 is VICReg's 1 / 25.
        gamma: the std asked for.
    """

    covariance: float = 0.04
    gamma: float = 1.0

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> dict[str, Tensor]:
        """``{"pooled_variance": ..., "pooled_covariance": ...}`` of ``[V, N, D]``, the latter times its weight."""
        x_VND, weight_VN = _prepare(features, valid)
        count_V = weight_VN.sum(1)
        mean_1VD = (x_VND.sum(1) / count_V.clamp(min=1)[:, None])[None]
        counted_1V = (count_V > 0)[None]
        variance = VarianceHinge(self.gamma)(mean_1VD, counted_1V, step)["variance"]
        covariance = Covariance()(mean_1VD, counted_1V, step)["covariance"]
        return {"pooled_variance": variance, "pooled_covariance": self.covariance * covariance}


# --------------------------------------------------------------------------------------------------------------------
# Two views
# --------------------------------------------------------------------------------------------------------------------


def _pair_weights(features: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows valid in both views: weights ``[N]`` and their joint count."""
    _check(features, valid)
    if features.shape[0] != 2:
        raise ValueError(f"expected two views [2, N, D], got {list(features.shape)}")
    dtype = torch.promote_types(features.dtype, torch.float32)
    both_N = features.new_ones(features.shape[1], dtype=dtype) if valid is None else valid.all(0).to(dtype)
    return both_N, sum_over_processes(both_N.sum()).clamp(min=1)


@dataclass(frozen=True)
class VICReg:
    """Invariance, variance and covariance of two views, as the released code of VICReg (arXiv 2105.04906) has them.

    Invariance is the mean over rows and over D; variance the average of the views; covariance their sum. The paper's
    equations sum invariance over D and variance over the views: see :func:`vicreg_paper`.
    """

    gamma: float = 1.0
    eps: float = 1e-4

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> dict[str, Tensor]:
        """``{"invariance": ..., "variance": ..., "covariance": ...}`` of ``[2, N, D]``."""
        both_N, count = _pair_weights(features, valid)
        x_VND, _ = _prepare(features, valid)
        gap = ((x_VND[0] - x_VND[1]).square().mean(-1) * both_N).sum()
        with _full_precision(features):
            moments = _moments(features, valid, "batch")
            return {
                "invariance": sum_over_processes(gap) / count,
                "variance": moments.mean_of_sets(VarianceHinge(self.gamma, self.eps).per_set(moments)),
                "covariance": 2 * moments.mean_of_sets(Covariance().per_set(moments)),
            }


def vicreg(
    za: Tensor, zb: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> dict[str, Tensor]:
    """VICReg of ``[N, D]`` and ``[N, D]`` as its released code: the three parts and their weighted ``total``."""
    terms = VICReg()(torch.stack([za, zb]), None, 0)
    return _with_total(terms, invariance, variance, covariance)


def vicreg_paper(
    za: Tensor, zb: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> dict[str, Tensor]:
    """VICReg of ``[N, D]`` and ``[N, D]`` as its equations 5 and 6: invariance summed over D, variance over views."""
    terms = VICReg()(torch.stack([za, zb]), None, 0)
    terms = {**terms, "invariance": terms["invariance"] * za.shape[-1], "variance": terms["variance"] * 2}
    return _with_total(terms, invariance, variance, covariance)


def _with_total(terms: dict[str, Tensor], invariance: float, variance: float, covariance: float) -> dict[str, Tensor]:
    total = invariance * terms["invariance"] + variance * terms["variance"] + covariance * terms["covariance"]
    return {**terms, "total": total}


@dataclass(frozen=True)
class Barlow:
    """``sum_i (1 - R_ii)^2 + l sum_{i != j} R_ij^2`` of the cross-correlation R (arXiv 2103.03230, eq. 1 and 2).

    Views are standardised with biased variance and ``eps``, as the released code's batch norm does, but with statistics
    of the joined batch where that code takes each process's own.
    """

    off_diagonal: float = 0.0051
    eps: float = 1e-5

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> dict[str, Tensor]:
        """``{"barlow": ...}`` of ``[2, N, D]``; rows must be valid in both views."""
        both_N, count = _pair_weights(features, valid)
        with _full_precision(features):
            z_VND = _moments(features, both_N.bool().expand(2, -1), "batch").centred
            variance_VD = sum_over_processes(z_VND.square().sum(1)) / count
            z_VND = z_VND * torch.rsqrt(variance_VD + self.eps)[:, None]
            r_DD = sum_over_processes(z_VND[0].T @ z_VND[1]) / count
            diagonal = r_DD.diagonal()
            off = r_DD - torch.diag_embed(diagonal)
            return {"barlow": (1 - diagonal).square().sum() + self.off_diagonal * off.square().sum()}


# --------------------------------------------------------------------------------------------------------------------
# SIGReg
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quadrature:
    """Trapezoid nodes ``t`` and weights, both ``[T]`` float64; the window ``exp(-t^2 / 2)`` is in the weights."""

    t: Tensor
    weights: Tensor

    @staticmethod
    def one_sided(t_max: float, points: int) -> Quadrature:
        """``points`` nodes on ``[0, t_max]``, mirrored: the integrand is even (released LeJEPA code)."""
        t = torch.linspace(0, t_max, points, dtype=torch.float64)
        weights = torch.full_like(t, 2 * t_max / (points - 1))
        # t = 0 stands once in the mirrored grid, and the ends are half weights.
        weights[[0, -1]] /= 2
        return Quadrature(t, weights * torch.exp(-t.square() / 2))

    @staticmethod
    def two_sided(t_max: float, points: int) -> Quadrature:
        """``points`` nodes on ``[-t_max, t_max]`` (LeJEPA, arXiv 2511.08544, algorithm 1)."""
        t = torch.linspace(-t_max, t_max, points, dtype=torch.float64)
        weights = torch.full_like(t, 2 * t_max / (points - 1))
        weights[[0, -1]] /= 2
        return Quadrature(t, weights * torch.exp(-t.square() / 2))

    def to(self, like: Tensor) -> Quadrature:
        """On the device and in the dtype of ``like``."""
        return Quadrature(self.t.to(like), self.weights.to(like))

    def null_expectation(self) -> float:
        """Expected Epps-Pulley statistic of normal features, whatever their number."""
        return float((self.weights * (1 - torch.exp(-self.t.square()))).sum())


def _wave_sums(u_VNM: Tensor, weight_VN: Tensor, t_T: Tensor) -> Tensor:
    """Sums over rows of ``cos(t u)`` and ``sin(t u)``, ``[2, V, M, T]``."""
    angle_VNMT = u_VNM[..., None] * t_T
    weight = weight_VN[:, :, None, None]
    return torch.stack([(angle_VNMT.cos() * weight).sum(1), (angle_VNMT.sin() * weight).sum(1)])


def _statistic(sums_2VMT: Tensor, count_V: Tensor, grid: Quadrature) -> Tensor:
    """``N * integral |phi - exp(-t^2/2)|^2 exp(-t^2/2) dt``, ``[V, M]``, from joint sums."""
    mean_2VMT = sums_2VMT / count_V.clamp(min=1)[:, None, None]
    gap_VMT = (mean_2VMT[0] - torch.exp(-grid.t.square() / 2)).square() + mean_2VMT[1].square()
    return (gap_VMT * grid.weights).sum(-1) * count_V[:, None]


def epps_pulley(projected: Tensor, grid: Quadrature) -> Tensor:
    """Epps-Pulley statistic against the standard normal of each column of ``[N, M]``, over this process: ``[M]``."""
    grid = grid.to(projected)
    weight_VN = projected.new_ones(1, projected.shape[0])
    return _statistic(_wave_sums(projected[None], weight_VN, grid.t), weight_VN.sum(1), grid)[0]


def random_slices(width: int, slices: int, step: int) -> Tensor:
    """Unit columns ``[width, slices]``, float32, from a CPU generator: the same on all processes and devices."""
    generator = torch.Generator().manual_seed(step)
    directions = torch.randn(width, slices, generator=generator)
    return directions / directions.norm(dim=0)


@dataclass(frozen=True)
class SIGReg:
    """Sketched isotropic Gaussian regularisation (LeJEPA, arXiv 2511.08544, section 4.2.3 and algorithm 1).

    Mean over views and random slices of the Epps-Pulley statistic of the joined batch, which carries the factor N: its
    coefficient depends on the global batch size. Under N(0, I) it is ``Quadrature.null_expectation()`` for every N.
    Do not end the features with a layer norm or L2 norm. Its gradient vanishes at total collapse onto 0: begin with
    features of std near 1.

    Attributes:
        slices: random directions, drawn anew each step.
        t_max: end of the grid; 3 in the released code, 5 in the paper.
        points: nodes on ``[0, t_max]``, mirrored.
    """

    slices: int = 1024
    t_max: float = 3.0
    points: int = 17

    def __post_init__(self) -> None:
        if self.slices < 1 or self.points < 2 or self.t_max <= 0:
            raise ValueError(f"SIGReg: expected slices >= 1, points >= 2 and t_max > 0, got {self}")

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> dict[str, Tensor]:
        """``{"sigreg": ...}`` of ``[V, N, D]``; a view without a valid row is not counted."""
        slices_DM = random_slices(features.shape[-1], self.slices, step)
        return {"sigreg": sliced_statistic(features, valid, slices_DM, Quadrature.one_sided(self.t_max, self.points))}


def sliced_statistic(features: Tensor, valid: Tensor | None, slices_DM: Tensor, grid: Quadrature) -> Tensor:
    """Mean Epps-Pulley statistic of features ``[V, N, D]`` along unit columns ``slices_DM``, over the joined batch."""
    with _full_precision(features):
        x_VND, weight_VN = _prepare(features, valid)
        grid, slices_DM = grid.to(x_VND), slices_DM.to(x_VND)
        sums_2VMT = _chunked_wave_sums(x_VND, weight_VN, slices_DM, grid.t)
        joined = sum_over_processes(torch.cat([sums_2VMT.flatten(), weight_VN.sum(1)]))
        count_V = joined[sums_2VMT.numel() :].detach()
        statistic_VM = _statistic(joined[: sums_2VMT.numel()].view_as(sums_2VMT), count_V, grid)
        return statistic_VM.mean(1).sum() / (count_V > 0).sum().clamp(min=1)


def _chunked_wave_sums(x_VND: Tensor, weight_VN: Tensor, slices_DM: Tensor, t_T: Tensor) -> Tensor:
    """Wave sums, a few slices at a time and recomputed in backward: the waves of all would be N * M * T floats."""
    size = max(1, _CHUNK_ELEMENTS // max(1, weight_VN.numel() * t_T.numel()))
    if size >= slices_DM.shape[1]:
        return _wave_sums(x_VND @ slices_DM, weight_VN, t_T)

    def part(chunk_DM: Tensor) -> Tensor:
        return _wave_sums(x_VND @ chunk_DM, weight_VN, t_T)

    parts = [
        checkpoint(part, chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in slices_DM.split(math.ceil(slices_DM.shape[1] / math.ceil(slices_DM.shape[1] / size)), dim=1)
    ]
    return torch.cat(parts, dim=2)
