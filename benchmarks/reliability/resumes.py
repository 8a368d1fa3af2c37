"""Run folders of somebody who knows the format, gone on with by ``resume=``: values exchanged, checksums mended."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import mutations
import torch
from faulty_numbers import replaced
from harness import SUBJECTS
from mutations import Mutant, Seed
from safetensors.torch import load, save

from jepa_core.config import compose, to_yaml
from jepa_core.plugins import find_modality
from jepa_core.train import run as training

RUN = Path(__file__).parents[2] / "runs" / "fuzz" / "resumes"
BEFORE, STEP = "checkpoints/step-2/", "checkpoints/step-4/"
SETTINGS = [
    *(
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.batch_size=2",
        "trainer.keep_checkpoints=0",
        "motion.persons=4",
    ),
    *("motion.windows=2", "monitor.every=1", "report.samples=0", "logging.progress=off", "logging.trackers=[]"),
    *("data.workers=0", "trainer.checkpoint_every=2", "optimizer.warmup=1", "name=run", "trainer.keep_best=loss"),
]
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, -(10**30), 1e308, 0.5, float("nan"), float("inf"), "", "x", "nan"),
    *("../../x", "9" * 5000, [], {}, [[]], [None], {"a": 1}, "\x1b[2J\n", "loss"),
)


def train(runs_dir: Path, steps: int, *more: str) -> None:
    """A run of the motion example, without a probe and pictures."""
    modality = find_modality(SUBJECTS["motion"].modality)
    own = [f"modality={SUBJECTS['motion'].modality}", f"runs_dir={runs_dir}", f"trainer.max_steps={steps}", *more]
    config: Any = compose(modality.schema, None, [*SETTINGS, *own])
    with ExitStack() as without:
        for name, empty in (("probe", None), ("pictures", [])):
            without.enter_context(replaced(type(modality), name, lambda *_, empty=empty: empty))
        without.enter_context(replaced(training, "_report", lambda parts: None))
        training.run_training(config, modality, to_yaml(config))


@cache
def whole() -> dict[str, bytes]:
    """Every file of the run by its path."""
    if not (RUN / "run" / STEP / "manifest.json").is_file():
        train(RUN, 4)
    paths = [path for path in sorted((RUN / "run").rglob("*")) if path.is_file() and path.parent.name != "best"]
    found = {path.relative_to(RUN / "run").as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in found.items() if name != ".lock"}


@cache
def seeds() -> list[Seed]:
    """What a resume reads: the newest checkpoint, figures, quarantine, settings."""
    kept = ("metrics.jsonl", "quarantine.jsonl", "config.yaml")
    found = [Seed(name, content) for name, content in whole().items() if name.startswith(STEP) or name in kept]
    line = json.dumps({"sample_id": "person1/walking/0", "reason": "broken", "step": 1}).encode() + b"\n"
    return [seed for seed in found if seed.name != "quarantine.jsonl"] + [Seed("quarantine.jsonl", line)]


def altered(given: Sequence[Seed], key: str) -> Mutant:
    """Two of three times a value is exchanged, else the file is damaged as any other."""
    rng = random.Random(key)
    seed = rng.choice(given)
    if seed.name.endswith(".safetensors") and rng.random() < 0.67:
        return Mutant(seed.name, *_other_tensors(seed.content, rng))
    if seed.name.endswith(".json") and rng.random() < 0.67:
        return Mutant(seed.name, *_other_json(seed.content, rng))
    made = mutations.mutant([seed], key)
    return Mutant(seed.name, made.content, made.damage)


# --------------------------------------------------------------------------------------------------------------------
# Tensors and JSON
# --------------------------------------------------------------------------------------------------------------------

Tensors = dict[str, torch.Tensor]


def _one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """One value in the middle; of whole numbers the nearest that there is."""

    def put(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone().flatten()
        if changed.is_floating_point():
            changed[len(changed) // 2 : len(changed) // 2 + 1] = value
        elif len(changed) and changed.dtype != torch.bool:
            bounds = torch.iinfo(changed.dtype)
            changed[len(changed) // 2] = int(max(bounds.min, min(value, bounds.max)))
        return changed.reshape(tensor.shape)

    return put


_OF_TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one value infinite": _one(float("inf")),
    "one value NaN": lambda t: _one(float("nan") if t.is_floating_point() else -1)(t),
    "one value huge": _one(1e38),
    "one value negative": _one(-1e6),
    "all negative": lambda t: -t.abs() - 1 if t.dtype.is_signed and t.dtype != torch.bool else ~t,
    "all zero": torch.zeros_like,
    "all huge": lambda t: torch.full_like(t, 1e30 if t.is_floating_point() else 127),
    "flat": lambda t: t.flatten(),
    "one axis more": lambda t: t[None],
    "shorter": lambda t: t.flatten()[:-1],
    "longer": lambda t: torch.cat([t.flatten(), t.flatten()]),
    "empty": lambda t: t.flatten()[:0],
    "one number": lambda t: t.flatten()[:1].sum().to(t.dtype),
    "transposed": lambda t: t.transpose(0, -1).contiguous() if t.dim() else t[None],
    "as float64": lambda t: t.double(),
    "as float16": lambda t: t.half(),
    "as int64": lambda t: t.nan_to_num().long(),
    "as bool": lambda t: t.bool(),
}


def _other_tensors(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    tensors = load(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not tensors:
            break
        name, damage = rng.choice(sorted(tensors)), rng.choice([*_OF_TENSORS, "gone", "renamed", "added", "exchanged"])
        _alter(tensors, name, damage, rng)
    return save({name: value.contiguous().clone() for name, value in tensors.items()}), damage


def _alter(tensors: Tensors, name: str, damage: str, rng: random.Random) -> None:
    if damage in _OF_TENSORS:
        tensors[name] = _OF_TENSORS[damage](tensors[name])
    elif damage == "added":
        tensors[rng.choice(("x", "buffer/x", "x/exp_avg", "/", "a\x1b[2J\nb", "y" * 5000))] = torch.zeros(2)
    elif damage == "exchanged":
        tensors[name] = tensors[rng.choice(sorted(tensors))]
    else:
        value = tensors.pop(name)
        if damage == "renamed":
            tensors[rng.choice((name + "x", name.replace("/", "."), "buffer/" + name))] = value


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if above:
        yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*above, key))


def _other_json(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    held = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(held))
        if not places:
            break
        *above, last = rng.choice(places)
        owner = held
        for key in above:
            owner = owner[key]
        if rng.random() < 0.15:
            del owner[last]
        else:
            owner[last] = rng.choice(_VALUES)
    return json.dumps(held).encode(), "a value exchanged"


# --------------------------------------------------------------------------------------------------------------------
# Going on
# --------------------------------------------------------------------------------------------------------------------


def go_on(folder: Path, made: Mutant) -> None:
    """Trains two further steps from the run with one file exchanged; the checkpoint before must stay as it is."""
    run = folder / "run"
    files = {**whole(), made.name: made.content}
    manifest = STEP + "manifest.json"
    # Every eighth checkpoint is torn, so that the run goes on from the one before.
    if made.name.startswith(STEP) and made.name != manifest and zlib.crc32(made.content) % 8:
        known = json.loads(files[manifest])
        known["sha256"][made.name.removeprefix(STEP)] = hashlib.sha256(made.content).hexdigest()
        files[manifest] = json.dumps(known).encode()
    for name, content in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    try:
        train(folder, 6, f"resume={run}")
    finally:
        for name, content in files.items():
            if name.startswith(BEFORE) and (run / name).read_bytes() != content:
                raise AssertionError(f"{name} is no longer what it was")
