"""Embeddings as points of a plane: t-SNE (van der Maaten and Hinton 2008), or principal components of a few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_TSNE = 50
"""Of fewer samples neighbourhoods say little: they are shown by principal components."""

PERPLEXITY = 30
SAMPLES_A_NEIGHBOUR = 4
"""The perplexity is at most the number of samples divided by this."""

COMPONENTS = 50
"""Principal components that t-SNE starts from, as its authors advise."""

_FLAT = 1e-6


@dataclass(frozen=True)
class Projection:
    """Samples in a plane.

    Attributes:
        xy: float64 ``[N, 2]``, from 0 to 1 along the longer side, y upwards.
        method: how they came there, for a caption.
    """

    xy: NDArray[np.float64]
    method: str


def project(features: NDArray[np.floating], seed: int = 0) -> Projection:
    """Lays out embeddings in a plane by cosine distance; the same features and seed give the same plane.

    Args:
        features: ``[N, D]``, finite, N of 3 or more.
        seed: of the principal components and of t-SNE.

    Raises:
        ValueError: the embeddings are all the same.
    """
    rows = features.astype(np.float64)
    # Squared distances of unit vectors are twice their cosine distances.
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if np.abs(rows - rows.mean(0)).max() <= _FLAT:
        raise ValueError("a map needs embeddings that differ; these point all the same way")
    if len(rows) < FEWEST_TSNE:
        found, explained = _principal(rows, 2, seed)
        method = f"principal components, {explained:.0%} of the variance"
        return Projection(_framed(found), method)
    perplexity = min(PERPLEXITY, len(rows) // SAMPLES_A_NEIGHBOUR)
    start, _ = _principal(rows, min(COMPONENTS, *rows.shape), seed)
    return Projection(_framed(_tsne(start, perplexity, seed)), f"t-SNE, perplexity {perplexity}")


def _principal(rows: NDArray[np.float64], count: int, seed: int) -> tuple[NDArray[np.float64], float]:
    """Principal components ``[N, count]``, zeros where there are fewer, and their share of the variance."""
    from sklearn.decomposition import PCA

    held = min(count, *rows.shape)
    model = PCA(held, svd_solver="full", random_state=seed)
    found = np.zeros((len(rows), count))
    found[:, :held] = model.fit_transform(rows)
    return found, float(model.explained_variance_ratio_.sum())


def _tsne(rows: NDArray[np.float64], perplexity: int, seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    model = TSNE(2, perplexity=perplexity, init="pca" if rows.shape[1] > 1 else "random", random_state=seed)
    # Threads would add up in the order in which they end.
    with threadpool_limits(1):
        found: NDArray[np.float64] = model.fit_transform(rows).astype(np.float64)
    return found


def _framed(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    low, spread = xy.min(0), np.ptp(xy, axis=0)
    return (xy - low + (spread.max() - spread) / 2) / max(float(spread.max()), 1e-12)
