"""YAML of strangers: held small before it is built, as a few aliases can stand for more values than there is memory."""

from __future__ import annotations

import yaml

LARGEST_BYTES = 2**20
"""Of a configuration; ours have two thousand."""
MOST_VALUES = 100_000
"""Keys and values after every alias is written out."""


def check_yaml(text: str) -> None:
    """Refuses what is too much for a configuration; what is wrong YAML is left to who builds it.

    Raises:
        ValueError: too long, too deep, an alias that holds itself, or aliases that stand for too many values.
    """
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"expected at most {LARGEST_BYTES} characters, got {len(text)}")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        count = 0 if root is None else _values(root, {}, set())
    except RecursionError:
        raise ValueError("expected a few levels of keys and values, got so many that they cannot be read") from None
    if count > MOST_VALUES:
        raise ValueError(f"expected at most {MOST_VALUES} keys and values, got aliases (*name) that stand for {count}")


def _values(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Keys and values of a node, aliases written out."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise ValueError("expected keys and values, got an alias (*name) that holds itself")
    above.add(id(node))
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    known[id(node)] = 1 + sum(_values(part, known, above) for part in inner)
    above.discard(id(node))
    return known[id(node)]
