"""``--help`` says of every numeric setting of every installed modality what it counts."""

from __future__ import annotations

from typing import get_args

import pytest

from jepa_core.config import known_keys
from jepa_core.plugins import find_modality, installed
from jepa_core.schema import Key


def is_number(key: Key) -> bool:
    """Whether a value is a number or a list of numbers."""
    return bool({key.hint, *get_args(key.hint)} & {int, float})


@pytest.mark.parametrize("name", installed())
def test_every_number_is_described(name: str) -> None:
    bare = [path for path, key in known_keys(find_modality(name).schema).items() if is_number(key) and not key.doc]
    assert bare == [], "one line 'name: what it is, in which unit.' each under Attributes: of its settings class"


UNITS = {"seconds": " s", "_db": "dB", "_mib": "MiB", "fps": "frames per second", "_deg": "degrees", "_hz": "Hz"}


@pytest.mark.parametrize("name", installed())
def test_a_quantity_names_its_unit(name: str) -> None:
    for path, key in known_keys(find_modality(name).schema).items():
        for ending, unit in UNITS.items():
            if path.endswith(ending) and is_number(key):
                assert unit in key.doc, f"{path}: expected {unit} in its description, got {key.doc!r}"
