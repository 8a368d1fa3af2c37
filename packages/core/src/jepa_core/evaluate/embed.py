"""What ``jepa embed`` does: a run's frozen features of a data set as one Parquet table, by any number of processes.

Each process writes the features of a run of consecutive samples to ``<out>.part-<rank>``; process 0 joins these files
in the order of the samples and renames the result, so that a table is either whole or not there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from jepa_core import __version__
from jepa_core.checks import hint
from jepa_core.contracts import Modality
from jepa_core.data.loader import choose_workers
from jepa_core.errors import ConfigError, DataError, UserError, value_errors_are_users
from jepa_core.evaluate.features import ENCODERS, LAST, POOLINGS
from jepa_core.evaluate.share import Job, Share, Wanted, share_of
from jepa_core.evaluate.table_writer import join_parts
from jepa_core.evaluation_source import SPLITS, Evaluable, LabelledSource, Split
from jepa_core.monitor.console import Console
from jepa_core.plugins import origin
from jepa_core.settings import RunSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import launch
from jepa_core.train.run import build_method

OPTIONS = ("out", "split", "layers", "pooling", "encoder")
TABLE_FORMAT = "1"
ROUND = 32
"""Batches between two agreements of the processes: an error of one is told by all of them this soon."""
_SECONDS_BETWEEN_LINES = 15.0
# A launcher ends all processes as soon as one has failed; process 0 must have told why by then.
_LAST_WORD_S = 2.0


@dataclass(frozen=True)
class Options:
    """What the command line asks for, besides settings.

    Attributes:
        out: the table, ``.parquet``.
        split: which samples.
        wanted: which features.
    """

    out: Path
    split: Split
    wanted: Wanted


def parse_options(given: Mapping[str, str]) -> Options:
    """The arguments of the verb itself, checked.

    Raises:
        ConfigError: a missing ``out``, an unknown split, pooling or encoder.
    """
    if "out" not in given:
        raise ConfigError("out: expected out=<table>.parquet, got none")
    out = Path(given["out"])
    if out.suffix != ".parquet":
        raise ConfigError(f"out: expected a file name that ends in .parquet, got {str(out)!r}")
    split = _one_of("split", given.get("split", "test"), SPLITS)
    encoder = _one_of("encoder", given.get("encoder", "online"), ENCODERS)
    pooling = tuple(_one_of("pooling", name, POOLINGS) for name in _names(given, "pooling", "mean"))
    return Options(out, cast(Split, split), Wanted(_names(given, "layers", LAST), pooling, encoder))


def _names(given: Mapping[str, str], key: str, default: str) -> tuple[str, ...]:
    text = given.get(key, default).strip().removeprefix("[").removesuffix("]")
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"{key}: expected names with commas between them, got {given[key]!r}")
    return names


def _one_of(key: str, name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ConfigError(f"{key}: expected one of {', '.join(names)}, got {name!r}{hint(name, names)}")
    return name


def run_embedding(config: RunSettings, modality: Modality, checkpoint: Path, run: str, options: Options) -> int:
    """Writes the table; every process calls it.

    Args:
        config: the run's settings. Features are computed in float32, unless ``trainer.precision`` is ``bf16``.
        modality: the plug-in.
        checkpoint: folder of the weights.
        run: the run's name, for the metadata.
        options: see there.

    Returns:
        The exit code, as :func:`jepa_core.train.run.run_training`.

    Raises:
        UserError: on process 0.
    """
    precision = "bf16" if config.trainer.precision == "bf16" else "fp32"
    started = launch.start(replace(config.trainer, precision=precision))
    console = Console(1, config.logging, enabled=started.rank == 0)
    try:
        with console:
            started.control.first(lambda: _make_room(options.out))
            job = started.control.agree(lambda: _job(config, modality, checkpoint, run, options, started))
            reason = "full precision, unless trainer.precision=bf16"
            rows = [row for row in started.choices if row[0] != "precision"]
            console.choices([("checkpoint", str(checkpoint), ""), *rows, ("precision", precision, reason)])
            _write_table(job, options.out, started, console)
    except UserError as error:
        started.accelerator.end_training()
        if started.rank == 0:
            raise
        time.sleep(_LAST_WORD_S)
        return error.exit_code
    started.accelerator.end_training()
    return 0


def _make_room(out: Path) -> None:
    """Refuses a table that exists, and removes what an interrupted embedding left beside it."""
    if out.exists():
        raise ConfigError(f"out: expected a new file, got {out}: it exists; remove it or choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.iterdir():
        if left.name.startswith(f"{out.name}.part-"):
            left.unlink()
    quarantine_of(out).unlink(missing_ok=True)


def quarantine_of(out: Path) -> Path:
    """The list of samples that could not be read, JSON lines ``{"sample_id", "reason"}``, beside a table."""
    return out.with_name(f"{out.name}.quarantine.jsonl")


def _job(
    config: RunSettings, modality: Modality, checkpoint: Path, run: str, options: Options, started: launch.Launch
) -> Job:
    with value_errors_are_users():
        source = _source(config, modality, options.split)
        workers, _ = choose_workers(config.data.workers, started.local_world)
    method = build_method(config, modality)
    checkpoints.load_into(method, checkpoints.load_model(checkpoint), str(checkpoint))
    method = cast(nn.Module, method).to(started.device).eval()
    metadata = _metadata(config, modality, checkpoint, run, options)
    return Job(
        cast(Any, method),
        source,
        options.wanted,
        started.device,
        config.seed,
        config.trainer.batch_size,
        workers,
        metadata,
    )


def _source(config: RunSettings, modality: Modality, split: Split) -> LabelledSource:
    if not isinstance(modality, Evaluable):
        raise ConfigError(f"modality {modality.name}: expected one with evaluation(config, split), it has none")
    source = modality.evaluation(config, split)
    if source is None or not len(source):
        raise ConfigError(f"split: expected samples, but nothing of the data is {split}; use split=all")
    return source


def _metadata(config: RunSettings, modality: Modality, checkpoint: Path, run: str, options: Options) -> dict[str, str]:
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    return {
        "format": TABLE_FORMAT,
        "version": __version__,
        "modality": modality.name,
        "plugin": origin(modality),
        "run": run,
        "step": str(manifest["step"]),
        "weights_sha256": manifest["sha256"]["model.safetensors"],
        "encoder": options.wanted.encoder,
        "split": options.split,
        "config": json.dumps(dataclasses.asdict(config)),
    }


# --------------------------------------------------------------------------------------------------------------------
# All processes together
# --------------------------------------------------------------------------------------------------------------------


def _write_table(job: Job, out: Path, started: launch.Launch, console: Console) -> None:
    control, total = started.control, len(job.source)
    shares = [share_of(total, rank, started.world, job.batch_size) for rank in range(started.world)]
    share = Share(job, shares[started.rank], _part(out, started.rank))
    # All take part in as many rounds as the largest share needs.
    batches = -(-len(shares[-1]) // job.batch_size)
    told_s = time.monotonic()
    for _ in range(-(-batches // ROUND)):
        control.agree(lambda: _advance(share, started))
        done = control.total([share.samples])[0]
        if time.monotonic() - told_s > _SECONDS_BETWEEN_LINES:
            console.message(f"{done} of {total} samples embedded")
            told_s = time.monotonic()
    counts = control.total([share.samples, share.rows, len(share.unreadable)])
    figures = dict(zip(("samples", "rows", "unreadable"), map(str, counts), strict=True))
    control.agree(lambda: share.close(figures))
    unreadable = [entry for entries in control.gather(share.unreadable) for entry in entries]
    written = [rank for rank, rows in enumerate(control.gather(share.rows)) if rows]
    control.first(lambda: _finish(out, [_part(out, rank) for rank in written], unreadable, figures))
    console.message(f"{out}: {counts[1]} vectors of {counts[0]} samples")
    if unreadable:
        console.warn(f"{len(unreadable)} of {total} samples could not be read: see {quarantine_of(out)}")


def _part(out: Path, rank: int) -> Path:
    return out.with_name(f"{out.name}.part-{rank}")


def _advance(share: Share, started: launch.Launch) -> None:
    with value_errors_are_users(), started.accelerator.autocast():
        share.advance(ROUND)


def _finish(out: Path, parts: list[Path], unreadable: list[tuple[str, str]], figures: Mapping[str, str]) -> None:
    """Process 0 alone: the list of what could not be read, then the table."""
    if unreadable:
        lines = [json.dumps({"sample_id": name, "reason": reason}) for name, reason in unreadable]
        quarantine_of(out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not parts:
        name, reason = unreadable[0]
        raise DataError(f"none of {len(unreadable)} samples could be read; the first is {name}: {reason}")
    if lacking := [part for part in parts if not part.is_file()]:
        raise DataError(f"{lacking[0]} was written by another machine: machines must share the folder of out")
    whole = parts[0]
    if len(parts) > 1:
        whole = out.with_name(f"{out.name}.part-joined")
        join_parts(parts, whole, figures)
    os.replace(whole, out)
    for part in parts:
        part.unlink(missing_ok=True)
