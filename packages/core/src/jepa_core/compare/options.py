"""What a comparison may be asked, from Python or from the command line, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from jepa_core.checks import hint
from jepa_core.compare.pairing import PREPARATIONS
from jepa_core.compare.registry import DEFAULT, MEASURES, NAMES, RETRIEVAL
from jepa_core.errors import ConfigError

IDS = ("exact", "stem")
MODES = ("paired", "class", "spectrum")
MAPS = ("ridge", "procrustes", "cca")
GRAM_ROWS = 20_000
"""Rows beyond which matrices of rows by rows do not fit; only neighbours go further."""
NEIGHBOUR_ROWS = 100_000


@dataclass(frozen=True)
class Options:
    """What is compared and how.

    Attributes:
        measures: names; see :data:`jepa_core.compare.registry.MEASURES`, and ``retrieval``.
        mode: ``paired``; ``class`` (no pairs, labels of one vocabulary); ``spectrum`` (no pairs, no labels).
        permutations: of the null.
        alpha: level of the thresholds.
        seed: of orders, halves, splits and subsets.
        groups: ``auto`` (those of the tables), ``none`` (rows), or a group for each joined row.
        rows: at most so many rows, a seeded subset beyond; linear CKA's value is of all rows all the same.
        k: neighbours.
        layers_a, layers_b: names, or ``all``.
        layer_rows: as ``rows``, for the maps of all layers with all layers.
        layer_measures: what those maps are of.
        pooling_a, pooling_b: of tables that have several; empty = all there are, as layers.
        normalise: ``none`` or ``l2``, of every row.
        ridge: of CCA, in units of the covariance's mean eigenvalue.
        rbf_scale: bandwidth in median distances.
        map: of retrieval: ``ridge``, ``procrustes`` or ``cca`` (both tables to their canonical directions).
        csls: neighbours that retrieval corrects hubs by; 0 = plain cosine.
        fit_a, fit_b: tables of other samples, as ``a`` and ``b`` themselves, that retrieval's map is fitted on; without
            them half of the samples are used for it.
        ids: how samples are named alike: ``exact``, or ``stem`` (without folder and ending).
        assume_row_aligned: the user's word that row i of both tables is the same sample.
    """

    measures: tuple[str, ...] = DEFAULT
    mode: str = "paired"
    permutations: int = 500
    alpha: float = 0.05
    seed: int = 0
    groups: Any = "auto"
    rows: int = 2000
    k: int = 10
    layers_a: tuple[str, ...] = ("all",)
    layers_b: tuple[str, ...] = ("all",)
    layer_rows: int = 1000
    layer_measures: tuple[str, ...] = ("linear_cka", "mutual_knn")
    pooling_a: str = ""
    pooling_b: str = ""
    normalise: str = "none"
    ridge: float = 0.0
    rbf_scale: float = 1.0
    map: str = "ridge"
    csls: int = 0
    fit_a: Any = ""
    fit_b: Any = ""
    ids: str = "exact"
    assume_row_aligned: bool = False

    def __post_init__(self) -> None:
        for name in self.measures:
            _one_of("measures", name, NAMES)
        for name in self.layer_measures:
            _one_of("layer_measures", name, tuple(MEASURES))
        _one_of("mode", self.mode, MODES)
        _one_of("ids", self.ids, IDS)
        _one_of("map", self.map, MAPS)
        _one_of("normalise", self.normalise, tuple(PREPARATIONS))
        _at_least(self, permutations=19, rows=20, layer_rows=20, k=1, seed=0, csls=0, ridge=0)
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha: expected a number between 0 and 1, got {self.alpha}")
        if not self.rbf_scale > 0:
            raise ConfigError(f"rbf_scale: expected a number above 0, got {self.rbf_scale}")
        if not self.measures and self.mode == "paired":
            raise ConfigError(f"measures: expected some of {', '.join(NAMES)}, got none")
        self._check_fit()
        neighbours = all("knn" in name for name in self.measures)
        most = NEIGHBOUR_ROWS if neighbours else GRAM_ROWS
        if self.rows > most:
            raise ConfigError(
                f"rows: expected at most {most} for these measures, got {self.rows}; all rows count for the value of "
                "linear_cka in any case"
            )

    def _check_fit(self) -> None:
        given = [isinstance(table, str) and not table for table in (self.fit_a, self.fit_b)].count(False)
        if given == 1:
            raise ConfigError("fit_a, fit_b: expected a table of either side to fit the map of retrieval on, got one")
        if given and (RETRIEVAL not in self.measures or self.mode != "paired"):
            raise ConfigError("fit_a, fit_b: only count where retrieval is measured; add it to measures")


def _one_of(key: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ConfigError(f"{key}: expected one of {', '.join(names)}, got {name!r}{hint(name, names)}")


def _at_least(options: Options, **least: float) -> None:
    for key, low in least.items():
        if not getattr(options, key) >= low:
            raise ConfigError(f"{key}: expected {low:g} or more, got {getattr(options, key)!r}")


def parse(given: Mapping[str, str]) -> Options:
    """Options from text, as the command line has them; lists have commas between their names.

    Raises:
        ConfigError: an unknown key, or text that is no such value.
    """
    known = {field.name: field for field in fields(Options)}
    found: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            raise ConfigError(f"{key}: unknown key; expected some of {', '.join(known)}{hint(key, list(known))}")
        found[key] = _value(key, getattr(Options, key), text)
    return replace(Options(), **found)


def _value(key: str, default: Any, text: str) -> Any:
    text = text.strip()
    if isinstance(default, tuple):
        names = text.removeprefix("[").removesuffix("]").split(",")
        return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key}: expected true or false, got {text!r}")
        return text.lower() == "true"
    if isinstance(default, int | float):
        kind = type(default)
        try:
            return kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{key}: expected {wanted}, got {text!r}") from None
    return text
