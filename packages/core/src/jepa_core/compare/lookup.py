"""Retrieval across modalities after a linear map fitted on a training split: R@k, median rank, mean reciprocal rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jepa_core.compare import canonical
from jepa_core.compare.arrays import Array, as_pair, unit_rows
from jepa_core.compare.groups import Codes
from jepa_core.compare.predictivity import mean_eigenvalue, ridge_r2

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Tried on the training split, in units of the mean eigenvalue of ``X^T X``."""
SHARES = (1, 5, 10)
"""k of R@k."""


@dataclass(frozen=True)
class LinearMap:
    """A map fitted on training rows.

    Attributes:
        weights: ``[P, Q]``, or ``[P, R]`` where both tables are mapped.
        mean_x, mean_y: of the training rows.
        name: what was fitted.
        weights_y: ``[Q, R]``; None = candidates stay as they are.
    """

    weights: Array
    mean_x: Array
    mean_y: Array
    name: str
    weights_y: Array | None = None


def fit_ridge(x: Array, y: Array, penalty: float) -> LinearMap:
    """``B = (X^T X + penalty I)^-1 X^T Y`` of centred training rows."""
    x, y = as_pair("retrieval", x, y, least=2)
    mean_x, mean_y = x.mean(0), y.mean(0)
    shifted, wanted = x - mean_x, y - mean_y
    if x.shape[1] <= len(x):
        weights = np.linalg.solve(shifted.T @ shifted + penalty * np.eye(x.shape[1]), shifted.T @ wanted)
    else:  # the same weights, from the smaller of the two matrices
        weights = shifted.T @ np.linalg.solve(shifted @ shifted.T + penalty * np.eye(len(x)), wanted)
    return LinearMap(weights, mean_x, mean_y, f"ridge, penalty {penalty:.3g}")


def fit_procrustes(x: Array, y: Array) -> LinearMap:
    """The rotation ``U V^T`` of the singular vectors of ``X^T Y`` of centred training rows."""
    x, y = as_pair("retrieval", x, y, least=2)
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, _, v = np.linalg.svd((x - mean_x).T @ (y - mean_y), full_matrices=False)
    return LinearMap(u @ v, mean_x, mean_y, "procrustes")


def fit_cca(x: Array, y: Array, ridge: float = 0.0) -> LinearMap:
    """The canonical directions of training rows, each weighed by its correlation, so that their number is no choice.

    Args:
        x: ``[N, P]``.
        y: ``[N, Q]``.
        ridge: added to both covariances, in units of their mean eigenvalue.

    Raises:
        SaturatedError: the ranks add up to N - 1 or more, and there is no ridge.
    """
    x, y = as_pair("retrieval", x, y, least=3)
    left, right = canonical.basis(x, ridge), canonical.basis(y, ridge)
    canonical.check_saturation(left, right, ridge)
    u, rho, v = np.linalg.svd(left.rows.T @ right.rows, full_matrices=False)
    weights = canonical.weights_of(x, ridge) @ (u * rho), canonical.weights_of(y, ridge) @ (v.T * rho)
    name = f"CCA, {len(rho)} directions weighed by their correlation"
    return LinearMap(weights[0], x.mean(0), y.mean(0), name, weights[1])


def choose_penalty(x: Array, y: Array, codes: Codes | None = None) -> float:
    """The penalty with the best cross-validated R2 on training rows."""
    unit = mean_eigenvalue(x)
    scores = [ridge_r2(x, y, factor * unit, codes=codes) for factor in PENALTIES]
    return PENALTIES[int(np.argmax(scores))] * unit


def similarities(fitted: LinearMap, x: Array, y: Array, csls: int = 0) -> Array:
    """Cosines of mapped test rows of ``x`` with test rows of ``y``, ``[M, M]``.

    Args:
        fitted: the map.
        x: ``[M, P]``.
        y: ``[M, Q]``.
        csls: above 0, twice the cosine minus each side's mean with its so many nearest, against hubs (Conneau et al.
            2018).
    """
    candidates = y - fitted.mean_y
    if fitted.weights_y is not None:
        candidates = candidates @ fitted.weights_y
    found = unit_rows((x - fitted.mean_x) @ fitted.weights) @ unit_rows(candidates).T
    if not csls:
        return found
    k = min(csls, len(found))
    nearest = [np.partition(found, -k, axis=axis).take(range(-k, 0), axis).mean(axis) for axis in (1, 0)]
    return 2 * found - nearest[0][:, None] - nearest[1][None, :]


def ranks(similarity: Array, partner: Codes | None = None, codes: Codes | None = None) -> Codes:
    """1 + how many candidates are strictly nearer than the true one, ``[M]``.

    Args:
        similarity: queries by candidates ``[M, M]``.
        partner: candidate that belongs to each query; None = the same row.
        codes: group of each candidate; a hit on any candidate of the partner's group counts, and candidates of that
            group never stand in the way.
    """
    rows = np.arange(len(similarity))
    partner = rows if partner is None else partner
    if codes is None:
        return 1 + (similarity > similarity[rows, partner][:, None]).sum(1)
    same = codes[None, :] == codes[partner][:, None]
    best = np.where(same, similarity, -np.inf).max(1)
    return 1 + (similarity > best[:, None]).sum(1)


def figures(found: Codes) -> dict[str, float]:
    """``R@1``, ``R@5``, ``R@10``, ``MedR`` and ``MRR`` of ranks; R@k only where k is below the candidates."""
    shares = {f"R@{k}": float((found <= k).mean()) for k in SHARES if k < len(found)}
    return {**shares, "MedR": float(np.median(found)), "MRR": float((1 / found).mean())}


def chance(name: str, candidates: int) -> float:
    """What :func:`figures` come to where every order of the candidates is equally likely."""
    if name == "MRR":
        return float((1 / np.arange(1, candidates + 1)).sum()) / candidates
    return (candidates + 1) / 2 if name == "MedR" else int(name.removeprefix("R@")) / candidates


def split_rows(n: int, codes: Codes | None, seed: int) -> tuple[Codes, Codes]:
    """Half of the rows to fit, half to test, whole groups on either side; rising row numbers."""
    codes = np.arange(n) if codes is None else codes
    groups = int(codes.max()) + 1
    fitted = np.zeros(groups, dtype=bool)
    fitted[np.random.default_rng(seed).permutation(groups)[: groups // 2]] = True
    return np.flatnonzero(fitted[codes]), np.flatnonzero(~fitted[codes])


def retrieval(
    x: Array, y: Array, train: Sequence[int] | Codes, test: Sequence[int] | Codes, penalty: float | None = None
) -> dict[str, float]:
    """Figures of finding ``y`` by ``x`` on test rows after a ridge map fitted on training rows.

    Args:
        x: ``[N, P]``.
        y: ``[N, Q]``, row i of the same sample.
        train, test: row numbers.
        penalty: None = the best of a cross-validation within the training rows.
    """
    x, y = as_pair("retrieval", x, y, least=4)
    train, test = np.asarray(train), np.asarray(test)
    penalty = choose_penalty(x[train], y[train]) if penalty is None else penalty
    return figures(ranks(similarities(fit_ridge(x[train], y[train], penalty), x[test], y[test])))
