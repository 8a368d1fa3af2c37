"""Figures of collapse over features ``[R, D]``: spread, alignment and rank.

All are computed in float32, or in float64 when the features are float64. Those over directions are centred unless the
name or the argument says otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _rows(features: Tensor) -> Tensor:
    if features.ndim != 2 or features.shape[0] < 2:
        raise ValueError(f"features: expected [R, D] with at least 2 rows, got {list(features.shape)}")
    return features.detach().to(torch.promote_types(features.dtype, torch.float32))


def centred(features: Tensor) -> Tensor:
    """Features minus their mean row, ``[R, D]``."""
    rows = _rows(features)
    return rows - rows.mean(0)


def _share(values: Tensor) -> Tensor:
    """Values divided by their sum; zeros stay zeros."""
    return values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)


# --------------------------------------------------------------------------------------------------------------------
# Spread and alignment
# --------------------------------------------------------------------------------------------------------------------


def dimension_std(features: Tensor) -> Tensor:
    """Standard deviation (unbiased) of each dimension, ``[D]``."""
    rows = _rows(features)
    # Ten times as fast as Tensor.std along the first dimension on a CPU.
    return (rows - rows.mean(0)).square().sum(0).div(len(rows) - 1).sqrt()


def normalised_std(features: Tensor) -> Tensor:
    """``sqrt(D)`` times the mean std of L2-normalised features: near 1 when spread evenly, 0 when collapsed.

    SimSiam (arXiv 2011.10566, section 4.1).
    """
    unit = functional.normalize(_rows(features), dim=1)
    return dimension_std(unit).mean() * unit.shape[1] ** 0.5


def mean_pairwise_cosine(features: Tensor) -> Tensor:
    """Mean cosine over all pairs of different rows, from ``|sum of unit rows|^2``, in O(RD); 1 = collapse."""
    unit = functional.normalize(_rows(features), dim=1)
    rows = unit.shape[0]
    return (unit.sum(0).square().sum() - unit.square().sum()) / (rows * (rows - 1))


def dead_dimensions(features: Tensor, tau: float = 1e-3) -> Tensor:
    """How many dimensions have a std below ``tau`` (in the unit of the features)."""
    return (dimension_std(features) < tau).sum()


# --------------------------------------------------------------------------------------------------------------------
# Rank
# --------------------------------------------------------------------------------------------------------------------


def entropy_rank(spectrum: Tensor, eps: float = 0.0) -> Tensor:
    """``exp(-sum p log p)`` of ``p = spectrum / sum + eps``: how many values carry the spectrum ``[n]``."""
    return torch.special.entr(_share(spectrum) + eps).sum().exp()


def participation(eigenvalues: Tensor) -> Tensor:
    """``(sum l)^2 / sum l^2`` of eigenvalues ``[n]``; 0 when all are 0."""
    return eigenvalues.sum().square() / eigenvalues.square().sum().clamp(min=torch.finfo(eigenvalues.dtype).tiny)


def rankme(features: Tensor, eps: float = 1e-7) -> Tensor:
    """RankMe (arXiv 2210.02885, eq. 1 and 2): entropy rank of the singular values, not centred.

    For the centred variant pass ``centred(features)``.
    """
    return entropy_rank(torch.linalg.svdvals(_rows(features)), eps)


def effective_rank(features: Tensor) -> Tensor:
    """Effective rank (Roy and Vetterli, EUSIPCO 2007): RankMe with ``eps`` 0, not centred."""
    return rankme(features, eps=0.0)


def eigenvalue_entropy_rank(features: Tensor) -> Tensor:
    """Entropy rank of the squared singular values, not centred: smaller than RankMe, not to be compared with it."""
    return entropy_rank(torch.linalg.svdvals(_rows(features)).square())


def covariance_eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues of the (unbiased) covariance in falling order, ``[min(R, D)]``."""
    rows = centred(features)
    return torch.linalg.svdvals(rows).square() / (rows.shape[0] - 1)


def participation_ratio(features: Tensor) -> Tensor:
    """Participation ratio of the covariance eigenvalues: D when all directions carry alike."""
    return participation(covariance_eigenvalues(features))


def top_eigenvalue_share(features: Tensor) -> Tensor:
    """Share of the variance along the first principal direction; 1 = collapse onto a line."""
    return _share(covariance_eigenvalues(features))[0]


def spectrum_slope(eigenvalues: Tensor, first: int = 1, last: int | None = None) -> Tensor:
    """Alpha of ``l_i ~ i^-alpha``: least squares of ``log l_i`` on ``log i``, for i = first..last, counted from 1."""
    chosen = eigenvalues[first - 1 : last]
    if chosen.numel() < 2:
        raise ValueError(f"spectrum_slope: expected at least 2 eigenvalues in {first}..{last}, got {chosen.numel()}")
    index = torch.arange(first, first + chosen.numel(), device=chosen.device, dtype=chosen.dtype).log()
    index = index - index.mean()
    log_l = chosen.clamp(min=torch.finfo(chosen.dtype).tiny).log()
    return -(index * log_l).sum() / index.square().sum()


def _slope_above_zero(eigenvalues: Tensor) -> Tensor:
    """:func:`spectrum_slope` of those above 0, in falling order; 0 where there are fewer than two. No host is asked."""
    weight = (eigenvalues > 0).to(eigenvalues.dtype)
    index = torch.arange(1, len(eigenvalues) + 1, device=weight.device, dtype=weight.dtype).log()
    log_l = eigenvalues.clamp(min=torch.finfo(eigenvalues.dtype).tiny).log()
    count = weight.sum().clamp(min=1)
    index = (index - (index * weight).sum() / count) * weight
    spread = index.square().sum()
    return torch.where(spread > 0, -(index * log_l).sum() / spread.clamp(min=torch.finfo(spread.dtype).tiny), 0.0)


def alpha_req(features: Tensor, first: int = 1, last: int | None = None) -> Tensor:
    """Alpha-ReQ (Agrawal et al., NeurIPS 2022): power-law exponent of the covariance spectrum.

    By default over the ``min(R - 1, D)`` eigenvalues that can differ from zero.
    """
    rows, width = features.shape
    return spectrum_slope(covariance_eigenvalues(features), first, min(rows - 1, width) if last is None else last)


def lidar_rank(embeddings: Tensor, delta: float = 1e-4, eps: float = 1e-8) -> Tensor:
    """LiDAR (arXiv 2312.04000, section 4): entropy rank of the linear discriminant matrix of samples seen q times.

    Args:
        embeddings: ``[n, q, D]``, q views of each of n samples.
        delta: added to the diagonal of the within-sample scatter.
        eps: added to each of the D eigenvalues before they are made shares.
    """
    if embeddings.ndim != 3 or embeddings.shape[0] < 2 or embeddings.shape[1] < 2:
        raise ValueError(f"lidar_rank: expected [n >= 2, q >= 2, D], got {list(embeddings.shape)}")
    x_NQD = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
    n, views, width = x_NQD.shape
    mean_ND = x_NQD.mean(1)
    between = mean_ND - mean_ND.mean(0)
    within = (x_NQD - mean_ND[:, None]).flatten(0, 1)
    scatter_within = within.T @ within / (n * (views - 1)) + delta * torch.eye(width).to(within)
    # Whitening by the Cholesky factor has the eigenvalues of whitening by the square root.
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter_within), between.T, upper=False)
    eigenvalues = torch.linalg.svdvals(white).square() / (n - 1)
    return entropy_rank(functional.pad(eigenvalues, (0, width - eigenvalues.numel())) + eps)


# --------------------------------------------------------------------------------------------------------------------
# All at once
# --------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def collapse_metrics(features: Tensor, tau: float = 1e-3) -> dict[str, Tensor]:
    """The figures a monitor watches, for one eigenvalue decomposition of the smaller Gram matrix.

    Args:
        features: ``[R, D]``, R at least 2.
        tau: std below which a dimension is dead.

    Returns:
        Scalar float32 tensors on the device of the features: ``std_mean``, ``std_min``, ``normalised_std``,
        ``normalised_std_min``, ``variance`` (mean over dimensions), ``mean_cosine``, ``dead_dimensions``,
        ``mean_norm``, ``effective_rank`` and ``rankme`` (of *centred* singular values, with ``eps`` 0 and 1e-7; both 1
        for constant features), ``alpha_req`` (over all eigenvalues above rounding; 0 for constant features),
        ``participation_ratio`` and ``top_eigenvalue_share`` (0 for constant features).
    """
    rows = _rows(features)
    # A Gram matrix in float64 resolves no better than the root of float64's own step.
    eigenvalues = _gram_eigenvalues(rows, max(torch.finfo(features.dtype).eps, 1e-7))
    std_D = dimension_std(rows)
    unit_std_D = dimension_std(functional.normalize(rows, dim=1)) * rows.shape[1] ** 0.5
    metrics = {
        "std_mean": std_D.mean(),
        "std_min": std_D.min(),
        "variance": std_D.square().mean(),
        "normalised_std": unit_std_D.mean(),
        "normalised_std_min": unit_std_D.min(),
        "mean_cosine": mean_pairwise_cosine(rows),
        "dead_dimensions": (std_D < tau).sum(),
        "mean_norm": rows.norm(dim=1).mean(),
        "effective_rank": entropy_rank(eigenvalues.sqrt()),
        "rankme": entropy_rank(eigenvalues.sqrt(), eps=1e-7),
        "alpha_req": _slope_above_zero(eigenvalues.flip(0)),
        "participation_ratio": participation(eigenvalues),
        "top_eigenvalue_share": _share(eigenvalues).amax(),
    }
    return {name: value.float() for name, value in metrics.items()}


def _gram_eigenvalues(rows: Tensor, resolution: float) -> Tensor:
    """Covariance eigenvalues, float64 where the device has it: in float32 a Gram matrix hides a rank below 1e-3."""
    wide = rows if rows.device.type == "mps" else rows.double()
    x = wide - wide.mean(0)
    gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    eigenvalues = torch.linalg.eigvalsh(gram) / (rows.shape[0] - 1)
    # What lies below the resolution of the features is rounding: constant features must not look full of rank.
    floor = resolution**2 * wide.square().sum() / (rows.shape[0] - 1)
    return torch.where(eigenvalues > floor, eigenvalues, 0.0)
