"""The rows that retrieval's map is fitted on, where they are given: tables of other samples than those compared."""

from __future__ import annotations

from collections.abc import Callable

from jepa_core.compare.arrays import Array, as_table
from jepa_core.compare.inputs import Features, take
from jepa_core.compare.options import Options
from jepa_core.compare.pairing import find_groups, join
from jepa_core.compare.scoring import Pairs
from jepa_core.errors import DataError


def main_layer(table: Features) -> str:
    """The layer that scores are of: ``last``, or the last in the file. Never the one that fits best."""
    names = list(table.layers)
    return next((name for name in names if name.partition("/")[0] == "last"), names[-1])


def fit_pairs(
    options: Options, compared: tuple[Features, Features], layers: tuple[str, str], prepare: Callable[[Array], Array]
) -> Pairs | None:
    """The rows of ``fit_a`` and ``fit_b``; None where there are none.

    Args:
        options: name the tables.
        compared: what is compared; a sample of it must not be fitted on.
        layers: those that scores are of.
        prepare: what is done to the features that are compared.

    Raises:
        DataError: a sample that is compared, another layer, other widths.
    """
    if isinstance(options.fit_a, str) and not options.fit_a:
        return None
    first, second, _ = join(
        take(options.fit_a, options.pooling_a, "fit_a").only(options.layers_a),
        take(options.fit_b, options.pooling_b, "fit_b").only(options.layers_b),
        options.assume_row_aligned,
        options.ids,
    )
    x, y = (
        prepare(_layer(key, table, other, layer))
        for key, table, other, layer in zip(("fit_a", "fit_b"), (first, second), compared, layers, strict=True)
    )
    return Pairs(x, y, find_groups(first, second, "auto")[0])


def _layer(key: str, table: Features, compared: Features, layer: str) -> Array:
    """The layer of a table to fit on, if it is one of other samples and of the same encoder's features."""
    # Both are joined already: their names are alike as options.ids wants them.
    if table.sample_id is not None and compared.sample_id is not None:
        both = set(table.sample_id.tolist()) & set(compared.sample_id.tolist())
        if both:
            raise DataError(
                f"{key}: expected other samples than those compared, got {len(both)} of them, such as {min(both)!r}"
            )
    name = layer if len(compared.layers) > 1 else main_layer(table)
    if name not in table.layers:
        raise DataError(f"{key}: expected the layer {name}, got {', '.join(table.layers)}")
    width, wanted = table.layers[name].shape[1], compared.layers[layer].shape[1]
    if width != wanted:
        raise DataError(f"{key}: expected {wanted} features as in {compared.name}, got {width}")
    return as_table(table.name, table.layers[name])
