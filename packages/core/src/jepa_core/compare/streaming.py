"""Debiased linear CKA of any number of rows in one pass: exact, O(P Q) memory, and sums that add across processes.

Nothing in unbiased HSIC needs an N x N matrix where the kernel is linear: with C = sum x y^T, a = |x|^2, b = |y|^2,
``tr(K~ L~) = |C|^2 - sum a b``, ``1 K~ 1 = |s_x|^2 - A`` and
``1 K~ L~ 1 = s_x C s_y - s_x u - s_y v + sum a b`` with ``u = sum b x``, ``v = sum a y``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from jepa_core.compare.arrays import Array, as_pair, is_constant, row_norms_squared


@dataclass(frozen=True)
class PairSums:
    """Running sums of two tables over the same rows.

    Attributes:
        n: rows.
        sx, sy: sums of rows, ``[P]`` and ``[Q]``.
        c: ``X^T Y``, ``[P, Q]``.
        a, b: sums of squared lengths.
        ab: sum of their products.
        u, v: ``sum b x`` ``[P]`` and ``sum a y`` ``[Q]``.
    """

    n: float
    sx: Array
    sy: Array
    c: Array
    a: float
    b: float
    ab: float
    u: Array
    v: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> PairSums:
        """The sums of these rows."""
        a, b = row_norms_squared(x), row_norms_squared(y)
        sums = float(a.sum()), float(b.sum()), float(a @ b)
        return cls(float(len(x)), x.sum(0), y.sum(0), x.T @ y, *sums, b @ x, a @ y)

    def plus(self, other: PairSums, sign: float = 1.0) -> PairSums:
        """The sums of both; with ``sign=-1`` those without the other's rows."""
        return PairSums(*(getattr(self, f.name) + sign * getattr(other, f.name) for f in fields(self)))

    def hsic(self) -> float:
        """Unbiased HSIC, as of the whole tables at once. Needs at least 4 rows."""
        n = self.n
        if n < 4:
            raise ValueError(f"streaming CKA: expected at least 4 rows, got {n:.0f}")
        trace = float(np.vdot(self.c, self.c)) - self.ab
        k, m = float(self.sx @ self.sx) - self.a, float(self.sy @ self.sy) - self.b
        through = float(self.sx @ self.c @ self.sy - self.sx @ self.u - self.sy @ self.v) + self.ab
        return (trace + k * m / ((n - 1) * (n - 2)) - 2 * through / (n - 2)) / (n * (n - 3))


@dataclass(frozen=True)
class LinearSums:
    """The sums of X with Y, X with X and Y with Y; what CKA needs of any rows."""

    xy: PairSums
    xx: PairSums
    yy: PairSums

    @classmethod
    def of(cls, x: Array, y: Array) -> LinearSums:
        """The sums of these rows, float64 ``[N, P]`` and ``[N, Q]``."""
        return cls(PairSums.of(x, y), PairSums.of(x, x), PairSums.of(y, y))

    def plus(self, other: LinearSums, sign: float = 1.0) -> LinearSums:
        """The sums of both; with ``sign=-1`` those without the other's rows."""
        pairs = ((self.xy, other.xy), (self.xx, other.xx), (self.yy, other.yy))
        return LinearSums(*(mine.plus(theirs, sign) for mine, theirs in pairs))

    def cka(self) -> float:
        """Debiased linear CKA; NaN where a table has nothing but a mean."""
        first, second = self.xx.hsic(), self.yy.hsic()
        scales = [(pair.a / pair.n) ** 2 for pair in (self.xx, self.yy)]
        if not (first > 1e-12 * scales[0] and second > 1e-12 * scales[1]):
            return math.nan
        return self.xy.hsic() / math.sqrt(first * second)

    def all_reduced(self) -> LinearSums:
        """The sums over all processes of the default ``torch.distributed`` group; one reduction, float64."""
        import torch
        import torch.distributed as dist

        pairs = (self.xy, self.xx, self.yy)
        parts = [np.asarray(getattr(pair, f.name), np.float64) for pair in pairs for f in fields(pair)]
        flat = torch.from_numpy(np.concatenate([part.reshape(-1) for part in parts]))
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        flat = flat.to(device)
        dist.all_reduce(flat)
        values: list[Any] = []
        at = 0
        for part in parts:
            piece = flat[at : at + part.size].cpu().numpy()
            values.append(piece.reshape(part.shape) if part.ndim else float(piece[0]))
            at += part.size
        return LinearSums(*(PairSums(*values[k : k + 9]) for k in (0, 9, 18)))


class StreamingCKA:
    """Debiased linear CKA of rows that come in batches of any size.

    Args:
        pilot: means ``[P]`` and ``[Q]`` to subtract from every row; None takes those of the first batch. CKA does not
            change with them, but without them features far from 0 lose all digits. Processes whose sums are to be
            added must use the same.
        blocks: stretches of rows whose sums are kept, for :meth:`jackknife`; memory is O(blocks P Q).
        block_rows: rows of one stretch; the last takes the rest.
    """

    def __init__(
        self, pilot: tuple[Array, Array] | None = None, blocks: int = 1, block_rows: int | None = None
    ) -> None:
        if blocks > 1 and not block_rows:
            raise ValueError("block_rows: expected a number of rows for several blocks, got none")
        self.pilot, self.blocks, self.block_rows = pilot, blocks, block_rows
        self.rows = 0
        self._sums: list[LinearSums] = []

    def update(self, x: Any, y: Any) -> None:
        """Takes rows ``[B, P]`` and ``[B, Q]`` of the same samples."""
        x, y = as_pair("streaming CKA", x, y, least=0)
        if not len(x):
            return
        if self.pilot is None:
            self.pilot = x.mean(0), y.mean(0)
        x, y = x - self.pilot[0], y - self.pilot[1]
        start = 0
        while start < len(x):
            block = 0 if self.block_rows is None else min(self.rows // self.block_rows, self.blocks - 1)
            last = self.block_rows is None or block == self.blocks - 1
            stop = len(x) if last else min(len(x), start + (block + 1) * (self.block_rows or 0) - self.rows)
            self._add(block, LinearSums.of(x[start:stop], y[start:stop]))
            self.rows += stop - start
            start = stop

    def _add(self, block: int, sums: LinearSums) -> None:
        if block == len(self._sums):
            self._sums.append(sums)
        else:
            self._sums[block] = self._sums[block].plus(sums)

    def sums(self) -> LinearSums:
        """Of all rows so far.

        Raises:
            ValueError: there are none.
        """
        if not self._sums:
            raise ValueError("streaming CKA: expected at least 4 rows, got none")
        total = self._sums[0]
        for block in self._sums[1:]:
            total = total.plus(block)
        return total

    def value(self) -> float:
        """Debiased linear CKA of all rows so far."""
        return self.sums().cka()

    def jackknife(self) -> Array:
        """The value without each block, ``[blocks]``."""
        total = self.sums()
        return np.array([total.plus(block, -1.0).cka() for block in self._sums])


def null_std(n: int) -> float:
    """Exact standard deviation of debiased CKA over all n! orders of the rows of one table; its mean is 0.

    Both U-centred matrices have a zero diagonal and zero row sums. The square of their product, averaged over all
    orders, therefore holds three kinds of pairs of entries: the same, with one row in common, with none; each kind's
    sum over one matrix is a multiple (2, -4, 2) of its squared norm, and norms cancel in CKA.
    """
    if n < 4:
        raise ValueError(f"null_std: expected at least 4 rows, got {n}")
    same = 2 / (n * (n - 1))
    one = 4 / (n * (n - 1) * (n - 2))
    none = 4 / (n * (n - 1) * (n - 2) * (n - 3))
    return math.sqrt(same + one + none)


def cantelli(value: float, std: float) -> float:
    """A p-value nobody can be wronged by: at most this share of orders reaches ``value`` (Cantelli's inequality)."""
    return 1.0 if not value > 0 else std**2 / (std**2 + value**2)


def feature_side(x: Array) -> tuple[Array, Array, float]:
    """Centred features, their squared lengths, and the root of unbiased HSIC with itself: for few features."""
    shifted = x - x.mean(0)
    own = PairSums.of(shifted, shifted).hsic()
    scale = float(row_norms_squared(shifted).mean()) ** 2
    norm = math.sqrt(own) if own > 1e-12 * scale and not is_constant(x) else math.nan
    return shifted, row_norms_squared(shifted), norm


def feature_score(left: tuple[Array, Array, float], right: tuple[Array, Array, float]) -> float:
    """Debiased linear CKA from two of :func:`feature_side`, O(N P Q): Kornblith et al. 2019, section 3."""
    (x, a, x_norm), (y, b, y_norm) = left, right
    n = len(x)
    cross = x.T @ y
    found = float(np.vdot(cross, cross)) - n / (n - 2) * float(a @ b)
    found += float(a.sum()) * float(b.sum()) / ((n - 1) * (n - 2))
    return found / (n * (n - 3)) / (x_norm * y_norm)


def feature_deletions(left: Any, right: Any, groups: Sequence[Any]) -> Array:
    """Debiased CKA without each group of rows (lists of row numbers), ``[G]``."""
    x, y = left[0], right[0]
    total = LinearSums.of(x, y)
    return np.array([total.plus(LinearSums.of(x[rows], y[rows]), -1.0).cka() for rows in groups])
