"""Values the settings of every run may take, beyond their type."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from jepa_core.errors import ConfigError
from jepa_core.schema import sections
from jepa_core.settings import RunSettings


@dataclass(frozen=True)
class Rule:
    """What a value must be: in words, as a test, and by name where only a few are possible."""

    expected: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def one_of(*choices: str) -> Rule:
    """One of these names."""
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices, choices)


def between(low: float, high: float) -> Rule:
    """A number in ``[low, high]``."""
    return Rule(f"{low:g} to {high:g}", lambda value: low <= value <= high)


def at_least(low: float) -> Rule:
    """A finite number from ``low``."""
    return Rule(f"{low:g} or more", lambda value: math.isfinite(value) and value >= low)


def above_zero() -> Rule:
    """A finite number above 0."""
    return Rule("a number above 0", lambda value: math.isfinite(value) and value > 0)


def below_one() -> Rule:
    """A decay factor in ``[0, 1)``."""
    return Rule("0 or more and below 1", lambda value: 0 <= value < 1)


def auto_or_count(low: int) -> Rule:
    """``auto`` or a whole number from ``low``, as text."""

    def accepts(value: str) -> bool:
        return value == "auto" or (value.isdecimal() and int(value) >= low)

    return Rule(f"auto or a whole number from {low}", accepts)


def folder_name() -> Rule:
    """A name that is one folder and no path."""

    def accepts(value: str) -> bool:
        return value not in ("", ".", "..") and not set(value) & set("/\\")

    return Rule("a folder name without slashes", accepts)


RULES: Mapping[str, Rule] = {
    "seed": at_least(0),
    "name": folder_name(),
    "data.max_bad_fraction": between(0, 1),
    "data.workers": auto_or_count(0),
    "trainer.max_steps": at_least(1),
    "trainer.batch_size": at_least(1),
    "trainer.accumulation": at_least(1),
    "trainer.clip_norm": at_least(0),
    "trainer.precision": one_of("auto", "native", "fp32", "bf16"),
    "trainer.device": one_of("auto", "cpu", "cuda"),
    "trainer.log_every": at_least(1),
    "trainer.checkpoint_every": at_least(0),
    "trainer.keep_checkpoints": at_least(0),
    "trainer.threads": auto_or_count(1),
    "optimizer.name": one_of("adamw", "adam_onecycle"),
    "optimizer.lr": above_zero(),
    "optimizer.lr_start": at_least(0),
    "optimizer.lr_end": at_least(0),
    "optimizer.shape": one_of("cosine", "linear"),
    "optimizer.stretch": at_least(1),
    "optimizer.warmup": at_least(0),
    "optimizer.weight_decay": at_least(0),
    "optimizer.weight_decay_end": at_least(0),
    "optimizer.beta1": below_one(),
    "optimizer.beta2": below_one(),
    "optimizer.eps": above_zero(),
    "monitor.every": at_least(0),
    "monitor.rows": at_least(2),
    "probe.every": at_least(0),
    "probe.samples": at_least(2),
    "probe.neighbours": at_least(1),
    "logging.progress": one_of("auto", "bar", "lines", "off"),
    "logging.lines_every": at_least(1),
}


def validate_run(settings: RunSettings) -> None:
    """Checks what every run has against :data:`RULES`, then calls ``validate()`` of each section that has one.

    Raises:
        ConfigError: naming the first key that cannot be.
    """
    for path, rule in RULES.items():
        value = attrgetter(path)(settings)
        if value is not None and not rule.accepts(value):
            raise ConfigError(f"{path}: expected {rule.expected}, got {value!r}{hint(str(value), rule.choices)}")
    for path, section in sections(settings):
        _validate_section(path, section)


def _validate_section(path: str, section: Any) -> None:
    """Calls a section's own check; a message that starts with a key of the section is given the section's path."""
    validate = getattr(section, "validate", None)
    if validate is None:
        return
    try:
        validate()
    except ValueError as error:
        message = str(error)
        if not path or message.startswith(f"{path}."):
            raise ConfigError(message) from error
        of_a_key = message.partition(":")[0] in [field.name for field in fields(section)]
        raise ConfigError(f"{path}{'.' if of_a_key else ': '}{message}") from error


LONGEST_NAME = 200
"""No name is longer, and comparing takes the square of the length."""


def hint(name: str, names: Sequence[str]) -> str:
    """``"; did you mean x?"``, or nothing when no name is near."""
    if len(name) > LONGEST_NAME:
        return ""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def check_between(key: str, value: float, low: float, high: float) -> None:
    """Refuses a value outside ``low`` to ``high``."""
    if not low <= value <= high:
        raise ValueError(f"{key}: expected a value from {low} to {high}, got {value}")


def check_rising(key: str, low: float, high: float, most: float) -> None:
    """Refuses bounds ``<key>_min`` and ``<key>_max`` that do not rise from above 0 to at most ``most``."""
    if not 0 < low <= high <= most:
        raise ValueError(f"{key}_min: expected 0 < {key}_min <= {key}_max <= {most}, got {low} and {high}")
