"""Our measures against other people's implementations, wherever definitions agree.

    python benchmarks/compare/references.py [--platonic <clone>] [--anatome <clone>] [--pytorch-cka <package>]

minyoungg/platonic-rep and moskomule/anatome are clones; pytorch-cka is the unpacked wheel of PyPI, the folder that
holds ``cka``. Writes ``REFERENCES.md``.
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
    cca,
    cknna,
    linear_cka,
    linear_cka_biased,
    mutual_knn,
    procrustes,
    pwcca,
    ridge_r2,
    rsa,
    svcca,
)

HERE = Path(__file__).parent
N, P, Q, K = 200, 12, 8, 10
Row = tuple[str, str, float, float]
DIFFERS = "differs: "
WHY = """- CKNNA: the published code transposes the second matrix in the trace and pairs column sums with row
  sums; ours is HSIC of the masked matrices as they are. Its SVCCA is left out: it adds noise to the features.
- SVCCA of anatome keeps components of features that are not centred, by the sum of the singular values and up to the
  last that stays below 99 %; ours, as in the paper, the fewest that hold 99 % of the sum of their squares.
- PWCCA of anatome weighs by products with coefficients made orthonormal; ours, as in the paper, by those with the
  canonical variates.
- pytorch-cka cuts values to 0..1. A debiased estimate of independent tables is negative about half of the time (this
  draw was chosen to be so), and a mean over values that were cut is above 0.
"""


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


def load_file(path: Path, name: str, unneeded: tuple[str, ...] = ()) -> Any:
    """A file of somebody's package as a module; what it imports and does not need here is left empty."""
    for missing in unneeded:
        if missing not in sys.modules:
            sys.modules[missing] = types.ModuleType(missing)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_platonic(folder: Path) -> Any:
    """``metrics.py`` of the clone."""
    audio = ("torchaudio", "torchaudio.functional") if importlib.util.find_spec("torchaudio") is None else ()
    return load_file(folder / "metrics.py", "platonic_metrics", audio).AlignmentMetrics


def load_anatome(folder: Path) -> Any:
    """``anatome/distance.py`` of the clone."""
    sys.modules["anatome"] = types.ModuleType("anatome")
    sys.modules["anatome"].__path__ = []
    load_file(folder / "anatome" / "utils.py", "anatome.utils")
    lacking = importlib.util.find_spec("torchvision") is None
    if lacking:
        extraction = types.ModuleType("torchvision.models.feature_extraction")
        extraction.__dict__.update(get_graph_node_names=None, create_feature_extractor=None)
        sys.modules[extraction.__name__] = extraction
    names = ("torchvision", "torchvision.models") if lacking else ()
    return load_file(folder / "anatome" / "distance.py", "anatome.distance", names)


def load_pytorch_cka(folder: Path) -> Any:
    """``cka/cka.py`` of the wheel."""
    sys.modules["cka"] = types.ModuleType("cka")
    sys.modules["cka"].__path__ = []
    load_file(folder / "cka" / "hsic.py", "cka.hsic")
    return load_file(folder / "cka" / "cka.py", "cka.cka")


def published_platonic(folder: Path, commit: str, x: np.ndarray, y: np.ndarray) -> list[Row]:
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
        (DIFFERS + "CKNNA", cknna(x, y, K), lambda: metrics.cknna(*units, topk=K)),
    ]
    return [(what, name, ours, float(theirs())) for what, ours, theirs in calls]


def published_anatome(folder: Path, commit: str, x: np.ndarray, y: np.ndarray) -> list[Row]:
    """Against anatome, whose values are distances, 1 minus ours; in float64."""
    import torch

    theirs = load_anatome(folder)
    name = f"moskomule/anatome {commit}"

    def tables() -> tuple[Any, Any]:
        return torch.from_numpy(x.copy()), torch.from_numpy(y.copy())

    calls: list[tuple[str, float, Callable[[], Any]]] = [
        ("CKA, biased", linear_cka_biased(x, y), lambda: theirs.linear_cka_distance(*tables(), reduce_bias=False)),
        ("CKA, debiased", linear_cka(x, y), lambda: theirs.linear_cka_distance(*tables(), reduce_bias=True)),
        ("mean canonical correlation", cca(x, y), lambda: 1 - theirs.cca(*tables(), backend="qr")[2].mean()),
        ("Procrustes", procrustes(x, y), lambda: theirs.orthogonal_procrustes_distance(*tables())),
        (DIFFERS + "SVCCA", svcca(x, y), lambda: theirs.svcca_distance(*tables(), accept_rate=0.99, backend="svd")),
        (DIFFERS + "PWCCA", pwcca(x, y), lambda: theirs.pwcca_distance(*tables(), backend="svd")),
    ]
    return [(what, name, ours, 1 - float(distance())) for what, ours, distance in calls]


def published_pytorch_cka(folder: Path, x: np.ndarray, y: np.ndarray) -> list[Row]:
    """Against pytorch-cka of PyPI, in float64; independent tables show that it cuts negative values off."""
    import torch

    theirs = load_pytorch_cka(folder)
    name = f"pytorch-cka {version_of(folder)}, cka_from_features"
    draws = (np.random.default_rng(seed).normal(size=y.shape) for seed in range(1, 100))
    apart = next(table for table in draws if linear_cka(x, table) < 0)
    rows: list[Row] = []
    for what, other in (("CKA, debiased", y), (DIFFERS + "CKA, debiased, independent tables", apart)):
        value = theirs.cka_from_features(torch.from_numpy(x), torch.from_numpy(other))
        rows.append((what, name, linear_cka(x, other), float(value)))
    return rows


def version_of(folder: Path) -> str:
    """The version of an unpacked wheel."""
    return next((path.name.split("-")[1].removesuffix(".dist") for path in folder.glob("*.dist-info")), "")


def commit_of(folder: Path, given: str | None) -> str:
    """The first 12 digits of a clone's commit; ``given`` where the folder is no clone."""
    call = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return (given or subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip())[:12]


def lines_of(rows: list[Row]) -> list[str]:
    """Rows of a table."""
    return [
        f"| {what.removeprefix(DIFFERS)} | {name} | {ours:.10f} | {theirs:.10f} | {abs(ours - theirs):.1e} |"
        for what, name, ours, theirs in rows
    ]


def page(rows: list[Row]) -> str:
    """What is written."""
    head = ["| measure | reference | ours | theirs | difference |", "|---|---|---|---|---|"]
    same = [row for row in rows if not row[0].startswith(DIFFERS)]
    other = [row for row in rows if row[0].startswith(DIFFERS)]
    call = "`python benchmarks/compare/references.py --platonic <clone> --anatome <clone> --pytorch-cka <package>`"
    return "\n".join(
        [
            "# Other implementations",
            "",
            f"{call}, numpy {np.__version__}.",
            f"n = {N}, {P} and {Q} features, three directions shared; k = {K}. Distances are shown as 1 minus them.",
            "",
            *head,
            *lines_of(same),
            "",
            "Values that differ by definition:",
            "",
            *head,
            *lines_of(other),
            "",
            WHY,
        ]
    )


def main() -> None:
    """Prints the rows and writes the page."""
    parser = argparse.ArgumentParser(description="Our measures against other implementations.")
    parser.add_argument("--platonic", type=Path)
    parser.add_argument("--anatome", type=Path)
    parser.add_argument("--pytorch-cka", type=Path)
    parser.add_argument("--commits", nargs=2, help="of platonic-rep and anatome, where their folders are no clones")
    chosen = parser.parse_args()
    x, y = tables()
    commits = chosen.commits or (None, None)
    rows = well_kept(x, y)
    if chosen.platonic is not None:
        rows += published_platonic(chosen.platonic, commit_of(chosen.platonic, commits[0]), x, y)
    if chosen.anatome is not None:
        rows += published_anatome(chosen.anatome, commit_of(chosen.anatome, commits[1]), x, y)
    if chosen.pytorch_cka is not None:
        rows += published_pytorch_cka(chosen.pytorch_cka, x, y)
    (HERE / "REFERENCES.md").write_text(page(rows))
    print("\n".join(lines_of(rows)))


if __name__ == "__main__":
    main()
