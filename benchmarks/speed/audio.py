"""Speed of audio training steps from waveforms: against the released Audio-JEPA, and behind torchaudio's features.

    python benchmarks/speed/audio.py --reference DIR [--threads 1 2] [--device cuda]

DIR is a checkout of LudovicTuncay/Audio-JEPA. Both sides get the same clips, weights and masks; the learning rate is
that of our first step. In the rows behind torchaudio the encoder is ours on both sides. Writes ``AUDIO.md`` (on a GPU
``AUDIO_GPU.md``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from driver import Side, alternate_two, clock_for, machine  # noqa: E402  # beside this file
from tables import Measured, page, same_losses, store  # noqa: E402

STAGES = (
    "forward",
    "front end",
    "context encoder",
    "target encoder",
    "predictor",
    "backward",
    "optimiser and target",
)


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        name: of the work.
        recipe, overrides: of our side.
        batch: clips.
        encoder, predictor: width, depth and heads of the released code's; None = our step behind torchaudio's features.
        steps: in a turn.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    batch: int
    encoder: tuple[int, int, int] | None = None
    predictor: tuple[int, int, int] | None = None
    steps: int = 1


def rows() -> list[Row]:
    """The rows."""
    from audio_ours import AS_RELEASED

    tiny = (*AS_RELEASED, "audio.encoder.size=tiny", "audio.predictor.width=192", "audio.predictor.heads=3")
    return [
        Row("Audio-JEPA step, ViT-B, 10 s", "audio_jepa", AS_RELEASED, 2, (768, 12, 12), (384, 6, 12)),
        Row("the same with ViT-Tiny", "audio_jepa", tiny, 8, (192, 12, 3), (192, 6, 3)),
        Row("the recipe quickstart", "quickstart", (), 32, steps=2),
        Row("the recipe small", "small", (), 8, steps=2),
    ]


def measured(row: Row, given: argparse.Namespace, threads: int) -> Measured:
    """Both sides of a row in turns."""
    clock = clock_for(threads, given.device)
    import audio_ours

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "recipe": row.recipe,
            "overrides": list(row.overrides),
            "batch": row.batch,
            "device": given.device,
            "steps": row.steps,
            "exchange": str(Path(folder) / "start.safetensors"),
            "reference": str(given.reference),
            "encoder": row.encoder,
            "predictor": row.predictor,
        }
        if row.encoder is not None:
            import audio_reference

            options["factor"], options["lr"] = audio_ours.LOSS_FACTOR, audio_ours.first_rate(options)
            audio_ours.exchange(options, Path(options["exchange"]))
            other = Side("the released code", audio_reference.build, options, threads, clock)
        else:
            other = Side(
                "torchaudio's features, our encoder", audio_ours.build, {**options, "torchaudio": 1}, threads, clock
            )
        ours = Side("ours", audio_ours.build, options, threads, clock)
        pair = alternate_two(ours, other, given.turns, given.warm_up, same_losses(1e-3))
    return Measured(row.name, other.name, f"{row.batch} clips", threads, "same", pair)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of Audio-JEPA; without it its rows are left out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", help="rows, counted from 0; no page is written")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, writes the page."""
    given = arguments()
    if given.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("audio.py --device cuda: there is no GPU here; run it on a machine that has one")
    found = []
    for threads in given.threads:
        for index, row in enumerate(rows()):
            if (row.encoder is not None and given.reference is None) or (given.only and index not in given.only):
                continue
            found.append(measured(row, given, threads))
            print(found[-1].line(), found[-1].split(STAGES), sep="\n", flush=True)
    if given.only:
        return
    threads = " ".join(map(str, given.threads))
    command = f"python benchmarks/speed/audio.py --reference DIR --threads {threads} --device {given.device}"
    how = f"`{command} --turns {given.turns}`. {machine(given.threads[-1])}."
    name = "AUDIO" if given.device == "cpu" else "AUDIO_GPU"
    text = page("Speed of audio training steps", how, found, STAGES, HERE / f"{name.lower()}_reading.md")
    (HERE / f"{name}.md").write_text(text, encoding="utf-8")
    store(found, HERE / f"{name.lower()}.json")


if __name__ == "__main__":
    main()
