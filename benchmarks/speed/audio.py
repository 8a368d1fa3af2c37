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

from driver import Side, alternate_two, clock_for  # noqa: E402  # beside this file
from rows import STAGES, arguments, check_device, measure_rows, write_page  # noqa: E402
from tables import Measured, same_losses  # noqa: E402


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


def main() -> None:
    """Measures, prints, writes the page."""
    given = arguments(__doc__, "Audio-JEPA", turns=7, warm_up=1).parse_args()
    check_device(given, "audio.py")
    found = measure_rows(given, rows(), lambda row: row.encoder is not None, measured, STAGES)
    write_page(given, found, "audio", "Speed of audio training steps", [], STAGES)


if __name__ == "__main__":
    main()
