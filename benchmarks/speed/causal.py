"""Speed of a Causal-JEPA predictor step against the released code, in turns, from the same weights, slots and masks.

    python benchmarks/speed/causal.py --reference DIR [--threads 1 2] [--device cuda]

DIR is a checkout of galilai-group/cjepa. Shapes are those of CLEVRER: 7 slots of 128, 6 + 10 steps, two hidden objects.
The second row is our recipe, whose attention is wider and has a norm before it: other mathematics. Writes ``CAUSAL.md``
(on a GPU ``CAUSAL_GPU.md``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from driver import Side, alternate_two, clock_for, machine  # noqa: E402  # beside this file
from tables import Measured, any_losses, page, same_losses, store  # noqa: E402

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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="checkout of cjepa")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="+", help="rows, counted from 0; no page is written")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, writes the page."""
    given = arguments()
    if given.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("causal.py --device cuda: there is no GPU here; run it on a machine that has one")
    found = []
    for threads in given.threads:
        for index, released in enumerate(((), None)):
            if given.only and index not in given.only:
                continue
            found.append(measured(released, given, threads))
            print(found[-1].line(), found[-1].split(STAGES), sep="\n", flush=True)
    if given.only:
        return
    threads = " ".join(map(str, given.threads))
    command = f"python benchmarks/speed/causal.py --reference DIR --threads {threads} --device {given.device}"
    how = f"`{command} --batch {given.batch} --turns {given.turns}`. {machine(given.threads[-1])}."
    name = "CAUSAL" if given.device == "cpu" else "CAUSAL_GPU"
    text = page("Speed of the Causal-JEPA predictor step", how, found, STAGES, HERE / f"{name.lower()}_reading.md")
    (HERE / f"{name}.md").write_text(text, encoding="utf-8")
    store(found, HERE / f"{name.lower()}.json")


if __name__ == "__main__":
    main()
