"""``compare(a, b)``: joins two tables, scores every measure with its null and interval, and keeps what limits them."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jepa_core.compare import neighbours
from jepa_core.compare.arrays import Array, as_table, centred
from jepa_core.compare.examples import side_by_side
from jepa_core.compare.fitting import fit_pairs, main_layer
from jepa_core.compare.groups import Codes
from jepa_core.compare.inputs import Features, take
from jepa_core.compare.intervals import interval, jackknife_se
from jepa_core.compare.large import open_large, rows_of, run_pass
from jepa_core.compare.options import Options
from jepa_core.compare.pairing import PREPARATIONS, check_layer, describe, find_groups, join
from jepa_core.compare.registry import RETRIEVAL, Shape, Tuning, find_measure
from jepa_core.compare.result import Comparison
from jepa_core.compare.scores import LayerMap, Score
from jepa_core.compare.scoring import (
    Details,
    Mapping,
    Pairs,
    Plan,
    balance,
    make_score,
    score_layers,
    score_measure,
    score_retrieval,
)
from jepa_core.compare.significance import Null, no_null
from jepa_core.compare.streaming import StreamingCKA, cantelli, null_std
from jepa_core.compare.unpaired import compare_classes, compare_spectra
from jepa_core.errors import DataError, value_errors_are_users

LARGE_ROWS = 50_000
"""Parquet files of more rows are not read into memory."""
CURVE = (5, 10, 20, 50)
CHUNK = 8192
Say = Callable[[str], None]


@dataclass(frozen=True)
class Joined:
    """Two tables whose row i is the same sample, at most ``rows`` of them.

    Attributes:
        a, b: the tables.
        total: rows of the join, before a subset was drawn.
        stream: sums of all of them, where there are more than the subset.
        said: warnings.
    """

    a: Features
    b: Features
    total: int
    stream: StreamingCKA | None
    said: list[str]


def compare(a: Any, b: Any, options: Options | None = None, say: Say | None = None, **changes: Any) -> Comparison:
    """Compares two sets of embeddings.

    Args:
        a, b: each an array ``[N, D]``, a :class:`~jepa_core.compare.inputs.Features`, an
            :class:`~jepa_core.evaluate.tables.EmbeddingTable`, or the path of a ``.parquet``, ``.npy``, ``.npz`` or
            ``.safetensors`` file. Rows are joined on ``sample_id``, never by their order, unless
            ``assume_row_aligned`` is set.
        options: see :class:`~jepa_core.compare.options.Options`.
        say: is told what is being computed.
        **changes: fields of the options.

    Raises:
        UnpairedError: no sample in common, for a measure that needs pairs.
        DataError: what is there cannot be compared; the message says why.
        ConfigError: an option that cannot be.
    """
    options = replace(options or Options(), **changes)
    say = say or (lambda text: None)
    with warnings.catch_warnings(record=True) as caught, value_errors_are_users(DataError):
        warnings.simplefilter("always", UserWarning)
        if options.mode == "paired":
            found = _compare_paired(a, b, options, say)
        else:
            tables = take(a, options.pooling_a, "a"), take(b, options.pooling_b, "b")
            found = _compare_unpaired(*tables, options)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return replace(found, warnings=tuple(dict.fromkeys([*found.warnings, *said])))


def _settings(options: Options) -> dict[str, Any]:
    found = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    for key in ("groups", "fit_a", "fit_b"):
        found[key] = str(found[key]) if isinstance(found[key], str | Path) else "given"
    return found


def _compare_unpaired(a: Features, b: Features, options: Options) -> Comparison:
    a, b = a.only(options.layers_a), b.only(options.layers_b)
    metadata, said = describe(a, b)
    prepare = PREPARATIONS[options.normalise]
    x, y = (prepare(as_table(table.name, table.layers[main_layer(table)])) for table in (a, b))
    compute = compare_classes if options.mode == "class" else compare_spectra
    scores, figures = compute(x, y, a, b, options)
    return Comparison(
        name_a=a.name,
        name_b=b.name,
        mode=options.mode,
        scores=scores,
        figures=figures,
        metadata=metadata,
        preprocessing=_preprocessing(options),
        settings=_settings(options),
        warnings=tuple(said),
        alpha=options.alpha,
    )


def _preprocessing(options: Options) -> tuple[str, ...]:
    return ("float64",) if options.normalise == "none" else ("float64", f"{options.normalise} of each row")


# --------------------------------------------------------------------------------------------------------------------
# Paired
# --------------------------------------------------------------------------------------------------------------------


def _compare_paired(a: Any, b: Any, options: Options, say: Say) -> Comparison:
    joined = _join(a, b, options, say)
    first, second = joined.a, joined.b
    metadata, about = describe(first, second)
    codes, grouping = find_groups(first, second, options.groups)
    said = [*joined.said, *grouping, *about]
    prepare = PREPARATIONS[options.normalise]
    names = main_layer(first), main_layer(second)
    tables = ((first, names[0]), (second, names[1]))
    x, y = (prepare(as_table(table.name, table.layers[name])) for table, name in tables)
    for (table, _), features in zip(tables, (x, y), strict=True):
        said += check_layer(table.name, features)
    if max(map(len, (first.layers, second.layers))) > 1:
        said.append(f"scores are of the layers {names[0]} and {names[1]}; the map of layers has all")
    plan = _plan(options, codes)
    kept, balanced = balance(plan, len(x))
    if len(kept) < len(x):
        said.append(
            f"{len(kept)} of {len(x)} rows are used, {len(kept) // balanced.groups()} of each of {balanced.groups()} "
            "groups, so that groups can change places"
        )
    first, second, x, y = first.rows(kept), second.rows(kept), x[kept], y[kept]
    fit = fit_pairs(options, (first, second), names, prepare)
    scores, figures = _scores(x, y, balanced, options, joined, fit, say)
    _leave_out_copies(scores, said)
    return Comparison(
        name_a=first.name,
        name_b=second.name,
        mode="paired",
        scores=tuple(scores),
        layer_maps=_layer_maps(first, second, balanced, options, say),
        curve=_curve(x, y),
        figures=figures,
        examples=side_by_side(x, y, first, second, options.k),
        metadata=metadata,
        preprocessing=_preprocessing(options),
        settings=_settings(options),
        warnings=tuple(dict.fromkeys(said)),
        alpha=options.alpha,
    )


def _leave_out_copies(scores: list[Score], said: list[str]) -> None:
    """What is said of the whole comparison is not said again of every score."""
    for place, score in enumerate(scores):
        scores[place] = replace(score, warnings=tuple(text for text in score.warnings if text not in said))


def _plan(options: Options, codes: Codes | None) -> Plan:
    tuning = Tuning(k=options.k, ridge=options.ridge, scale=options.rbf_scale, codes=codes)
    return Plan(options.permutations, options.alpha, options.seed, tuning, codes)


def _join(a: Any, b: Any, options: Options, say: Say) -> Joined:
    paths = [Path(table) for table in (a, b) if isinstance(table, str | Path)]
    if len(paths) == 2 and max(map(rows_of, paths)) > LARGE_ROWS and all(path.suffix == ".parquet" for path in paths):
        if options.ids != "exact":
            raise DataError(f"ids: expected exact for tables of more than {LARGE_ROWS} rows, got {options.ids}")
        say("reading both tables once, side by side")
        prepare = PREPARATIONS[options.normalise]
        found = run_pass(open_large(paths[0]), open_large(paths[1]), options.rows, options.seed, prepare)
        return Joined(found.a, found.b, found.rows, found.stream, [*found.said, *_subset_said(found.rows, options)])
    first, second = (
        take(a, options.pooling_a, "a").only(options.layers_a),
        take(b, options.pooling_b, "b").only(options.layers_b),
    )
    first, second, said = join(first, second, options.assume_row_aligned, options.ids)
    total = len(first)
    if total <= options.rows:
        return Joined(first, second, total, None, said)
    stream = _stream(first, second, options)
    chosen = np.sort(np.random.default_rng(options.seed).choice(total, options.rows, replace=False))
    groups = options.groups
    if not isinstance(groups, str):
        raise DataError(
            f"groups: with {total} rows, above rows={options.rows}, give groups in the tables, not beside them"
        )
    return Joined(first.rows(chosen), second.rows(chosen), total, stream, [*said, *_subset_said(total, options)])


def _subset_said(total: int, options: Options) -> list[str]:
    if total <= options.rows:
        return []
    return [f"a subset of {options.rows} of {total} samples, seed {options.seed}, is used for all but linear CKA"]


def _stream(a: Features, b: Features, options: Options) -> StreamingCKA:
    x, y = a.layers[main_layer(a)], b.layers[main_layer(b)]
    prepare = PREPARATIONS[options.normalise]
    stream = StreamingCKA(blocks=20, block_rows=max(4, len(x) // 20))
    for start in range(0, len(x), CHUNK):
        pair = (as_table(a.name, x[start : start + CHUNK]), as_table(b.name, y[start : start + CHUNK]))
        stream.update(*(prepare(part) for part in pair))
    return stream


def _scores(
    x: Array, y: Array, plan: Plan, options: Options, joined: Joined, fit: Pairs | None, say: Say
) -> tuple[list[Score], dict[str, float]]:
    scores: list[Score] = []
    figures: dict[str, float] = {"samples": float(joined.total)}
    for name in options.measures:
        say(f"{name}: {plan.permutations} permutations of {len(x)} samples")
        if name == RETRIEVAL:
            found, medians = _both_directions(x, y, plan, options, fit)
            scores += found
            figures |= medians
            continue
        measure = find_measure(name)
        if name == "linear_cka" and joined.stream is not None:
            scores.append(score_stream(joined.stream, (x.shape[1], y.shape[1]), plan))
        elif measure.symmetric:
            scores.append(score_measure(measure, x, y, plan))
        else:
            scores.append(score_measure(measure, x, y, plan, "a -> b"))
            scores.append(score_measure(measure, y, x, plan, "b -> a"))
    return scores, figures


def _both_directions(
    x: Array, y: Array, plan: Plan, options: Options, fit: Pairs | None
) -> tuple[list[Score], dict[str, float]]:
    mapping = Mapping(options.map, csls=options.csls, ridge=options.ridge)
    there, medians = score_retrieval(x, y, plan, mapping, "a -> b", fit)
    back, others = score_retrieval(y, x, plan, mapping, "b -> a", None if fit is None else fit.turned())
    return there + back, medians | others


def score_stream(stream: StreamingCKA, widths: tuple[int, int], plan: Plan) -> Score:
    """Debiased linear CKA of streamed rows.

    The null of all orders of the rows has mean 0 and a known standard deviation; its p-value is bounded by Cantelli's
    inequality, and is absent where rows depend on each other.
    """
    n, value = stream.rows, stream.value()
    std = null_std(n)
    said: tuple[str, ...] = ()
    if plan.codes is not None:
        null = no_null()
        said = ("no p-value of all rows: rows of one group are not exchangeable",)
    else:
        tau = std * math.sqrt(1 / plan.alpha - 1)
        calibrated = float(np.clip((value - tau) / (1 - tau), 0, 1))
        null = Null(0.0, std, cantelli(value, std), tau, calibrated, value, -1.96 * std, 1.96 * std, 0)
    without = stream.jackknife()
    enough = len(without) > 1 and plan.codes is None
    bounds = interval(value, jackknife_se(without) if enough else math.nan, -1.0, 1.0)
    how = f"delete-a-block jackknife, {len(without)} stretches of rows" if enough else "none: rows depend on each other"
    details = Details(
        "linear_cka", "Linear CKA, debiased", "a - b", "linear kernel, unbiased HSIC, one exact pass", how, said, 0.0
    )
    words = "" if plan.codes is not None else "exact moments of all orders of rows; p is an upper bound (Cantelli)"
    return make_score(details, value, null, bounds, Shape(n, *widths), plan, words)


def _layer_maps(a: Features, b: Features, plan: Plan, options: Options, say: Say) -> tuple[LayerMap, ...]:
    if len(a.layers) == 1 and len(b.layers) == 1:
        return ()
    rows, reduced = _fewer_rows(len(a), plan, options)
    prepare = PREPARATIONS[options.normalise]
    sides = [
        {name: prepare(as_table(f"{table.name}, {name}", x[rows])) for name, x in table.layers.items()}
        for table in (a, b)
    ]
    found = []
    for name in options.layer_measures:
        say(
            f"{name}: {len(sides[0])} x {len(sides[1])} layers, {plan.permutations} permutations of {len(rows)} samples"
        )
        found.append(score_layers(find_measure(name), sides[0], sides[1], reduced))
    return tuple(found)


def _fewer_rows(n: int, plan: Plan, options: Options) -> tuple[Codes, Plan]:
    """A seeded subset, of whole groups where there are groups."""
    if n <= options.layer_rows:
        return np.arange(n), plan
    generator = np.random.default_rng(options.seed)
    if plan.codes is None:
        return np.sort(generator.choice(n, options.layer_rows, replace=False)), plan
    count = max(20, options.layer_rows * plan.groups() // n)
    chosen = generator.permutation(plan.groups())[:count]
    rows = np.flatnonzero(np.isin(plan.codes, chosen))
    return rows, plan.on(rows)


def _curve(x: Array, y: Array) -> tuple[tuple[int, float, float], ...]:
    """Mutual kNN by k, centred, with its value by chance."""
    ks = [k for k in CURVE if k <= (len(x) - 1) // 2]
    if not ks:
        return ()
    lists = [neighbours.nearest(centred(table), max(ks)) for table in (x, y)]
    return tuple(
        (k, neighbours.mutual(neighbours.cut(lists[0], k), neighbours.cut(lists[1], k)), k / (len(x) - 1)) for k in ks
    )
