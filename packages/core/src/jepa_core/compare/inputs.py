"""Tables of embeddings to compare: what ``jepa embed`` writes, anybody's Parquet, .npy, .npz and .safetensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.checks import hint
from jepa_core.data.archives import BROKEN, read_npy, read_npz
from jepa_core.errors import ConfigError, DataError

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from jepa_core.evaluate.tables import EmbeddingTable

Column = NDArray[np.object_]
SUFFIXES = (".parquet", ".npy", ".npz", ".safetensors")
TIMES = ("timestamp", "time", "timestamps", "frame", "frame_index")
COLUMNS = ("sample_id", "group", "label")


@dataclass(frozen=True)
class Features:
    """Layers of one encoder over the same samples; N rows.

    Attributes:
        layers: ``[N, D]`` by name, in the order of the file; widths may differ.
        sample_id: text ``[N]``; None = rows have no names.
        group, label: ``[N]``; None = not given.
        metadata: what made them.
        name: for people and messages.
        timed: whether the file has a column of times, so that rows may follow one another.
    """

    layers: Mapping[str, NDArray[Any]]
    sample_id: Column | None = None
    group: Column | None = None
    label: Column | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    name: str = "table"
    timed: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.layers.values())))

    def rows(self, places: NDArray[np.intp]) -> Features:
        """These rows only."""
        columns: dict[str, Any] = {}
        for column in COLUMNS:
            held = getattr(self, column)
            columns[column] = None if held is None else held[places]
        return replace(self, layers={name: x[places] for name, x in self.layers.items()}, **columns)

    def only(self, names: Sequence[str]) -> Features:
        """These layers only; ``all`` stands for every one.

        Raises:
            ConfigError: there is no such layer.
        """
        if "all" in names:
            return self
        known = list(self.layers)
        chosen = {}
        for name in names:
            found = [layer for layer in known if layer == name or layer.partition("/")[0] == name]
            if not found:
                raise ConfigError(
                    f"layers: expected some of {', '.join(known)} of {self.name}, got {name!r}{hint(name, known)}"
                )
            chosen.update({layer: self.layers[layer] for layer in found})
        return replace(self, layers=chosen)


def take(given: Any, pooling: str, name: str) -> Features:
    """Features of whatever may be compared: features, a path, an embedding table or an array."""
    if isinstance(given, Features):
        return given
    if isinstance(given, str | Path):
        return load(given, pooling or None)
    if hasattr(given, "sample_id") and hasattr(given, "vectors"):
        return from_table(given.select(pooling=pooling) if pooling else given)
    return from_array(given, name)


def from_array(x: Any, name: str = "table", **columns: Any) -> Features:
    """Features from an array ``[N, D]`` and, by name, ``sample_id``, ``group``, ``label`` of N entries.

    Raises:
        DataError: another shape, or columns of another length.
    """
    found = np.asarray(x)
    _check_array(found, name)
    return Features({"features": found}, name=name, **_columns(columns, len(found), name))


def _check_array(x: NDArray[Any], name: str) -> None:
    if x.ndim != 2 or not x.shape[1] or x.dtype.kind not in "fiu":
        raise DataError(f"{name}: expected numbers [samples, features], got {x.dtype} of shape {list(x.shape)}")


def _columns(given: Mapping[str, Any], rows: int, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column, values in given.items():
        if values is None:
            continue
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
        if column not in COLUMNS or len(listed) != rows:
            raise DataError(f"{name}: expected {rows} entries of {column}, got {len(listed)}")
        if column == "sample_id":
            listed = [str(value) for value in listed]
        found[column] = np.array([*listed, None], dtype=object)[:-1]
    return found


def from_table(table: EmbeddingTable, name: str | None = None) -> Features:
    """Features from an embedding table; its rows may be of several layers and poolings.

    Only samples that every layer has are kept, in the order of the first layer, with a warning where some are not.

    Raises:
        DataError: rows of single sites, or a sample with several rows of one layer.
    """
    if table.site is not None and any(site is not None for site in table.site):
        raise DataError(
            f"{table.origin}: expected a row for each sample, got rows of single sites; choose pooling=mean"
        )
    parts = {key: table.rows(np.flatnonzero(mask)) for key, mask in _kinds(table).items()}
    places = {}
    for key, part in parts.items():
        places[key] = {sample: row for row, sample in enumerate(part.sample_id)}
        if len(places[key]) < len(part):
            raise DataError(
                f"{table.origin}: expected one row a sample of {key}, got {len(part) - len(places[key])} more"
            )
    first = next(iter(parts.values()))
    shared = [sample for sample in first.sample_id if all(sample in place for place in places.values())]
    if len(shared) < max(map(len, parts.values())):
        warnings.warn(f"{table.origin}: {len(shared)} samples have every layer, others are left out", stacklevel=2)
    layers = {key: part.vectors[[places[key][sample] for sample in shared]] for key, part in parts.items()}
    kept = first.rows(np.array([next(iter(places.values()))[sample] for sample in shared], dtype=np.intp))
    return Features(
        layers, kept.sample_id, kept.group, kept.label, dict(table.metadata), name or Path(table.origin).stem
    )


def _kinds(table: EmbeddingTable) -> dict[str, NDArray[np.bool_]]:
    """The rows of each layer, named ``layer`` or, where there are several poolings, ``layer/pooling``."""
    unnamed = np.full(len(table), "features", dtype=object)
    layer = unnamed if table.layer is None else table.layer
    names = layer
    if table.pooling is not None and len(set(table.pooling.tolist())) > 1:
        both = [f"{a}/{b}" for a, b in zip(layer, table.pooling, strict=True)]
        names = np.array([*both, None], dtype=object)[:-1]
    return {str(name): names == name for name in dict.fromkeys(names.tolist())}


def load(path: str | Path, pooling: str | None = None) -> Features:
    """Reads a file of features.

    ``.parquet``, or a folder of them: see :func:`jepa_core.evaluate.tables.read_table`. ``.npy``: one array
    ``[N, D]``. ``.npz`` and ``.safetensors``: every array ``[N, D]`` is a layer; ``sample_id``, ``group`` and
    ``label`` ``[N]`` name its rows.

    Raises:
        DataError: no such file, another kind of file, nothing in it that can be compared.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: expected a table ({', '.join(SUFFIXES)}) or the folder of a run, got none")
    if path.suffix == ".parquet" or path.is_dir():
        return _load_parquet(path, pooling)
    try:
        if path.suffix == ".npy":
            return from_array(read_npy(path), path.stem)
        if path.suffix == ".npz":
            return _from_arrays(read_npz(path), path, {})
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: expected a whole {path.suffix} file, got {error}") from None
    raise DataError(f"{path}: expected a table that ends in {', '.join(SUFFIXES)}, got {path.suffix or 'no ending'}")


def _load_parquet(path: Path, pooling: str | None) -> Features:
    import pyarrow.parquet as pq

    from jepa_core.evaluate.tables import read_table

    found = from_table(read_table(path, pooling=pooling), path.stem)
    file = next(iter(sorted(path.glob("*.parquet")))) if path.is_dir() else path
    names = [name.lower() for name in pq.read_schema(file).names]
    return replace(found, timed=any(name in TIMES for name in names))


def _load_safetensors(path: Path) -> Features:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as held:
            arrays = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
            return _from_arrays(arrays, path, held.metadata() or {})
    except (SafetensorError, *BROKEN) as error:
        raise DataError(f"{path}: expected a whole .safetensors file, got {error}") from None


def _from_arrays(arrays: Mapping[str, NDArray[Any]], path: Path, metadata: Mapping[str, str]) -> Features:
    layers = {name: x for name, x in arrays.items() if name not in COLUMNS and x.ndim == 2}
    if not layers:
        raise DataError(f"{path}: expected arrays [samples, features], got {', '.join(arrays) or 'nothing'}")
    for name, x in layers.items():
        _check_array(x, f"{path}: {name}")
    rows = {len(x) for x in layers.values()}
    if len(rows) > 1:
        raise DataError(f"{path}: expected layers of the same samples, got {sorted(rows)} rows")
    columns = {name: arrays[name] for name in COLUMNS if name in arrays}
    return Features(layers, metadata=dict(metadata), name=path.stem, **_columns(columns, rows.pop(), str(path)))
