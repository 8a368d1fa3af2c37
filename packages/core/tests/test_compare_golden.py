"""Every measure against golden values computed from inputs that are defined by formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_core.compare import canonical, cka, lookup, neighbours, predictivity, rdm, rotation, spectra
from jepa_core.compare.intervals import jackknife_se
from jepa_core.compare.significance import summarise
from jepa_core.compare.streaming import StreamingCKA

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "compare_golden.json").read_text())


def formula(n: int, d: int, seed: int) -> np.ndarray:
    """Sums of twelve numbers of a linear congruential generator, minus 6."""
    values, state = [], seed
    for _ in range(12 * n * d):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(state / 2**32)
    return np.array(values).reshape(n, d, 12).sum(-1) - 6


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, p, q, c = formula(32, 2, 1), formula(32, 3, 2), formula(32, 4, 3), formula(32, 4, 4)
    x = np.concatenate([z, p], 1) * np.array([2, 1.5, 1, 1, 0.5])
    return x, z @ np.array([[1, -1, 0.5, 0], [0.5, 1, 0, -1]]) + 0.6 * q, c


X, Y, C = inputs()
OTHER = {"XY": Y, "XC": C}
FOLD = np.arange(32) % 4


def close(found: float, wanted: float) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


def batches(x: np.ndarray, y: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x[k : k + size], y[k : k + size]) for k in range(0, len(x), size)]


def streamed(x: np.ndarray, y: np.ndarray) -> float:
    stream = StreamingCKA()
    for batch in batches(x, y, 7):
        stream.update(*batch)
    return stream.sums().xy.hsic()


def biased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    return cka.hsic_biased(cka.linear_gram(x), cka.linear_gram(y))


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    return cka.hsic_unbiased(cka.linear_gram(x), cka.linear_gram(y))


def squared(x: np.ndarray, y: np.ndarray) -> float:
    return canonical.mean_squared_correlation(canonical.basis(x), canonical.basis(y))


SCALARS = {
    "hsic_biased": biased_hsic,
    "hsic_unbiased": unbiased_hsic,
    "hsic_unbiased_stream_bs7": streamed,
    "hsic_unbiased_stream_shift": lambda x, y: streamed(x + 3, y - 2),
    "cka_biased": cka.linear_cka_biased,
    "cka_debiased": cka.linear_cka,
    "cka_minibatch_8": lambda x, y: cka.minibatch_cka(batches(x, y, 8)),
    "cka_minibatch_16": lambda x, y: cka.minibatch_cka(batches(x, y, 16)),
    "cka_rbf_biased_med1": cka.rbf_cka_biased,
    "cka_rbf_debiased_med1": cka.rbf_cka,
    "cka_rbf_biased_med100": lambda x, y: cka.rbf_cka_biased(x, y, 100),
    "mutual_knn_5": lambda x, y: neighbours.mutual_knn(x, y, 5),
    "mutual_knn_5_centered": lambda x, y: neighbours.mutual_knn_centred(x, y, 5),
    "mutual_knn_10": lambda x, y: neighbours.mutual_knn(x, y, 10),
    "cknna_10": lambda x, y: neighbours.cknna(x, y, 10),
    "rsa_correlation_spearman": lambda x, y: rdm.rsa(x, y, "correlation"),
    "rsa_euclidean_spearman": rdm.rsa,
    "rsa_cosine_pearson": lambda x, y: rdm.rsa(x, y, "cosine", "pearson"),
    "rsa_euclidean_kendall": lambda x, y: rdm.rsa(x, y, "euclidean", "kendall"),
    "cca_mean_rho": canonical.cca,
    "cca_mean_rho2": squared,
    "pwcca_X": canonical.pwcca,
    "svcca_099": canonical.svcca,
    "procrustes_nuclear": rotation.procrustes,
    "procrustes_sq_distance": rotation.procrustes_squared_distance,
    "procrustes_angle_rad": rotation.procrustes_angle,
    "ridge_cv4_r2_X_to": predictivity.ridge_r2,
    "ridge_cv4_r2_from_to_X": lambda x, y: predictivity.ridge_r2(y, x),
    "class_rsa_8": lambda x, y: rdm.class_rsa(x, y, (np.arange(32) % 8).tolist(), (np.arange(32) % 8).tolist()),
    "spectral_tv": spectra.spectral_distance,
}
ONE_TABLE = {
    "rbf_median_X": cka.median_distance(X),
    "rbf_median_Y": cka.median_distance(Y),
    "rankme_X": spectra.rankme(X),
    "rankme_X_centered": spectra.rankme_centred(X),
    "rankme_Y": spectra.rankme(Y),
    "participation_ratio_X": spectra.participation_ratio(X),
    "participation_ratio_Y": spectra.participation_ratio(Y),
    "X_sum": X.sum(),
    "Y_fro": np.linalg.norm(Y),
    "C_31_3": C[31, 3],
}


@pytest.mark.parametrize("pair", OTHER)
@pytest.mark.parametrize("name", SCALARS)
def test_measures(pair: str, name: str) -> None:
    close(SCALARS[name](X, OTHER[pair]), GOLDEN[pair][name])


@pytest.mark.parametrize("name", ONE_TABLE)
def test_figures_of_one_table(name: str) -> None:
    close(ONE_TABLE[name], GOLDEN[name])


@pytest.mark.parametrize("pair", OTHER)
def test_lists_of_numbers(pair: str) -> None:
    other, golden = OTHER[pair], GOLDEN[pair]
    np.testing.assert_allclose(canonical.canonical_correlations(X, other), golden["canonical_correlations"], rtol=1e-9)
    assert [canonical.truncated_basis(t).rows.shape[1] for t in (X, other)] == golden["svcca_kept"]
    even, odd = np.arange(0, 32, 2), np.arange(1, 32, 2)
    fitted = lookup.fit_procrustes(X[even], other[even])
    turned = lookup.figures(lookup.ranks(lookup.similarities(fitted, X[odd], other[odd])))
    for name, found in (
        ("retrieval_ridge", lookup.retrieval(X, other, even, odd, 1.0)),
        ("retrieval_procrustes", turned),
    ):
        for key in ("R@1", "R@5", "MedR", "MRR"):
            close(found[key], golden[name][key])


@pytest.mark.parametrize("pair", OTHER)
def test_null_of_cyclic_shifts(pair: str) -> None:
    other = OTHER[pair]
    measures = {
        "cka_biased": cka.linear_cka_biased,
        "cka_debiased": cka.linear_cka,
        "mutual_knn_5": lambda x, y: neighbours.mutual_knn(x, y, 5),
    }
    for name, measure in measures.items():
        null = [measure(X, np.roll(other, -shift, 0)) for shift in range(1, 32)]
        found = summarise(measure(X, other), np.array(null), alpha=0.05, highest=1.0)
        golden = GOLDEN[pair][f"null_cyclic_{name}"]
        close(found.mean, golden["null_mean"])
        close(found.std, golden["null_std"])
        for key, value in (("p", found.p_value), ("tau", found.tau), ("calibrated", found.calibrated)):
            close(value, golden[key])
        close(found.excess, golden["excess"])


@pytest.mark.parametrize("pair", OTHER)
def test_jackknife(pair: str) -> None:
    other, golden, one = OTHER[pair], GOLDEN[pair], np.arange(32)
    left, right = cka.debiased_side(X), cka.debiased_side(other)
    without = cka.deletions(left, right, one)
    close(jackknife_se(without), golden["jackknife_se_cka_debiased"])
    value = cka.linear_cka(X, other)
    close(32 * value - 31 * without.mean(), golden["jackknife_biascorr_cka_debiased"])
    lists = [neighbours.nearest(table, 5, depth=6) for table in (X, other)]
    gone = neighbours.deletions(lists[0], lists[1], one)
    assert gone is not None
    close(jackknife_se(gone), golden["jackknife_se_mutual_knn_5"])


def test_layers_and_the_null_of_their_maximum() -> None:
    first, second = [X, np.tanh(X), np.tanh(2 * X)[:, :3]], [Y, Y**2]
    sides = [cka.debiased_side(layer) for layer in first], [cka.debiased_side(layer) for layer in second]

    def matrix(order: np.ndarray) -> np.ndarray:
        turned = [cka.reorder_matrix(side, order) for side in sides[1]]
        return np.array([[cka.product(a, b) for b in turned] for a in sides[0]])

    observed = matrix(np.arange(32))
    np.testing.assert_allclose(observed, GOLDEN["layers_cka_debiased"], rtol=1e-9)
    null = np.array([matrix(np.roll(np.arange(32), -shift)).max() for shift in range(1, 32)])
    found, golden = summarise(observed.max(), null, alpha=0.05, highest=1.0), GOLDEN["layers_max_null_cyclic"]
    wanted = [golden[key] for key in ("null_mean", "null_std", "p", "tau", "calibrated", "excess")]
    got = [found.mean, found.std, found.p_value, found.tau, found.calibrated, found.excess]
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


def test_other_conventions_of_cka_agree() -> None:
    x, y = X - X.mean(0), Y - Y.mean(0)
    features = (x.T @ y).ravel() @ (x.T @ y).ravel() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    close(features, GOLDEN["XY"]["cka_biased_feature_form"])
    for order, name in ((5, "k5"), (10, "k10")):
        rows = X / np.linalg.norm(X, axis=1, keepdims=True)
        near = np.sort(rows @ rows.T - 3 * np.eye(32), axis=1)[:, ::-1]
        close((near[:, order - 1] - near[:, order]).min(), GOLDEN["knn_gap_min_X"][name])
