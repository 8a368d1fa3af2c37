"""``compare`` on anybody's tables: joins, refusals, warnings, large files, and what the verb writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from jepa_core.cli import main
from jepa_core.compare import UnpairedError, cka, compare, run
from jepa_core.compare.inputs import Features, from_array, load
from jepa_core.compare.options import Options, parse
from jepa_core.compare.result import Comparison
from jepa_core.compare.scores import Score
from jepa_core.errors import ConfigError, DataError
from jepa_core.evaluate.table_writer import Rows, TableWriter, table_schema

N = 80
QUICK: dict[str, Any] = {"permutations": 19, "measures": ("linear_cka", "mutual_knn")}


def pair(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(n, 3))
    x = np.concatenate([shared, generator.normal(size=(n, 3))], 1).astype(np.float32)
    return x, (shared @ generator.normal(size=(3, 5)) + generator.normal(size=(n, 5))).astype(np.float32)


def names(n: int = N) -> list[str]:
    return [f"s{row}" for row in range(n)]


def parquet(path: Path, x: np.ndarray, ids: list[Any], **columns: Any) -> Path:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
    pq.write_table(pa.table({"sample_id": ids, "vector": vectors, **columns}), path)
    return path


def test_rows_are_joined_on_sample_id_never_by_order() -> None:
    x, y = pair()
    order = np.random.default_rng(1).permutation(N)[:60]
    ids = np.array(names())
    found = compare(from_array(x, "a", sample_id=ids), from_array(y[order], "b", sample_id=ids[order]), **QUICK)
    kept = np.sort(order)
    assert found["linear_cka"].value == pytest.approx(cka.linear_cka(x[kept], y[kept]), abs=1e-12)
    assert found["linear_cka"].n == 60 and any("60 samples are in both tables" in text for text in found.warnings)


def test_every_score_has_all_that_makes_it_readable() -> None:
    score = compare(*pair(), assume_row_aligned=True, **QUICK)["mutual_knn"]
    wanted = ["value", "null_mean", "null_std", "p_value", "tau", "calibrated", "ci_low", "ci_high", "n", "d_x", "d_y"]
    wanted += ["estimator", "seed", "warnings"]
    assert set(wanted) <= set(Score.__dataclass_fields__)
    assert score.p_value == pytest.approx(0.05) and score.ci_low < score.value < score.ci_high
    assert (score.n, score.d_x, score.d_y, score.chance) == (N, 6, 5, pytest.approx(10 / (N - 1)))


def test_unpaired_tables_are_refused() -> None:
    x, y = pair()
    with pytest.raises(UnpairedError, match="need the same samples in both tables.*assume_row_aligned"):
        compare(x, y)
    a = from_array(x, "a", sample_id=names())
    with pytest.raises(UnpairedError, match="the first samples are 's0' and 't0'"):
        compare(a, from_array(y, "b", sample_id=[f"t{row}" for row in range(N)]))
    with pytest.raises(DataError, match="one row a sample, got 80 rows of 1"):
        compare(a, from_array(y, "b", sample_id=["s0"] * N))
    with pytest.raises(DataError, match="as many rows"):
        compare(x, y[:-1], assume_row_aligned=True)


def test_unpaired_modes() -> None:
    x, y = pair(400)
    labels = np.arange(400) % 10
    x[:, :3] += 3 * np.random.default_rng(0).normal(size=(10, 3))[labels]
    a = from_array(x, "a", sample_id=names(400), label=labels)
    b = from_array(x[::-1, :4], "b", sample_id=[f"t{row}" for row in range(400)], label=labels[::-1])
    by_class = compare(a, b, mode="class", permutations=99)
    assert by_class["class_rsa"].n == 10 and by_class["class_rsa"].p_value < 0.05
    shape = compare(a, b, mode="spectrum")
    assert not shape.scores and "never similar content" in shape.verdict()[1]
    with pytest.raises(DataError, match="at least 8 labels that both tables have, got 3"):
        compare(a, from_array(y, "b", label=labels % 3), mode="class")
    with pytest.raises(DataError, match="got none in b"):
        compare(a, from_array(y, "b"), mode="class")


def test_groups_are_permuted_whole_and_few_give_no_p_value() -> None:
    x, y = pair(120)

    def table(features: np.ndarray, groups: int) -> Features:
        return from_array(features, sample_id=names(120), group=[f"g{row % groups}" for row in range(120)])

    measures = (*QUICK["measures"], "retrieval")
    found = compare(table(x, 40), table(y, 40), permutations=19, measures=measures)
    assert found["linear_cka"].groups == 40 and "40 groups change places" in " ".join(found.warnings)
    assert found["retrieval_R@1"].groups == 20 and np.isfinite(found["retrieval_R@1"].p_value)
    few = compare(table(x, 6), table(y, 6), permutations=19, measures=measures)
    assert all(np.isnan(score.p_value) for score in few.scores)
    assert few.verdict()[0] == "warn" and "6 groups, expected at least 20" in few.verdict()[1]
    rows = compare(table(x, 6), table(y, 6), groups="none", **QUICK)
    assert np.isfinite(rows["linear_cka"].p_value) and "too small" in " ".join(rows.warnings)
    uneven = [0] * 9 + [1 + row // 3 for row in range(111)]
    cut = compare(x, y, groups=uneven, assume_row_aligned=True, **QUICK)
    assert cut["linear_cka"].n == 38 * 3 and cut["linear_cka"].groups == 38


def test_pitfalls_are_told() -> None:
    x, y = pair()
    x[3] *= 300
    x[5] = x[4]
    y[5] = y[4]
    a = Features({"last": x}, metadata={"split": "test"}, name="a")
    b = Features({"last": y}, metadata={"split": "train"}, name="b", timed=True)
    said = " ".join(compare(a, b, assume_row_aligned=True, **QUICK).warnings)
    for text in ("of all variance", "exact copies", "split differs: test and train", "have times and no groups"):
        assert text in said
    steady = compare(a, b, assume_row_aligned=True, normalise="l2", **QUICK)
    assert "of all variance" not in " ".join(steady.warnings) and steady.preprocessing == ("float64", "l2 of each row")
    x[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN or infinity in 1 of 80 rows"):
        compare(a, b, assume_row_aligned=True, **QUICK)
    with pytest.raises(DataError, match="CCA is saturated"):
        compare(*np.random.default_rng(0).normal(size=(2, 30, 20)), assume_row_aligned=True, measures=("cca",))


def test_formats_hold_the_same(tmp_path: Path) -> None:
    x, y = pair()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", last=x, sample_id=np.array(names()))
    save_file({"block_1": x, "last": x * 2, "label": np.arange(N)}, tmp_path / "x.safetensors")
    pq.write_table(
        pa.table({"id": list(range(N)), "embedding": y.tolist(), "group_id": names()}), tmp_path / "y.parquet"
    )
    assert load(tmp_path / "x.npy").sample_id is None
    held = load(tmp_path / "x.npz").sample_id
    assert held is not None and held.tolist() == names()
    assert list(load(tmp_path / "x.safetensors").layers) == ["block_1", "last"]
    foreign = load(tmp_path / "y.parquet")
    assert foreign.group is not None and foreign.layers["features"].shape == (N, 5)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    (tmp_path / "bad.safetensors").write_bytes(b"no array")
    np.save(tmp_path / "flat.npy", x[0])
    for name in ("bad.npy", "bad.safetensors", "flat.npy", "none.npy", "x.txt"):
        (tmp_path / "x.txt").write_text("")
        with pytest.raises(DataError, match=name.partition(".")[0]):
            load(tmp_path / name)


def test_layers_of_tables(tmp_path: Path) -> None:
    x, y = pair()
    path = tmp_path / "a.parquet"
    with TableWriter(path, table_schema(6, False, False, {"run": "first"})) as writer:
        for layer, scale in (("block_1", 0.1), ("last", 1.0)):
            noise = np.random.default_rng(7).normal(size=x.shape)
            features = (scale * x + noise).astype(np.float32)
            writer.add(Rows(names(), [None] * N, [None] * N, layer, "mean", features))
    found = compare(path, from_array(y, "b", sample_id=names()), layer_measures=("linear_cka",), **QUICK)
    (layers,) = found.layer_maps
    assert layers.rows == ("block_1", "last") and layers.best[0] == "last" and layers.p_value == pytest.approx(0.05)
    assert found["linear_cka"].value == pytest.approx(layers.values[1][0])
    only = compare(path, from_array(y, "b", sample_id=names()), layers_a=("block_1",), **QUICK)
    assert not only.layer_maps and only["linear_cka"].value == pytest.approx(layers.values[0][0])
    with pytest.raises(ConfigError, match="did you mean last"):
        compare(path, from_array(y, "b", sample_id=names()), layers_a=("lst",), **QUICK)


@pytest.mark.parametrize("shuffled", [False, True])
def test_large_files_are_read_once_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffled: bool
) -> None:
    monkeypatch.setattr(run, "LARGE_ROWS", 100)
    x, y = pair(400)
    order = np.random.default_rng(0).permutation(400)[:370] if shuffled else np.arange(30, 400)
    ids = np.array(names(400))
    a = parquet(tmp_path / "a.parquet", x, ids.tolist(), label=list(range(400)))
    b = parquet(tmp_path / "b.parquet", y[order], ids[order].tolist())
    kept = np.sort(order)
    found = compare(a, b, rows=90, **QUICK)
    score = found["linear_cka"]
    assert score.value == pytest.approx(cka.linear_cka(x[kept], y[kept]), abs=1e-12) and score.n == 370
    assert score.p_value < 0.01 and score.ci_low < score.value < score.ci_high and score.null_mean == 0
    assert found["mutual_knn"].n == 90 and "a subset of 90 of 370 samples" in " ".join(found.warnings)
    monkeypatch.setattr(run, "LARGE_ROWS", 10**6)
    small = compare(a, b, rows=90, **QUICK)
    assert small["linear_cka"].value == pytest.approx(score.value, abs=1e-12)
    assert small["mutual_knn"].value == pytest.approx(found["mutual_knn"].value, abs=1e-12)


def test_what_the_verb_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = pair()
    a = parquet(tmp_path / "lidar.parquet", x, names(), label=[f"<b>{row}" for row in range(N)])
    b = parquet(tmp_path / "vision.parquet", y, names())
    out = tmp_path / "out"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    from PIL import Image

    for name in names():
        Image.new("RGB", (300, 200)).save(pictures / f"{name}.png")
    arguments = [str(a), str(b), f"out={out}", "permutations=19", f"pictures_b={pictures}"]
    assert main(["compare", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "Linear CKA, debiased" in shown and str(out / "compare.html") in shown
    held = json.loads((out / "result.json").read_text())
    assert held["tone"] in ("good", "warn", "none") and len(held["scores"]) > 4
    rows = list(csv.DictReader((out / "result.csv").open()))
    assert [row["measure"] for row in rows] == [score["measure"] for score in held["scores"]]
    page = (out / "compare.html").read_text()
    assert (
        "<b>" not in page.replace("&lt;b&gt;", "")
        and "data:image/jpeg;base64," in page
        and "http" not in page.split("<body>")[1].replace("http://www.w3.org", "")
    )
    assert main(["compare", str(a), str(tmp_path / "other.npy")]) == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("meassures=rsa", "did you mean measures"),
        ("measures=cka", "expected one of"),
        ("permutations=5", "expected 19 or more"),
        ("k=ten", "expected a whole number"),
        ("assume_row_aligned=yes", "expected true or false"),
        ("alpha=2", "between 0 and 1"),
        ("rows=50000", "at most 20000"),
        ("split=test", "only counts where a run is embedded"),
        ("a.seed=1", "settings are of a run"),
        ("pictures_a=nowhere", "no such folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str) -> None:
    path = parquet(tmp_path / "a.parquet", pair()[0], names())
    assert main(["compare", str(path), str(path), argument, f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_options_from_text() -> None:
    options = parse({"measures": "rsa, cca", "k": "5", "ridge": "0.1", "assume_row_aligned": "True", "groups": "none"})
    assert options == Options(measures=("rsa", "cca"), k=5, ridge=0.1, assume_row_aligned=True, groups="none")


def test_a_comparison_without_a_finding_says_so() -> None:
    generator = np.random.default_rng(3)
    found: Comparison = compare(
        generator.normal(size=(60, 4)), generator.normal(size=(60, 4)), assume_row_aligned=True, **QUICK
    )
    tone, sentence = found.verdict()
    assert tone in ("none", "warn") and "shared structure" in sentence
