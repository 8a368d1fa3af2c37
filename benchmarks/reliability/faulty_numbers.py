"""Numbers that break at one step: how soon the run stops, what it says, and that nothing of it is saved.

    python benchmarks/reliability/faulty_numbers.py      # writes results/numbers.json

Every fault is put into the motion example at one step, in the middle between two log lines and on a step at which a
checkpoint is due. Then the other side: the largest growth of the weights in one step of runs to which nothing is done.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, SUBJECTS

from jepa_core.config import compose, to_yaml
from jepa_core.contracts import Batch, Losses
from jepa_core.errors import UserError
from jepa_core.plugins import find_modality, find_recipe
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import optim, trainer
from jepa_core.train.run import run_training
from jepa_core.train.schedule import Rates, rates_at
from jepa_core.train.watch import Growth

STEP, STEPS = 24, 48
"""The bad step; a checkpoint is due at every fourth, a line is logged at every fiftieth."""

COMMON = [
    *("trainer.device=cpu", "trainer.threads=1", "trainer.log_every=50", "trainer.checkpoint_every=4"),
    *("monitor.every=0", "report.samples=0", "logging.progress=off", "logging.trackers=[]", "data.workers=0"),
    *("trainer.batch_size=8", f"trainer.max_steps={STEPS}", "motion.persons=8"),
]


@dataclass(frozen=True)
class Fault:
    """What breaks: at the batch, at the losses, at the gradients, at the weights, or at the learning rate.

    ``rate`` is what the optimiser's learning rate is multiplied with behind the schedule's back, ``schedule`` what the
    schedule's own value is.
    """

    name: str
    settings: tuple[str, ...] = ()
    batch: Callable[[Batch], None] | None = None
    losses: Callable[[Any, Losses], torch.Tensor] | None = None
    weights: Callable[[Any], None] | None = None
    rate: float = 1.0
    schedule: float = 1.0


def _put(value: float) -> Callable[[Batch], None]:
    def spoil(batch: Batch) -> None:
        batch.inputs[0, 0, 0] = value

    return spoil


def _first(module: Any) -> torch.Tensor:
    return next(p for p in module.parameters() if p.dim() > 1)


def _overflow(method: Any, losses: Losses) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        product = torch.full((4, 4), 2e19) @ torch.full((4, 4), 2e19)  # 1.6e39: beyond bf16 and float32
    return losses.total + product.float().mean()


def _overflow_backwards(method: Any, losses: Losses) -> torch.Tensor:
    # The value is 0; on the way back two factors of 3e38 meet in bf16.
    return losses.total + 3e38 * (_first(method.encoder).bfloat16() * 0 * 3e38).float().sum()


@torch.no_grad()
def _nan(parameter: torch.Tensor) -> None:
    parameter.view(-1)[0] = float("nan")


FAULTS = [
    Fault("NaN in one value of one sample", batch=_put(float("nan"))),
    Fault("infinity in one value of one sample", batch=_put(float("inf"))),
    Fault("loss NaN", losses=lambda method, losses: losses.total * float("nan")),
    Fault("loss infinite", losses=lambda method, losses: losses.total + float("inf")),
    Fault("gradient NaN, loss finite", losses=lambda m, x: x.total + (_first(m.encoder).sum() * 0).sqrt()),
    Fault("bf16 overflow of a matrix product", ("trainer.precision=bf16",), losses=_overflow),
    Fault("bf16 overflow seen by the gradient alone", ("trainer.precision=bf16",), losses=_overflow_backwards),
    Fault("a weight NaN after the step", weights=lambda method: _nan(_first(method.encoder))),
    Fault("a weight of the target NaN after the step", weights=lambda method: _nan(_first(method.target))),
    *(Fault(f"learning rate x {factor:g}, not by the schedule", rate=factor) for factor in (1e4, 1e2, 10, 1.01)),
    *(Fault(f"learning rate x {factor:g} in the schedule itself", schedule=factor) for factor in (1e4, 1e3, 1e2, 10)),
]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute for the time of the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def broken(method: Any, fault: Fault) -> Any:
    """The method with the fault at its step."""
    plain = type(method)

    class Broken(plain):  # type: ignore[misc,valid-type]
        def forward(self, batch: Batch, step: int) -> Losses:
            if step == STEP and fault.batch is not None:
                fault.batch(batch)
            losses = super().forward(batch, step)
            if step != STEP or fault.losses is None:
                return losses
            return Losses(fault.losses(self, losses), losses.terms, losses.monitor)

        def after_step(self, step: int) -> None:
            super().after_step(step)
            if step == STEP and fault.weights is not None:
                fault.weights(self)

    method.__class__ = Broken
    return method


def _named(subject: str, folder: Path) -> list[str]:
    return [f"modality={SUBJECTS[subject].modality}", f"runs_dir={folder}", f"name={subject}"]


def run(fault: Fault, folder: Path) -> dict[str, Any]:
    """One row."""
    modality = find_modality(SUBJECTS["motion"].modality)
    config: Any = compose(modality.schema, None, [*COMMON, *fault.settings, *_named("motion", folder)])
    build, apply = type(modality).build, optim.apply_rates
    taken: list[int] = []

    def spiking(optimizer: torch.optim.Optimizer, rates: Any) -> None:
        apply(optimizer, rates)
        taken.append(len(taken) + 1)
        if taken[-1] == STEP:
            for group in optimizer.param_groups:
                group["lr"] *= fault.rate

    def scheduled(step: int, total: int, settings: Any) -> Rates:
        rates = rates_at(step, total, settings)
        return replace(rates, lr=rates.lr * fault.schedule) if step == STEP else rates

    said, code = "", 0
    with (
        replaced(trainer, "rates_at", scheduled),
        replaced(type(modality), "build", lambda self, config: broken(build(self, config), fault)),
        replaced(optim, "apply_rates", spiking),
        replaced(type(modality), "probe", lambda *_: None),
    ):
        try:
            run_training(config, modality, to_yaml(config))
        except UserError as error:
            said, code = str(error), error.exit_code
    newest = checkpoints.newest(folder / "motion", print)
    whole = {path.name for path in (folder / "motion" / "checkpoints").glob("step-*")}
    finite = all(
        bool(value.isfinite().all())
        for name in whole
        for value in checkpoints.load(folder / "motion" / "checkpoints" / name).model.values()
        if value.is_floating_point()
    )
    return {
        "fault": fault.name,
        "exit_code": code,
        "further_steps": len(taken) - STEP,
        "newest_checkpoint": int(newest.name[5:]),
        "all_saved_finite": finite,
        "said": said.split("; samples")[0].split(": not saved")[0],
    }


@dataclass(frozen=True)
class Largest:
    """The largest growth of the weights' L2 norm in one step of a healthy run, as a factor."""

    subject: str
    steps: int
    learning_rate: float
    largest: float


def growth(name: str, folder: Path) -> Largest:
    """Of one subject, over a whole schedule."""
    subject = SUBJECTS[name]
    modality = find_modality(subject.modality)
    recipe = find_recipe(modality, "quickstart")
    own = [s for s in COMMON if not s.startswith(("motion.", "trainer.batch", "trainer.max_steps"))]
    steps = f"trainer.max_steps={subject.steps}"
    config: Any = compose(modality.schema, recipe, [*own, *subject.settings, steps, *_named(name, folder)])
    judge, factors = Growth.judge, []

    def judged(self: Growth, step: int, weights: float) -> str | None:
        factors.append(weights / self._weights)
        return judge(self, step, weights)

    with (
        replaced(Growth, "judge", judged),
        replaced(type(modality), "probe", lambda *_: None),
        replaced(type(modality), "pictures", lambda *_: []),
    ):
        run_training(config, modality, to_yaml(config))
    return Largest(name, len(factors), config.optimizer.lr, round(max(factors), 4))


def main() -> None:
    """Both tables."""
    rows, healthy = [], []
    with tempfile.TemporaryDirectory() as name:
        for number, fault in enumerate(FAULTS):
            rows.append(run(fault, Path(name) / str(number)))
            print(rows[-1], flush=True)
        for subject in SUBJECTS:
            healthy.append(asdict(growth(subject, Path(name))))
            print(healthy[-1], flush=True)
    result = {"bad_step": STEP, "steps": STEPS, "faults": rows, "healthy": healthy}
    (RESULTS / "numbers.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
