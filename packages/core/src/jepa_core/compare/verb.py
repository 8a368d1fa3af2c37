"""What ``jepa compare`` does: finds or makes both tables, compares them, prints and writes the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jepa_core.compare.inputs import SUFFIXES
from jepa_core.compare.options import Options, parse
from jepa_core.compare.page import Pictures
from jepa_core.compare.pairing import stem_of
from jepa_core.compare.registry import NAMES
from jepa_core.compare.result import Comparison
from jepa_core.errors import ConfigError

OWN = ("out", "pictures_a", "pictures_b")
SHORT = {"layers": ("layers_a", "layers_b"), "pooling": ("pooling_a", "pooling_b")}
EMBEDDING = ("split", "encoder")
"""Keys that only count where a run is embedded first."""
KEYS = (*OWN, *SHORT, *(field.name for field in fields(Options)), *EMBEDDING)
"""All keys of the command."""

DEFAULT_SPLIT = "test"

Embed = Callable[[Path, Path, Mapping[str, str], Sequence[str]], None]
"""Writes the features of a run: folder, table, options, settings."""

Draw = Callable[[Path, str, Sequence[str], Callable[[str], bool]], Mapping[str, bytes]]
"""Picture files of samples of a run by ``sample_id``: folder, split, settings, which of them are wanted."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        sources: the two tables or folders.
        out: folder of the result.
        options: of the comparison.
        pictures: folders of pictures, or None.
        embedding: ``split`` and ``encoder`` of runs that are embedded first.
        layered: sides, ``a`` and ``b``, whose layers were asked for; of runs of other sides the last one is embedded.
        settings: settings of either run, from ``a.key=value`` and ``b.key=value``.
    """

    sources: tuple[Path, Path]
    out: Path
    options: Options
    pictures: tuple[Path | None, Path | None]
    embedding: Mapping[str, str]
    settings: tuple[list[str], list[str]]
    layered: frozenset[str] = frozenset()


def read_arguments(arguments: Sequence[str], usage: str) -> Request:
    """The request in ``<a> <b> key=value ...``.

    Raises:
        ConfigError: not two tables, an unknown key, a value that cannot be.
    """
    sources = [Path(argument) for argument in arguments if "=" not in argument or Path(argument).exists()]
    pairs = [argument.partition("=") for argument in arguments if Path(argument) not in sources]
    if len(sources) != 2:
        raise ConfigError(f"expected two tables or runs, got {len(sources)}; usage: {usage}")
    given: dict[str, str] = {}
    settings: tuple[list[str], list[str]] = ([], [])
    for key, _, text in pairs:
        if key[:2] in ("a.", "b."):
            settings[key[0] == "b"].append(f"{key[2:]}={text}")
            continue
        for name in SHORT.get(key, (key,)):
            given[name] = text
    own = {key: given.pop(key) for key in OWN if key in given}
    embedding = {key: given.pop(key) for key in EMBEDDING if key in given}
    pictures = tuple(_folder(key, own.get(key)) for key in ("pictures_a", "pictures_b"))
    out = Path(own.get("out", "comparison"))
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out: expected a folder, got the file {out}")
    layered = frozenset(side for side in "ab" if f"layers_{side}" in given)
    folders = (pictures[0], pictures[1])
    return Request((sources[0], sources[1]), out, parse(given), folders, embedding, settings, layered)


def keys_page() -> str:
    """The keys of a comparison with their defaults, and the names of the measures."""
    held = [(field.name, field.default) for field in fields(Options)]
    shown = [(name, ",".join(value) if isinstance(value, tuple) else value) for name, value in held]
    lines = [f"  {name}={value}" for name, value in shown]
    others = ", ".join(key for key in KEYS if key not in dict(held))
    return "\n".join(["keys and defaults:", *lines, f"others: {others}", f"measures: {', '.join(NAMES)}"])


def _folder(key: str, text: str | None) -> Path | None:
    if text is None:
        return None
    if not Path(text).is_dir():
        raise ConfigError(f"{key}: expected a folder of pictures, got {text!r}: no such folder")
    return Path(text)


def is_run(path: Path) -> bool:
    """Whether a folder is a run or a checkpoint rather than a folder of Parquet files."""
    return path.is_dir() and ((path / "checkpoints").is_dir() or (path / "manifest.json").is_file())


def run_comparison(
    request: Request, embed: Embed, say: Callable[[str], None], draw: Draw | None = None
) -> tuple[Comparison, Path]:
    """Compares and writes ``result.json``, ``result.csv`` and ``compare.html``; returns the page's path as well.

    Args:
        request: see there.
        embed: see :data:`Embed`.
        say: is told what is being done.
        draw: see :data:`Draw`; the page shows pictures of a run's samples where no folder of them is named. None =
            there they are named only.
    """
    from jepa_core.compare.run import compare

    _check_embedding(request)
    tables: list[Any] = []
    for side, source in zip("ab", request.sources, strict=True):
        tables.append(_table(request, side, source, embed, say) if is_run(source) else source)
    found = _named_as_runs(compare(tables[0], tables[1], request.options, say), request.sources)
    pictures = [_pictures(request, side, found, draw, say) for side in range(2)]
    return found, found.save(request.out, pictures)


def _pictures(
    request: Request, side: int, found: Comparison, draw: Draw | None, say: Callable[[str], None]
) -> Pictures | None:
    """The folder that was named; else, of a run, what it draws of the samples that the page shows."""
    source, names = request.sources[side], {name for example in found.examples for name in example.shown(side)}
    if request.pictures[side] is not None or draw is None or not is_run(source) or not names:
        return request.pictures[side]
    named = stem_of if request.options.ids == "stem" else str
    say(f"drawing {len(names)} samples of {source}")
    try:
        split = request.embedding.get("split", DEFAULT_SPLIT)
        drawn = draw(source, split, request.settings[side], lambda name: named(name) in names)
        return {named(name): picture for name, picture in drawn.items()}
    except Exception as error:  # of a plug-in's drawing: the comparison is made, and its result must not be lost
        say(f"the page shows no pictures of {source}: {' '.join(str(error).split()) or type(error).__name__}")
        return None


def _named_as_runs(found: Comparison, sources: tuple[Path, Path]) -> Comparison:
    """Tables made of runs have the names of the runs, as long as that tells them apart."""
    names = [source.resolve().name for source in sources]
    if names[0] == names[1]:
        return found
    shown = [
        name if is_run(source) else held
        for name, source, held in zip(names, sources, (found.name_a, found.name_b), strict=True)
    ]
    return replace(found, name_a=shown[0], name_b=shown[1])


def _check_embedding(request: Request) -> None:
    runs = [is_run(source) for source in request.sources]
    for side, run, settings in zip("ab", runs, request.settings, strict=True):
        if settings and not run:
            raise ConfigError(f"{side}.{settings[0].partition('=')[0]}: settings are of a run, and {side} is a table")
    if request.embedding and not any(runs):
        raise ConfigError(f"{next(iter(request.embedding))}: only counts where a run is embedded first, got two tables")
    for source, run in zip(request.sources, runs, strict=True):
        if not run and source.suffix not in SUFFIXES and not source.is_dir():
            raise ConfigError(f"expected a run, a checkpoint or a table ({', '.join(SUFFIXES)}), got {str(source)!r}")


def _table(request: Request, side: str, source: Path, embed: Embed, say: Callable[[str], None]) -> Path:
    """The table of a run, embedded anew: weights or data may have changed since the last time."""
    out = request.out / f"{side}-{source.resolve().name}.parquet"
    out.unlink(missing_ok=True)
    options = dict(request.embedding)
    if side in request.layered:
        options["layers"] = ",".join(getattr(request.options, f"layers_{side}"))
    if pooling := getattr(request.options, f"pooling_{side}"):
        options["pooling"] = pooling
    say(f"embedding {source}")
    embed(source, out, options, request.settings[side == "b"])
    return out
