"""What a verdict's stored state must be: a checkpoint may come from a stranger, and is read long before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MOST = 2**62


def check_stored(state: Mapping[str, Any], states: Sequence[str]) -> None:
    """Looks through :meth:`jepa_core.monitor.verdict.Judge.state_dict` as JSON gave it back.

    Args:
        state: by name.
        states: those a verdict can have.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: something is missing or of another kind.
    """
    _check_count(state["measured"])
    if state["since"] is not None:
        _check_count(state["since"])
    if state["state"] not in states or not isinstance(state.get("moved", False), bool):
        raise ValueError(f"monitor: expected one of {', '.join(states)}, got {state['state']!r}")
    for beginning in state["beginnings"].values():
        if not all(isinstance(value, int | float) for value in beginning.values()):
            raise ValueError(f"monitor: expected numbers, got {beginning!r}")
    loss = dict(state["loss"])
    _check_numbers(loss.pop("recent"))
    _check_numbers(loss.values())
    for finding in state["recent"]:
        _check_finding(finding, states)


def _check_finding(finding: Mapping[str, Any], states: Sequence[str]) -> None:
    _check_count(finding["step"])
    _check_numbers(finding["evidence"].values())
    said = [finding[name] for name in ("state", "headline", "reason")]
    if finding["state"] not in states or not all(isinstance(text, str) for text in said):
        raise ValueError(f"monitor: expected a state and texts, got {said!r}")


def _check_count(value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise ValueError(f"monitor: expected a whole number of at least 0, got {value!r}")


def _check_numbers(values: Iterable[object]) -> None:
    for value in values:
        # JSON has no infinity and no NaN: they are kept as texts.
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"monitor: expected numbers, got {value!r}")
        float(value)
