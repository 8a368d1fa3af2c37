"""Speed of a Causal-JEPA predictor step against the released code, in turns, from the same weights, slots and masks.

    python benchmarks/speed/causal.py --reference DIR [--threads 1 2] [--device cuda]

DIR is a checkout of galilai-group/cjepa, which needs the package einops. Shapes are those of CLEVRER: 7 slots of 128,
6 + 10 steps, two hidden objects. The second row is our recipe, whose attention is wider and has a norm before it: other
mathematics. Writes ``CAUSAL.md`` (on a GPU ``CAUSAL_GPU.md``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from driver import Side, alternate_two, clock_for  # noqa: E402  # beside this file
from rows import arguments, check_device, measure_rows, write_page  # noqa: E402
from tables import Measured, any_losses, same_losses  # noqa: E402

STAGES = ("forward", "predictor", "backward", "optimiser and target")


def measured(released: tuple[str, ...] | None, given: argparse.Namespace, threads: int) -> Measured:
    """Both sides in turns: ours as released, or as the recipe has it."""
    clock = clock_for(threads, given.device)
    import causal_ours
    import causal_reference

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "overrides": [*causal_ours.AS_RELEASED],
            "batch": given.batch,
            "device": given.device,
            "steps": given.steps,
            "exchange": str(Path(folder) / "start.safetensors"),
            "reference": str(given.reference),
        }
        causal_ours.exchange(options, Path(options["exchange"]))
        mine = options if released is not None else {**options, "overrides": []}
        ours = Side("ours", causal_ours.build, mine, threads, clock)
        theirs = Side("the released code", causal_reference.build, options, threads, clock)
        check = any_losses if released is None else same_losses(1e-4)
        pair = alternate_two(ours, theirs, given.turns, given.warm_up, check)
    name = "the recipe causal_jepa" if released is None else "Causal-JEPA predictor step, as released"
    label = "heads of 64 channels, norm before attention" if released is None else "same"
    return Measured(name, theirs.name, f"{given.batch} x 112 tokens", threads, label, pair)


def main() -> None:
    """Measures, prints, writes the page."""
    parser = arguments(__doc__, "cjepa", turns=9, warm_up=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    given = parser.parse_args()
    if given.reference is None:
        parser.error("expected --reference: each row is measured against the released code")
    check_device(given, "causal.py")
    rows: list[tuple[str, ...] | None] = [(), None]
    found = measure_rows(given, rows, lambda row: True, measured, STAGES)
    write_page(given, found, "causal", "Speed of the Causal-JEPA predictor step", [f"--batch {given.batch}"], STAGES)


if __name__ == "__main__":
    main()
