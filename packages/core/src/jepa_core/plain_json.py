"""JSON of strangers: what is nested without end is a ValueError like every other text that is no JSON."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """As ``json.loads``.

    Raises:
        ValueError: no JSON, numbers of thousands of digits, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
