"""Verbs of ``jepa`` on tables of embeddings: write one, probe them, compare two, look up neighbours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jepa_core.errors import ConfigError, DataError
from jepa_core.request import asks_for_help, configure_as, folder, helped, run_and_checkpoint, show, take


def embed(arguments: Sequence[str]) -> int:
    """Writes frozen features of a data set as a table; see :mod:`jepa_core.evaluate.embed`."""
    usage = (
        "jepa embed <run folder or checkpoint folder> out=<table>.parquet [split=train|test|all] "
        "[layers=last,block_2|all] [pooling=mean|max|tokens] [encoder=online|target] [key=value ...]"
    )
    if helped(arguments, usage):
        return 0
    from jepa_core.evaluate.embed import OPTIONS, parse_options, run_embedding

    named = [argument if "=" in argument else f"run={argument}" for argument in arguments]
    own, overrides = take(named, "run", *OPTIONS)
    run_dir, checkpoint = run_and_checkpoint(folder(own, usage))
    options = parse_options(own)
    request = configure_as(checkpoint / "config.yaml", overrides)
    return run_embedding(request.settings, request.modality, checkpoint, run_dir.resolve().name, options)


def compare(arguments: Sequence[str]) -> int:
    """Says whether two encoders see the same structure; see :mod:`jepa_core.compare`."""
    usage = (
        "jepa compare <a> <b> [out=comparison] [measures=linear_cka,mutual_knn,...] [layers=all] [groups=auto|none] "
        "[mode=paired|class|spectrum] [key=value ...]   a, b: runs, checkpoints, .parquet, .npy, .npz, .safetensors; "
        "a.key=value and b.key=value are settings of a run"
    )
    if asks_for_help(arguments):
        from jepa_core.compare.verb import keys_page

        show(f"usage: {usage}\n{keys_page()}")
        return 0
    from jepa_core.compare.verb import read_arguments, run_comparison

    request = read_arguments(arguments, usage)
    found, page = run_comparison(request, _embed_run, _say, _draw_run)
    for text in found.warnings:
        print(f"jepa: {text}", file=sys.stderr)
    show("\n".join(part for part in (found.table() if found.scores else "", found.verdict()[1], str(page)) if part))
    return 0


def _say(text: str) -> None:
    print(f"jepa: {text}", file=sys.stderr, flush=True)


def _draw_run(source: Path, split: str, overrides: Sequence[str], wanted: Callable[[str], bool]) -> Mapping[str, bytes]:
    """Pictures of samples of a run, for a comparison."""
    from jepa_core.evaluate.sample_rows import draw_by_name

    _, checkpoint = run_and_checkpoint(source)
    request = configure_as(checkpoint / "config.yaml", overrides)
    return draw_by_name(request.modality, request.settings, split, wanted).png


def _embed_run(source: Path, out: Path, options: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Embeds a run for a comparison; as ``jepa embed`` does."""
    from jepa_core.evaluate.embed import parse_options, run_embedding

    run_dir, checkpoint = run_and_checkpoint(source)
    request = configure_as(checkpoint / "config.yaml", overrides)
    run = run_dir.resolve().name
    code = run_embedding(
        request.settings, request.modality, checkpoint, run, parse_options({**options, "out": str(out)})
    )
    if code:
        raise DataError(f"{source}: embedding ended with exit code {code}")


PROBE_TABLES = (
    "jepa probe <table>.parquet [<control>.parquet ...] [test=<table>.parquet,...] [folds=5|groups] "
    "[heads=linear,knn,knn_standardised] [layer=...] [pooling=...] [out=<file>.json]"
)


def names_table(argument: str) -> bool:
    """Whether an argument without a key is an embedding table: a Parquet file, or a folder of them."""
    if "=" in argument and not Path(argument).exists():
        return False
    path = Path(argument)
    return path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))


def probe_tables(arguments: Sequence[str]) -> int:
    """Probes embedding tables; see :mod:`jepa_core.evaluate.table_probe`."""
    from jepa_core.evaluate.table_probe import OPTIONS, run_table_probe

    tables = [argument for argument in arguments if names_table(argument)]
    rest = [argument for argument in arguments if argument not in tables]
    own, unknown = take(rest, *OPTIONS)
    if unknown:
        raise ConfigError(
            f"{unknown[0].partition('=')[0]}: expected a .parquet table or a key of the probe, got {unknown[0]!r}; "
            f"usage: {PROBE_TABLES}"
        )
    return run_table_probe(tables, own)


def neighbours(arguments: Sequence[str]) -> int:
    """Shows the nearest samples in an embedding table; see :mod:`jepa_core.evaluate.nearest`."""
    usage = (
        "jepa neighbours <table>.parquet [of=<sample_id>,...] [k=5] [metric=cosine|euclidean] [groups=any|other] "
        "[layer=...] [pooling=...] [out=<file>.json or -]"
    )
    if helped(arguments, usage):
        return 0
    from jepa_core.evaluate.nearest import OPTIONS, run_neighbours

    named = [argument if "=" in argument else f"table={argument}" for argument in arguments]
    own, unknown = take(named, *OPTIONS)
    if unknown:
        raise ConfigError(f"{unknown[0].partition('=')[0]}: unknown key; usage: {usage}")
    return run_neighbours(own)


# --------------------------------------------------------------------------------------------------------------------
# Their keys
# --------------------------------------------------------------------------------------------------------------------


def embed_keys() -> Sequence[str]:
    """Keys of :func:`embed` besides the settings."""
    from jepa_core.evaluate.embed import OPTIONS

    return ("run", *OPTIONS)


def compare_keys() -> Sequence[str]:
    """Keys of :func:`compare`."""
    from jepa_core.compare.verb import KEYS

    return KEYS


def neighbours_keys() -> Sequence[str]:
    """Keys of :func:`neighbours`; the table is named without one."""
    from jepa_core.evaluate.nearest import OPTIONS

    return [key for key in OPTIONS if key != "table"]


def probe_keys() -> Sequence[str]:
    """Keys of the verb ``probe`` besides the settings."""
    from jepa_core.evaluate.table_probe import OPTIONS

    return ("run", *OPTIONS)
