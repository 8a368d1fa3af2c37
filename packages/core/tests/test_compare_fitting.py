"""Retrieval whose map is fitted on other samples, by ridge, rotation or canonical directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from jepa_core.cli import main
from jepa_core.compare import (
    SaturatedError,
    UnpairedError,
    canonical_correlations,
    compare,
    linear_cka,
    lookup,
    retrieval,
)
from jepa_core.compare.inputs import from_array
from jepa_core.compare.options import Options
from jepa_core.errors import ConfigError, DataError

FITTED, TESTED = 120, 60
QUICK: dict[str, Any] = {"permutations": 19, "measures": ("retrieval",)}


def pair(start: int, n: int) -> tuple[Any, Any]:
    """Rows from ``start`` on of one draw of two tables that share three directions; rows are named."""
    generator = np.random.default_rng(0)
    shared, noise = generator.normal(size=(400, 3)), generator.normal(size=(400, 9))
    x, y = np.concatenate([shared, noise[:, :4]], 1), shared @ generator.normal(size=(3, 5)) + 0.3 * noise[:, 4:]
    rows = slice(start, start + n)
    ids = [f"s{row}" for row in range(start, start + n)]
    return from_array(x[rows], "a", sample_id=ids), from_array(y[rows], "b", sample_id=ids)


def table_values(table: Any) -> np.ndarray:
    return np.asarray(table.layers["features"])


def test_the_map_is_fitted_on_the_given_rows_and_all_others_are_tested() -> None:
    fit, test = pair(0, FITTED), pair(FITTED, TESTED)
    found = compare(*test, fit_a=fit[0], fit_b=fit[1], **QUICK)
    x, y = (np.concatenate([table_values(fit[side]), table_values(test[side])]) for side in (0, 1))
    rows = np.arange(FITTED + TESTED)
    there = retrieval(x, y, rows[:FITTED], rows[FITTED:])
    back = retrieval(y, x, rows[:FITTED], rows[FITTED:])
    scores = {(score.measure, score.direction): score for score in found.scores}
    assert scores["retrieval_R@1", "a -> b"].value == pytest.approx(there["R@1"])
    assert scores["retrieval_MRR", "b -> a"].value == pytest.approx(back["MRR"])
    assert found["retrieval_R@1"].n == TESTED and "fitted on 120 samples" in found["retrieval_R@1"].estimator
    assert found.figures["MedR a -> b"] == there["MedR"]
    assert found.settings["fit_a"] == "given"


def test_canonical_directions_are_those_of_scikit_learn() -> None:
    x, y = (table_values(table) for table in pair(0, FITTED))
    new_x, new_y = (table_values(table) for table in pair(FITTED, TESTED))
    fitted = lookup.fit_cca(x, y)
    assert fitted.weights_y is not None
    theirs = CCA(n_components=5, max_iter=100_000, tol=1e-14).fit(x, y).transform(new_x, new_y)
    ours = (new_x - fitted.mean_x) @ fitted.weights, (new_y - fitted.mean_y) @ fitted.weights_y
    for mine, other in zip(ours, theirs, strict=True):
        for k in range(5):
            assert abs(np.corrcoef(mine[:, k], other[:, k])[0, 1]) == pytest.approx(1, abs=1e-6)
    lengths = np.linalg.norm((x - fitted.mean_x) @ fitted.weights, axis=0)
    np.testing.assert_allclose(lengths, canonical_correlations(x, y), atol=1e-9)


def test_canonical_retrieval_does_not_mind_an_invertible_map() -> None:
    x, y = (table_values(table) for table in pair(0, FITTED))
    new_x, new_y = (table_values(table) for table in pair(FITTED, TESTED))
    mixing = np.random.default_rng(1).normal(size=(7, 7))
    plain = lookup.similarities(lookup.fit_cca(x, y), new_x, new_y)
    mixed = lookup.similarities(lookup.fit_cca(x @ mixing, y), new_x @ mixing, new_y)
    np.testing.assert_allclose(plain, mixed, atol=1e-9)
    with pytest.raises(SaturatedError, match="CCA is saturated"):
        lookup.fit_cca(x[:10], y[:10])
    assert np.isfinite(lookup.fit_cca(x[:10], y[:10], ridge=0.1).weights).all()
    assert compare(*pair(0, FITTED), map="cca", **QUICK)["retrieval_R@5"].value > 0.2


def test_what_cannot_be_fitted_on_is_refused() -> None:
    fit, test = pair(0, FITTED), pair(FITTED, TESTED)
    with pytest.raises(DataError, match="fit_a: expected other samples than those compared, got 20 of them"):
        shared = pair(FITTED - 40, 60)
        compare(*test, fit_a=shared[0], fit_b=shared[1], **QUICK)
    with pytest.raises(DataError, match="fit_a: expected 7 features as in a, got 5"):
        compare(*test, fit_a=fit[1], fit_b=fit[0], **QUICK)
    with pytest.raises(ConfigError, match="a table of either side"):
        Options(fit_a="a.parquet")
    with pytest.raises(ConfigError, match="only count where retrieval is measured"):
        Options(measures=("linear_cka",), fit_a="a.parquet", fit_b="b.parquet")


def test_the_command_line_takes_files_to_fit_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (start, n) in {"fit": (0, FITTED), "test": (FITTED, TESTED)}.items():
        for side, table in zip("ab", pair(start, n), strict=True):
            np.savez(tmp_path / f"{name}_{side}.npz", x=table_values(table), sample_id=np.array(list(table.sample_id)))
    sources = [str(tmp_path / f"test_{side}.npz") for side in "ab"]
    fit = [f"fit_{side}={tmp_path / f'fit_{side}.npz'}" for side in "ab"]
    asked = ["measures=retrieval", "permutations=19", "map=cca", f"out={tmp_path / 'found'}"]
    assert main(["compare", *sources, *fit, *asked]) == 0
    assert "Retrieval R@1 a -> b" in capsys.readouterr().out
    assert "fitted on 120 samples" in (tmp_path / "found" / "compare.html").read_text()
    assert main(["compare", *sources, fit[0], *asked]) == 2
    assert "fit_a, fit_b: expected a table of either side" in capsys.readouterr().err


def test_names_may_be_alike_without_folder_and_ending() -> None:
    x, y = (table_values(table) for table in pair(0, TESTED))
    a = from_array(x, "a", sample_id=[f"image/{row}.jpg" for row in range(TESTED)])
    b = from_array(y[::-1], "b", sample_id=[f"{row}.npz" for row in reversed(range(TESTED))])
    plain = {"permutations": 19, "measures": ("linear_cka",)}
    assert compare(a, b, ids="stem", **plain)["linear_cka"].value == pytest.approx(linear_cka(x, y), abs=1e-12)
    with pytest.raises(UnpairedError, match="60 agree without folder and ending: ids=stem"):
        compare(a, b, **plain)
    with pytest.raises(DataError, match="one row a sample, got 60 rows of 1"):
        compare(a, from_array(y, "b", sample_id=[f"{row}/x.npz" for row in range(TESTED)]), ids="stem", **plain)
