"""The keys of a configuration: path, type, default and description of every field of nested dataclasses."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        path: for example ``trainer.max_steps``.
        hint: its type, without ``None``.
        optional: whether ``null`` is a value.
        default: of the dataclass.
        doc: from the ``Attributes:`` section of its dataclass.
        choices: the only values, when there are such.
    """

    path: str
    hint: Any
    optional: bool
    default: Any
    doc: str
    choices: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether any text is a value."""
        return self.hint is str

    @property
    def is_mapping(self) -> bool:
        """Whether it holds keys of the user's own."""
        return get_origin(self.hint) in (dict, Mapping)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        text = f"one of {', '.join(self.choices)}" if self.choices else type_name(self.hint)
        return f"{text} or null" if self.optional else text

    def with_choices(self, choices: tuple[str, ...]) -> Key:
        """The same key with its only values named."""
        return replace(self, choices=choices or self.choices)


def type_name(hint: Any) -> str:
    """A type in words: ``a whole number``, ``a list of text``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (list, tuple) and inner:
        count = len(inner) if origin is tuple and Ellipsis not in inner else None
        each = type_name(inner[0])
        return f"a list of {each}" if count is None else f"a list of {count} values, {each} each"
    if origin in (dict, Mapping) and inner:
        return f"keys with {type_name(inner[1])} each"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def keys(schema: type) -> dict[str, Key]:
    """Every key of a dataclass and the dataclasses in it, by path, in the order of the fields."""
    return {key.path: key for key in _walk(schema, schema(), "")}


def sections(settings: Any) -> Iterator[tuple[str, Any]]:
    """(path, dataclass instance) of ``settings``, whose path is empty, and of every dataclass in it."""
    yield "", settings
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            for path, section in sections(value):
                yield f"{field.name}.{path}".rstrip("."), section


def attribute_docs(schema: type) -> dict[str, str]:
    """Descriptions of a dataclass's fields from the ``Attributes:`` of its docstring and of those it extends."""
    docs: dict[str, str] = {}
    for parent in reversed(schema.__mro__):
        docs.update(_docs_of_one(parent.__dict__.get("__doc__") or ""))
    return docs


def _docs_of_one(docstring: str) -> dict[str, str]:
    docs: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(docstring).partition("Attributes:")[2].splitlines():
        entry = _ENTRY.match(line)
        if entry:
            names = entry[1].split(", ")
            docs.update(dict.fromkeys(names, entry[2].replace("``", "")))
        elif names and line.startswith("     "):
            docs.update({name: f"{docs[name]} {line.strip()}".replace("``", "") for name in names})
        elif line.strip():
            break
    return docs


def _walk(schema: type, instance: Any, prefix: str) -> Iterator[Key]:
    hints, docs = get_type_hints(schema), attribute_docs(schema)
    for field in fields(schema):
        hint, optional = _without_none(hints[field.name])
        default = getattr(instance, field.name)
        path = prefix + field.name
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _walk(type(default) if default is not None else hint, default or hint(), f"{path}.")
        else:
            choices = tuple(map(str, get_args(hint))) if get_origin(hint) is Literal else ()
            yield Key(path, hint, optional, default, docs.get(field.name, ""), choices)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    rest = tuple(part for part in get_args(hint) if part is not type(None))
    return (rest[0] if len(rest) == 1 else Union[rest]), len(rest) < len(get_args(hint))  # noqa: UP007  # built at run time
