"""Commands of the vision modality: ``jepa data show-weights <in>`` and ``jepa data convert-weights <in> <out>``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_core.errors import UserError

if TYPE_CHECKING:
    from jepa_vision.weights import Weights

FORMATS = ("huggingface", "timm", "jepakit")


def add_weights_commands(subparsers: Any) -> None:
    """Adds both to the sub-commands of ``jepa data``."""
    show = subparsers.add_parser("show-weights", help="vision: what weights are, and what becomes of every key")
    _add_input(show)
    show.set_defaults(run=show_weights)
    convert = subparsers.add_parser("convert-weights", help="vision: weights to transformers, timm or jepakit")
    _add_input(convert)
    convert.add_argument("out", type=Path, help="folder to write")
    convert.add_argument("--to", choices=FORMATS, required=True, help="whose format to write")
    convert.set_defaults(run=convert_weights)


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        help="a released .pth.tar or .pt file, a folder of transformers, timm or jepakit, or the folder of a run",
    )
    parser.add_argument(
        "--which",
        choices=("teacher", "student"),
        help="of a release or a run: the moving average (which the papers evaluate) or the encoder it follows",
    )
    parser.add_argument("--parts", choices=("all", "encoder"), default="all", help="all with the predictor (default)")
    parser.add_argument("--family", choices=("ijepa", "vjepa", "vjepa2"), help="of a release whose keys do not tell it")
    parser.add_argument("--heads", type=int, help="attention heads, of a release of another than the published sizes")
    parser.add_argument("--predictor-heads", type=int, help="likewise of its predictor")
    parser.add_argument("--size", type=_size, help="usual input of a release in pixels: 224x224, of clips 16x224x224")


def _size(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected <height>x<width> or <frames>x<height>x<width>, got {text!r}")
    return tuple(int(part) for part in parts)


def show_weights(args: argparse.Namespace) -> int:
    """Prints the facts and the key table; where the keys are not what they should be, the table and exit code 1."""
    from jepa_vision.weights.contents import WeightsError

    try:
        print(_read(args).describe())
    except WeightsError as error:
        for part, table in error.tables.items():
            print(f"{part}:\n{table}\n")
        raise UserError(str(error), exit_code=1) from None
    return 0


def convert_weights(args: argparse.Namespace) -> int:
    """Reads, checks every key and writes."""
    from jepa_vision.weights import VisionModel

    weights = _read(args)
    model = VisionModel.from_weights(weights)
    write = {"huggingface": model.to_huggingface, "timm": model.save_timm, "jepakit": model.save_pretrained}
    write[args.to](args.out)
    print(weights.describe())
    for note in _left_out(weights, args.to):
        print(f"note: {note}")
    print(f"wrote {args.out}")
    return 0


def _left_out(weights: Weights, to: str) -> list[str]:
    """What the written format has no place for, or does otherwise."""
    facts = weights.facts
    if to == "jepakit" or facts.predictor is None:
        return []
    if to == "timm" or not facts.is_video:
        return [f"the predictor is left out: {to} has none"]
    rows, token = facts.predictor.mask_tokens, facts.predictor.token
    theirs = 1 % rows
    if token == theirs:
        return []
    used = "of its own for each mask" if token is None else f"{token}"
    return [f"all {rows} mask tokens are kept; transformers predicts with row {theirs}, this model with row {used}"]


def _read(args: argparse.Namespace) -> Weights:
    from jepa_vision.weights import Hints, read_weights
    from jepa_vision.weights.read import has_copies

    hints = Hints(args.family, args.heads, args.predictor_heads, args.size)
    if args.which is not None and Path(args.weights).is_dir() and not has_copies(args.weights):
        raise UserError(f"--which: {args.weights} has one encoder only: leave it out")
    if hints != Hints() and not Path(args.weights).is_file():
        raise UserError("--family, --heads, --predictor-heads, --size: expected a file; a folder says it itself")
    return read_weights(args.weights, args.which, parts=args.parts, hints=hints)
