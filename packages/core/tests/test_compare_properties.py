"""Identities that comparison measures keep for any data: invariances, symmetry, one pass, any number of processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_core.compare import canonical, cka, lookup, neighbours, predictivity, rdm, rotation
from jepa_core.compare.groups import balanced_rows, codes_of, recoded
from jepa_core.compare.intervals import jackknife
from jepa_core.compare.significance import orders
from jepa_core.compare.streaming import LinearSums, StreamingCKA, feature_score, feature_side, null_std

Pair = tuple[np.ndarray, np.ndarray]
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=12, deadline=None)


def tables(seed: int, n: int = 24, p: int = 5, q: int = 4) -> Pair:
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(n, 2))
    x = np.concatenate([shared, generator.normal(size=(n, p - 2))], 1)
    return x, shared @ generator.normal(size=(2, q)) + generator.normal(size=(n, q))


def rotation_of(seed: int, width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def knn(x: np.ndarray, y: np.ndarray) -> float:
    return neighbours.mutual_knn(x, y, 4)


SHIFTED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "linear_cka": cka.linear_cka,
    "rbf_cka": cka.rbf_cka,
    "procrustes": rotation.procrustes,
    "rsa": rdm.rsa,
    "knn_centred": lambda x, y: neighbours.mutual_knn_centred(x, y, 4),
    "cca": canonical.cca,
}
SYMMETRIC = {**SHIFTED, "knn": knn, "cknna": lambda x, y: neighbours.cknna(x, y, 4), "svcca": canonical.svcca}


@FEW
@given(SEEDS, st.floats(0.01, 100), st.floats(-50, 50))
def test_rotation_scale_and_shift_change_nothing(seed: int, scale: float, shift: float) -> None:
    x, y = tables(seed)
    turned = scale * y @ rotation_of(seed, 4)
    for name, measure in SHIFTED.items():
        assert measure(x, turned + shift) == pytest.approx(measure(x, y), abs=1e-7), name
    assert knn(x, turned) == pytest.approx(knn(x, y), abs=1e-12)


@FEW
@given(SEEDS)
def test_cca_ignores_any_invertible_map(seed: int) -> None:
    x, y = tables(seed)
    mixing = rotation_of(seed, 4) @ np.diag([0.2, 1, 3, 7]) @ rotation_of(seed + 1, 4)
    np.testing.assert_allclose(
        canonical.canonical_correlations(x, y @ mixing), canonical.canonical_correlations(x, y), atol=1e-9
    )


@FEW
@given(SEEDS)
def test_symmetry_order_of_samples_and_self(seed: int) -> None:
    x, y = tables(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    for name, measure in SYMMETRIC.items():
        value = measure(x, y)
        assert measure(y, x) == pytest.approx(value, abs=1e-9), name
        assert measure(x[order], y[order]) == pytest.approx(value, abs=1e-9), name
        if name not in ("cca", "svcca"):
            assert measure(x, x) == pytest.approx(1, abs=1e-9), name


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.integers(4, 8))
def test_debiased_cka_stays_within_one(seed: int, n: int) -> None:
    x, y = tables(seed, n=n)
    assert abs(cka.linear_cka(x, y)) <= 1 + 1e-9


@FEW
@given(SEEDS)
def test_biased_cka_is_the_cosine_of_centred_distances(seed: int) -> None:
    x, y = tables(seed)
    left, right = (cka.double_centred(cka.squared_distances(table)) for table in (x, y))
    cosine = np.vdot(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
    assert cka.linear_cka_biased(x, y) == pytest.approx(cosine, abs=1e-12)


@FEW
@given(SEEDS, st.integers(1, 30), st.floats(-1e4, 1e4))
def test_one_pass_equals_gram_matrices(seed: int, size: int, offset: float) -> None:
    x, y = tables(seed, n=30)
    stream = StreamingCKA(blocks=5, block_rows=6)
    for start in range(0, 30, size):
        stream.update(x[start : start + size] + offset, y[start : start + size] - offset)
    assert stream.value() == pytest.approx(cka.linear_cka(x, y), abs=1e-7)
    assert feature_score(feature_side(x), feature_side(y)) == pytest.approx(cka.linear_cka(x, y), abs=1e-10)
    gone = jackknife(lambda rows: cka.linear_cka(x[rows], y[rows]), np.arange(30) // 6)
    np.testing.assert_allclose(stream.jackknife(), gone, atol=1e-7)


def test_parts_of_processes_add_up() -> None:
    x, y = tables(3, n=40)
    whole = LinearSums.of(x, y).cka()
    assert LinearSums.of(x[:13], y[:13]).plus(LinearSums.of(x[13:], y[13:])).cka() == pytest.approx(whole, abs=1e-12)


def _reduce(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, y = tables(3, n=40)
    part = slice(0, 13) if rank == 0 else slice(13, 40)
    value = LinearSums.of(x[part], y[part]).all_reduced().cka()
    Path(folder, f"{rank}.txt").write_text(repr(value))
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.start_processes(_reduce, args=(str(tmp_path),), nprocs=2, start_method="fork")
    x, y = tables(3, n=40)
    for rank in range(2):
        assert float((tmp_path / f"{rank}.txt").read_text()) == pytest.approx(cka.linear_cka(x, y), abs=1e-12)


def test_null_moments_are_those_of_all_orders() -> None:
    x, y = tables(5, n=6)
    left, right = cka.debiased_side(x), cka.debiased_side(y)
    every = [
        cka.product(left, cka.reorder_matrix(right, np.array(order))) for order in itertools.permutations(range(6))
    ]
    assert np.mean(every) == pytest.approx(0, abs=1e-12) and np.std(every) == pytest.approx(null_std(6), rel=1e-9)


@FEW
@given(SEEDS)
def test_reordering_a_side_equals_reordering_rows(seed: int) -> None:
    from jepa_core.compare.registry import MEASURES, Tuning, for_tables

    x, y = tables(seed, n=24)
    order, tuning = np.random.default_rng(seed).permutation(24), Tuning(k=4)
    for measure in [*MEASURES.values(), for_tables(MEASURES["linear_cka"], 24, [5, 4])]:
        moved = measure.score(measure.left(x, tuning), measure.reorder(measure.right(y, tuning), order))
        assert moved == pytest.approx(measure.value(x, y[order], tuning), abs=1e-9), measure.name


@FEW
@given(SEEDS, st.lists(st.integers(0, 7), min_size=24, max_size=24))
def test_quick_deletions_equal_slow_ones(seed: int, names: list[int]) -> None:
    x, y = tables(seed)
    codes = codes_of(names)
    if (np.bincount(codes) > 12).any() or codes.max() < 1:
        return
    slow = jackknife(lambda rows: cka.linear_cka(x[rows], y[rows]), codes)
    np.testing.assert_allclose(cka.deletions(cka.debiased_side(x), cka.debiased_side(y), codes), slow, atol=1e-9)
    lists = [neighbours.nearest(table, 4, 4 + int(np.bincount(codes).max())) for table in (x, y)]
    quick = neighbours.deletions(lists[0], lists[1], codes)
    assert quick is not None
    np.testing.assert_allclose(quick, jackknife(lambda rows: knn(x[rows], y[rows]), codes), atol=1e-12)


@FEW
@given(st.lists(st.integers(0, 9), min_size=12, max_size=60), SEEDS)
def test_groups_move_whole(names: list[int], seed: int) -> None:
    codes = codes_of(names)
    kept = balanced_rows(codes)
    balanced = recoded(codes[kept])
    assert len(set(np.bincount(balanced).tolist())) == 1
    for order in orders(len(kept), 3, seed, balanced):
        assert sorted(order.tolist()) == list(range(len(kept)))
        for group in range(balanced.max() + 1):
            sources = order[balanced == group]
            assert len(set(balanced[sources].tolist())) == 1 and (np.diff(sources) > 0).all()


def test_ties_go_to_the_smaller_row() -> None:
    x = np.ones((6, 2))
    assert neighbours.nearest(x, 2).ids.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


def test_neighbours_in_blocks_equal_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 8 * 50 * 7)
    x = np.random.default_rng(0).integers(-2, 3, (50, 3)).astype(float)  # many equal cosines and copies
    rows = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    found = neighbours.nearest(x, 8)
    near = rows @ rows.T
    np.fill_diagonal(near, -np.inf)
    kth = -np.sort(-near, axis=1)[:, 7]
    assert (found.similarity[:, -1] >= kth - 1e-12).all() and not (found.ids == np.arange(50)[:, None]).any()


def test_ranks_of_retrieval() -> None:
    near = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.3], [0.1, 0.2, 0.9]])
    assert lookup.ranks(near).tolist() == [1, 3, 1]
    assert lookup.ranks(near, codes=np.array([0, 0, 1])).tolist() == [1, 1, 1]
    assert lookup.chance("MRR", 16) == pytest.approx(0.2113, abs=5e-5)
    assert lookup.chance("R@5", 16) == 5 / 16 and lookup.chance("MedR", 16) == 8.5


def test_constant_tables_are_nan_with_a_warning() -> None:
    x, y = tables(0)
    for flat in (np.ones((24, 3)), np.full((24, 3), 1e6) + 0.1, np.eye(24)):
        with pytest.warns(UserWarning, match="constant or has rank 0"):
            assert math.isnan(cka.linear_cka(flat, y))


def test_meaningless_cca_is_refused_and_a_ridge_helps() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 24, 15))
    with pytest.raises(canonical.SaturatedError, match=r"CCA is saturated: p\+q=30, n=24"):
        canonical.cca(x, y)
    assert 0 < canonical.cca(x, y, ridge=1.0) < 0.9


def test_predictivity_does_not_depend_on_which_space_is_solved() -> None:
    x, y = tables(0, n=40)
    wide = np.concatenate([x, np.zeros((40, 60))], 1)
    assert predictivity.ridge_r2(wide, y) == pytest.approx(predictivity.ridge_r2(x, y), abs=1e-10)
