"""Our measures against other people's implementations, wherever definitions agree.

    python benchmarks/compare/references.py [--reference <clone of minyoungg/platonic-rep>]

Writes ``REFERENCES.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jepa_core.compare import (
    canonical_correlations,
    linear_cka,
    linear_cka_biased,
    mutual_knn,
    procrustes,
    ridge_r2,
    rsa,
)

HERE = Path(__file__).parent
N, P, Q, K = 200, 12, 8, 10
Row = tuple[str, str, float, float]


def tables() -> tuple[np.ndarray, np.ndarray]:
    """Two tables that share three directions."""
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(N, 3))
    x = np.concatenate([shared, generator.normal(size=(N, P - 3))], 1)
    return x, shared @ generator.normal(size=(3, Q)) + generator.normal(size=(N, Q))


def well_kept(x: np.ndarray, y: np.ndarray) -> list[Row]:
    """Against scikit-learn and SciPy."""
    import scipy
    import sklearn
    from scipy.spatial import procrustes as scipy_procrustes
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr
    from sklearn.cross_decomposition import CCA
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import NearestNeighbors

    learn, science = f"scikit-learn {sklearn.__version__}", f"SciPy {scipy.__version__}"
    variates = CCA(n_components=Q, max_iter=100_000, tol=1e-14).fit(x, y).transform(x, y)
    theirs = [np.corrcoef(variates[0][:, k], variates[1][:, k])[0, 1] for k in range(Q)]
    padded = np.pad(y, ((0, 0), (0, P - Q)))
    lists = [
        NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(table).kneighbors(return_distance=False)
        for table in (x, y)
    ]
    shared = np.mean([len(set(a) & set(b)) / K for a, b in zip(*lists, strict=True)])
    folds = [(np.flatnonzero(np.arange(N) % 4 != f), np.flatnonzero(np.arange(N) % 4 == f)) for f in range(4)]
    predicted = cross_val_predict(Ridge(alpha=1.0), x, y, cv=folds)
    means = np.empty_like(y)
    for train, test in folds:
        means[test] = y[train].mean(0)
    r2 = 1 - ((y - predicted) ** 2).sum() / ((y - means) ** 2).sum()
    return [
        ("largest canonical correlation", f"{learn}, CCA", canonical_correlations(x, y)[0], theirs[0]),
        ("mean canonical correlation", f"{learn}, CCA", canonical_correlations(x, y).mean(), float(np.mean(theirs))),
        ("mutual kNN", f"{learn}, NearestNeighbors", mutual_knn(x, y, K), float(shared)),
        ("ridge R2, four folds", f"{learn}, Ridge", ridge_r2(x, y), float(r2)),
        ("Procrustes, 1 - t^2", f"{science}, procrustes", 1 - procrustes(x, y) ** 2, scipy_procrustes(x, padded)[2]),
        ("RSA", f"{science}, spearmanr of pdist", rsa(x, y), float(spearmanr(pdist(x), pdist(y)).statistic)),
    ]


def load_platonic(folder: Path) -> Any:
    """``metrics.py`` of the clone; what it imports and does not need here is left empty."""
    if importlib.util.find_spec("torchaudio") is None:
        audio, functional = types.ModuleType("torchaudio"), types.ModuleType("torchaudio.functional")
        sys.modules.update({"torchaudio": audio, "torchaudio.functional": functional})
    spec = importlib.util.spec_from_file_location("platonic_metrics", folder / "metrics.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AlignmentMetrics


def published(folder: Path, commit: str, x: np.ndarray, y: np.ndarray) -> list[Row]:
    """Against the code of the Platonic study, in float64."""
    import torch

    metrics = load_platonic(folder)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    units = [table / table.norm(dim=1, keepdim=True) for table in (a, b)]
    name = f"minyoungg/platonic-rep {commit}"
    calls: list[tuple[str, float, Callable[[], float]]] = [
        ("mutual kNN", mutual_knn(x, y, K), lambda: metrics.mutual_knn(*units, topk=K)),
        ("CKA, biased", linear_cka_biased(x, y), lambda: metrics.cka(a, b)),
        ("CKA, debiased", linear_cka(x, y), lambda: metrics.unbiased_cka(a, b)),
    ]
    return [(what, name, ours, float(theirs())) for what, ours, theirs in calls]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--commit", help="of the reference, where its folder is no clone")
    chosen = parser.parse_args()
    x, y = tables()
    rows = well_kept(x, y)
    if chosen.reference is not None:
        commit = (
            chosen.commit
            or subprocess.run(
                ["git", "-C", str(chosen.reference), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
            ).stdout.strip()
        )
        rows += published(chosen.reference, commit[:12], x, y)
    lines = [
        f"| {what} | {name} | {ours:.10f} | {theirs:.10f} | {abs(ours - theirs):.1e} |"
        for what, name, ours, theirs in rows
    ]
    text = f"""# Other implementations

`python benchmarks/compare/references.py --reference <clone of minyoungg/platonic-rep>`, numpy {np.__version__}.
n = {N}, {P} and {Q} features, three directions shared; k = {K}.

| measure | reference | ours | theirs | difference |
|---|---|---|---|---|
"""
    left_out = """
CKNNA is left out: the published code pairs column sums with row sums and transposes one matrix, so that its value
differs by definition. Its SVCCA adds noise to the features.
"""
    (HERE / "REFERENCES.md").write_text(text + "\n".join(lines) + "\n" + left_out)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
