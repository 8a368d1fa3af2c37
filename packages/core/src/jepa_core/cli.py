"""The command ``jepa``: one verb, then ``key=value`` for everything else.

Nothing slow is imported before it is needed, so that help and most errors come at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jepa_core.errors import ConfigError, DataError, UserError, print_error, resource_error, value_errors_are_users
from jepa_core.request import (
    Request,
    asks_for_help,
    configure,
    configure_as,
    folder,
    helped,
    run_and_checkpoint,
    show,
    take,
)
from jepa_core.table_verbs import (
    PROBE_TABLES,
    compare,
    compare_keys,
    embed,
    embed_keys,
    names_table,
    neighbours,
    neighbours_keys,
    probe_keys,
    probe_tables,
)

TOGETHER = ("train", "embed")
"""Verbs that several processes share; what a launcher starts besides process 0 leaves all others to it."""
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
# accelerate launch answers Ctrl-C with a traceback and leaves before its child has saved. A launcher that therefore
# ignores it (as the Makefile does) hands that down to its children, and says by this variable that they are to listen.
LAUNCHER_LEAVES_CTRL_C = "JEPA_LAUNCHER_LEAVES_CTRL_C"


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one verb; returns the exit code. What the user can mend is one line on stderr."""
    if os.environ.get(LAUNCHER_LEAVES_CTRL_C) and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _dispatch(list(arguments))
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print("\njepa: interrupted; a run that had not begun its first step has saved nothing", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        lacking = resource_error(error)
        if lacking is None:
            raise
        lacking.__cause__ = error
        return print_error(lacking)


def _dispatch(arguments: list[str]) -> int:
    from jepa_core import __version__
    from jepa_core.checks import hint

    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        from jepa_core.help import overview

        show(overview({verb: entry.summary for verb, entry in VERBS.items()}))
        return 0
    if name == "--version":
        print(f"jepa-core {__version__}")
        return 0
    if name not in VERBS:
        raise ConfigError(f"expected a verb ({', '.join(VERBS)}), got {name!r}{hint(name, list(VERBS))}")
    if name not in TOGETHER and int(os.environ.get("RANK", "0")) > 0:
        return 0  # process 0 does it; twice at once, both would write the same file
    return VERBS[name].run(rest)


def _helped(verb: str, arguments: Sequence[str], usage: str) -> bool:
    """Prints help when it is asked for: all keys once a modality is named, else the usage and the modalities."""
    from jepa_core.plugins import installed

    if not asks_for_help(arguments):
        return False
    overrides = [argument for argument in arguments if argument not in ("-h", "--help")]
    if any(argument.startswith("modality=") for argument in overrides):
        from jepa_core.help import keys_page

        request = configure(take(overrides, "out")[1])
        show(keys_page(verb, request.modality, request.settings))
    else:
        print(f"usage: {usage}\nmodalities: {', '.join(installed()) or 'none is installed'}")
    return True


def train(arguments: Sequence[str]) -> int:
    """Trains, probes and reports; see :func:`jepa_core.train.run.run_training`."""
    usage = (
        "jepa train modality=<name> [recipe=<name or file.yaml>] [key=value ...]   (--help with a modality: all keys)"
    )
    if _helped("train", arguments, usage):
        return 0
    request = configure(arguments)
    from jepa_core.config import to_yaml
    from jepa_core.train.run import run_training

    return run_training(request.settings, request.modality, to_yaml(request.settings))


def masks(arguments: Sequence[str]) -> int:
    """Draws the masks of a training batch into PNG files and prints what those of many batches come to."""
    usage = (
        "jepa masks modality=<name> [recipe=...] [key=value ...] [out=masks.png]   (--help with a modality: all keys)"
    )
    if _helped("masks", arguments, usage):
        return 0
    own, overrides = take(arguments, "out")
    out = Path(own.get("out", "masks.png"))
    if out.suffix != ".png":
        raise ConfigError(f"out: expected a file name that ends in .png, got {str(out)!r}")
    request = configure(overrides)
    from jepa_core.draw_masks import draw_masks

    draw_masks(request.settings, request.modality, out)
    return 0


def probe(arguments: Sequence[str]) -> int:
    """Probes a run's frozen features against an untrained encoder and raw features, or tables of embeddings."""
    usage = (
        f"jepa probe <run folder or checkpoint folder> [key=value ...] [out=<run>/probe.json]\n   or: {PROBE_TABLES}"
    )
    if helped(arguments, usage):
        return 0
    if any(names_table(argument) for argument in arguments):
        return probe_tables(arguments)
    arguments = [argument if "=" in argument else f"run={argument}" for argument in arguments]
    own, overrides = take(arguments, "run", "out")
    run_dir, checkpoint = run_and_checkpoint(folder(own, usage))
    request = configure_as(checkpoint / "config.yaml", overrides)
    table = _probe(request, checkpoint)
    out = Path(own.get("out", run_dir / "probe.json"))
    from jepa_core.train.outcome import probe_summary, write_json

    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {"checkpoint": str(checkpoint), **probe_summary(table)})
    print(out)
    return 0


def _probe(request: Request, checkpoint: Path) -> Any:
    """The probe's table, printed."""
    import torch

    from jepa_core.monitor.console import Console
    from jepa_core.train import checkpoint as checkpoints
    from jepa_core.train.launch import choose_device
    from jepa_core.train.outcome import show_probe
    from jepa_core.train.run import build_method

    settings, modality = request.settings, request.modality
    device_name, reason = choose_device(settings.trainer.device, 1)
    device = torch.device(device_name)
    trained = build_method(settings, modality)
    checkpoints.load_into(trained, checkpoints.load_model(checkpoint), str(checkpoint))
    untrained = build_method(settings, modality)
    console = Console(1, settings.logging, enabled=True)
    with console:
        console.choices([("checkpoint", str(checkpoint), ""), ("device", device_name, reason)])
        with value_errors_are_users(DataError):
            table = modality.probe(settings, trained.to(device).eval(), untrained.to(device).eval(), device)
        if table is None:
            raise ConfigError(
                f"run: expected a run whose modality can probe it, got {checkpoint}: nothing to probe with"
            )
        show_probe(console, table)
    return table


def report(arguments: Sequence[str]) -> int:
    """Writes a run's ``report.html`` anew, or several runs side by side; see :mod:`jepa_core.report.verb`."""
    usage = "jepa report <run folder> [<run folder> ...] [out=comparison.html]   (out: of several runs side by side)"
    if helped(arguments, usage):
        return 0
    from jepa_core.report.verb import run_report

    print(run_report(arguments, usage))
    return 0


def list_installed(arguments: Sequence[str]) -> int:
    """Lists modalities, recipes, probes, where each comes from, and load failures; ``.py`` files too where named."""
    from jepa_core.plugins import is_file

    wrong = [argument for argument in arguments if argument not in ("-h", "--help") and not is_file(argument)]
    if wrong:
        raise ConfigError(f"jepa list takes no arguments but .py files, got {wrong[0]!r}")
    from jepa_core.help import listing

    show("usage: jepa list [<file>.py ...]" if asks_for_help(arguments) else listing(arguments))
    return 0


def completion(arguments: Sequence[str]) -> int:
    """Prints a shell's completion script; see :mod:`jepa_core.completion`."""
    usage = "jepa completion bash|zsh|fish   (now: source <(jepa completion bash))"
    if helped(arguments, usage):
        return 0
    if len(arguments) != 1:
        raise ConfigError(
            f"shell: expected one of bash, zsh, fish, got {' '.join(arguments) or 'none'}; usage: {usage}"
        )
    from jepa_core.completion import script, words

    show(script(arguments[0], words(list(VERBS), {name: verb.keys() for name, verb in VERBS.items()})))
    return 0


class _OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; usage: {self.format_usage().removeprefix('usage: ')}")


def data(arguments: Sequence[str]) -> int:
    """Runs a command that a modality brings, such as a viewer; its parser's ``run`` default is what is called."""
    from jepa_core.plugins import LoadFailure, modalities

    parser = _OneLineParser(prog="jepa data", description="Commands that the installed modalities bring.")
    commands = parser.add_subparsers(metavar="command", required=True)
    for name, modality in modalities().items():
        if isinstance(modality, LoadFailure):
            print(f"jepa: modality {name} fails to load: {modality.error}", file=sys.stderr)
        else:
            modality.add_commands(commands)
    parsed = parser.parse_args(list(arguments))
    with value_errors_are_users():
        return int(parsed.run(parsed) or 0)


def report_keys() -> Sequence[str]:
    """Keys of :func:`report`."""
    from jepa_core.report.verb import KEYS

    return KEYS


@dataclass(frozen=True)
class Verb:
    """A verb: what runs it, one line for ``jepa --help``, and its own keys besides the settings.

    Keys are asked for by shell completion alone: what holds them may be slow to import.
    """

    run: Callable[[Sequence[str]], int]
    summary: str
    keys: Callable[[], Sequence[str]] = tuple


VERBS: dict[str, Verb] = {
    "train": Verb(train, "train, probe and report: jepa train modality=<name>"),
    "probe": Verb(probe, "frozen features against controls: jepa probe <run or table.parquet>", probe_keys),
    "embed": Verb(embed, "frozen features as a Parquet table: jepa embed <folder> out=table.parquet", embed_keys),
    "compare": Verb(compare, "do two encoders see the same structure: jepa compare <a> <b>", compare_keys),
    "neighbours": Verb(
        neighbours, "nearest samples in such a table: jepa neighbours table.parquet of=<sample_id>", neighbours_keys
    ),
    "report": Verb(report, "a run's report.html anew, or runs side by side: jepa report <a> [<b> ...]", report_keys),
    "masks": Verb(masks, "draw and count masks: jepa masks modality=<name> out=masks.png", lambda: ("out",)),
    "data": Verb(data, "look at data: commands the modalities bring"),
    "list": Verb(list_installed, "modalities, recipes, probes, and where each comes from"),
    "completion": Verb(completion, "completion for a shell: source <(jepa completion bash)"),
}
