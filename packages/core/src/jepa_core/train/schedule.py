"""Schedules as pure functions of the optimiser step, counted from 1; step 0 stands for the time before training.

Warm-up and cosine follow SGDR (Loshchilov and Hutter, ICLR 2017, eq. 5) without restarts, the cosine weight decay
follows DINO (Caron et al., ICCV 2021), the one-cycle policy Smith and Topin (2018) in the form OpenPCDet trains with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jepa_core.errors import ConfigError
from jepa_core.settings import OptimizerSettings

# OpenPCDet's one-cycle: from lr/10 up to lr over the first 40 % of the run, then down to lr/1e5.
ONE_CYCLE_START, ONE_CYCLE_RISE, ONE_CYCLE_END = 0.1, 0.4, 1e-5
ONE_CYCLE_BETA1_HIGH, ONE_CYCLE_BETA1_LOW = 0.95, 0.85


def cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` to ``end`` along half a cosine while ``progress`` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up: a number >= 1, or a fraction of all steps below 1."""
    if warmup < 0 or warmup > total:
        raise ConfigError(f"optimizer.warmup: expected a fraction below 1 or 1 to {total} steps, got {warmup}")
    return round(warmup if warmup >= 1 else warmup * total)


def warmup_cosine(step: int, total: int, peak: float, start: float, end: float, warmup: int) -> float:
    """Linear from ``start`` at step 0 to ``peak`` at step ``warmup``, then a cosine to ``end`` at step ``total``."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    return cosine(peak, end, (step - warmup) / max(1, total - warmup))


def warmup_linear(step: int, total: int, peak: float, start: float, end: float, warmup: int) -> float:
    """As :func:`warmup_cosine`, along a straight line to ``end``: the cool-down of V-JEPA 2 (arXiv 2506.09985)."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    return peak + (end - peak) * min((step - warmup) / max(1, total - warmup), 1.0)


def one_cycle(step: int, total: int, start: float, middle: float, end: float, rise: float) -> float:
    """Half a cosine from ``start`` to ``middle`` over the fraction ``rise`` of the run, and another to ``end``."""
    turn = rise * total
    if step < turn:
        return cosine(start, middle, step / turn)
    return cosine(middle, end, (step - turn) / max(1e-12, total - turn))


SHAPES = {"cosine": warmup_cosine, "linear": warmup_linear}


@dataclass(frozen=True)
class Rates:
    """What the optimiser uses in one step."""

    lr: float
    weight_decay: float
    beta1: float


def rates_at(step: int, total: int, settings: OptimizerSettings) -> Rates:
    """Learning rate, weight decay and beta1 of optimiser step ``step`` (1 to ``total``)."""
    if settings.shape not in SHAPES:
        raise ConfigError(f"optimizer.shape: expected {' or '.join(SHAPES)}, got {settings.shape!r}")
    last = settings.weight_decay if settings.weight_decay_end is None else settings.weight_decay_end
    length = round(settings.stretch * total)
    decay = cosine(settings.weight_decay, last, step / length)
    lr = settings.lr
    if settings.name == "adam_onecycle":
        rate = one_cycle(step, total, lr * ONE_CYCLE_START, lr, lr * ONE_CYCLE_END, ONE_CYCLE_RISE)
        high, low = ONE_CYCLE_BETA1_HIGH, ONE_CYCLE_BETA1_LOW
        return Rates(rate, decay, one_cycle(step, total, high, low, high, ONE_CYCLE_RISE))
    warmup = warmup_steps(settings.warmup, total)
    rate = SHAPES[settings.shape](step, length, lr, lr * settings.lr_start, lr * settings.lr_end, warmup)
    return Rates(rate, decay, settings.beta1)
