"""Typed recipes: order of layers, exact round trip, and every kind of mistake in one line that names the key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_core.checks import RULES
from jepa_core.config import compose, known_keys, nearest_key, repeated_keys, save_config, to_yaml
from jepa_core.errors import ConfigError
from jepa_core.schema import attribute_docs, keys
from jepa_core.settings import RunSettings


@dataclass
class Encoder:
    """An encoder.

    Attributes:
        width: channels of every layer,
            which is explained on two lines.
        kind, other: shared words.
        ratio: between 0 and 1.
    """

    width: int = 8
    kind: Literal["conv", "patch"] = "conv"
    other: str | None = None
    ratio: float = 0.5
    span_m: tuple[float, float] = (0.0, 10.0)
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0})

    def validate(self) -> None:
        """A rule of the section's own."""
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio: expected 0 to 1, got {self.ratio}")


@dataclass
class ToyRun(RunSettings):
    """A run with a section of its own.

    Attributes:
        encoder: see there.
    """

    encoder: Encoder = field(default_factory=Encoder)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def message(overrides: list[str], recipe: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(ToyRun, recipe, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_command_line_over_recipe_over_base_over_defaults(tmp_path: Path) -> None:
    write(tmp_path, "low", "trainer: {max_steps: 5, batch_size: 6}\nencoder: {width: 7}\nseed: 1\n")
    top = write(tmp_path, "top", "base: low\ntrainer:\n  batch_size: 60\nencoder: {kind: patch}\n")
    run = compose(ToyRun, top, ["seed=9", "trainer.log_every=2"])
    assert (run.trainer.max_steps, run.trainer.batch_size, run.trainer.log_every) == (5, 60, 2)
    assert (run.encoder.width, run.encoder.kind, run.seed) == (7, "patch", 9)
    assert isinstance(run, ToyRun) and isinstance(run.encoder, Encoder)
    assert run.monitor == RunSettings().monitor


def test_defaults_are_valid_and_every_rule_names_a_key() -> None:
    assert compose(ToyRun, None, []) == ToyRun()
    assert set(RULES) <= set(keys(RunSettings))


def test_yaml_reads_back_to_the_same_settings(tmp_path: Path) -> None:
    run = compose(ToyRun, None, ["optimizer.lr=1e-3", "encoder.span_m=[-1.5,2]", "encoder.weights={b: 2}", "name=007"])
    save_config(run, tmp_path / "config.yaml")
    assert compose(ToyRun, tmp_path / "config.yaml", []) == run
    assert (tmp_path / "config.yaml").read_text() == to_yaml(run)


@given(
    lr=st.floats(min_value=1e-12, max_value=1e6),
    seed=st.integers(min_value=0, max_value=2**53),
    name=st.text(alphabet="abz019_-.", min_size=3).filter(lambda text: set(text) != {"."}),
)
def test_any_possible_value_survives_the_command_line(lr: float, seed: int, name: str) -> None:
    run = compose(ToyRun, None, [f"optimizer.lr={lr!r}", f"seed={seed}", f"encoder.other={name}"])
    assert (run.optimizer.lr, run.seed) == (lr, seed)
    assert run.encoder.other == name


@pytest.mark.parametrize("text", ["007", "1e3", "yes", "0x10", "1_000", "true", "3", "0b_", "0x_"])
def test_text_is_taken_as_it_stands(text: str) -> None:
    assert compose(ToyRun, None, [f"encoder.other={text}"]).encoder.other == text


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("null", None), ("a=b", "a=b"), ("'null'", "null"), ("a b", "a b")]
)
def test_text_that_yaml_gives_a_meaning(text: str, value: str | None) -> None:
    assert compose(ToyRun, None, [f"encoder.other={text}"]).encoder.other == value


def test_keys_of_the_users_own_join_a_mapping() -> None:
    assert compose(ToyRun, None, ["encoder.weights.b=2"]).encoder.weights == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_step=3", ("trainer.max_step ", "unknown key", "did you mean trainer.max_steps?")),
        ("max_steps=3", ("max_steps ", "did you mean trainer.max_steps?")),
        ("--trainer.max_steps=3", ("did you mean trainer.max_steps?",)),
        ("optim.lr=3", ("did you mean optimizer.lr?",)),
        ("zzzzqqq=3", ("zzzzqqq", "expected one of modality", "encoder")),
        ("data.root.deeper=3", ("data.root.deeper", "unknown key")),
        ("trainer={max_steps: 5, batch: 3}", ("trainer.batch ", "did you mean trainer.batch_size?")),
        ("trainer=3", ("trainer ", "section with max_steps, batch_size", "got 3")),
        ("trainer.max_steps=abc", ("trainer.max_steps", "whole number", "'abc'")),
        ("trainer.max_steps=2.5", ("trainer.max_steps", "whole number", "2.5")),
        ("trainer.max_steps=true", ("trainer.max_steps", "whole number", "True")),
        ("trainer.max_steps=null", ("trainer.max_steps", "whole number", "None")),
        ("trainer.compile=2", ("trainer.compile", "true or false", "got 2")),
        ("optimizer.lr=fast", ("optimizer.lr", "a number", "'fast'")),
        ("encoder.kind=cnv", ("encoder.kind", "one of conv, patch", "'cnv'", "did you mean conv?")),
        ("encoder.span_m=[1]", ("encoder.span_m", "list of 2", "[1]")),
        ("encoder.weights.b=x", ("encoder.weights", "number", "'x'")),
        ("logging.trackers=[a", ("logging.trackers", "'[a'")),
        ("data.root=${oc.env:NO_SUCH_VARIABLE}", ("data.root", "NO_SUCH_VARIABLE")),
        ("trainer.max_steps", ("key=value", "'trainer.max_steps'")),
        ("=3", ("key=value", "'=3'")),
    ],
)
def test_unknown_key_or_wrong_type(override: str, words: tuple[str, ...]) -> None:
    text = message([override])
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_steps=0",
        "trainer.batch_size=-1",
        "trainer.accumulation=0",
        "trainer.clip_norm=-0.1",
        "trainer.clip_norm=.nan",
        "trainer.threads=0",
        "trainer.log_every=0",
        "optimizer.lr=0",
        "optimizer.lr=.nan",
        "optimizer.lr=.inf",
        "optimizer.beta2=1",
        "optimizer.weight_decay_end=-1",
        "data.workers=many",
        "data.workers=-1",
        "data.max_bad_fraction=1.5",
        "monitor.rows=1",
        "name=a/b",
        "name=..",
        "seed=-1",
        "encoder.ratio=1.5",
    ],
)
def test_impossible_value_names_its_key_and_value(override: str) -> None:
    key, _, value = override.partition("=")
    text = message([override])
    assert text.startswith(f"{key}: expected ") and value.strip(".").lower() in text, text


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("trainer.precision=bf61", "bf16"),
        ("trainer.device=cudaa", "cuda"),
        ("logging.progress=line", "lines"),
        ("optimizer.name=adam_one_cycle", "adam_onecycle"),
    ],
)
def test_choices_name_the_nearest(override: str, nearest: str) -> None:
    assert f"did you mean {nearest}?" in message([override])


def test_a_mistake_in_a_recipe_names_the_recipe(tmp_path: Path) -> None:
    write(tmp_path, "low", "trainer: {max_step: 5}\n")
    top = write(tmp_path, "top", "base: low\n")
    assert message([], top) == "trainer.max_step (recipe low.yaml): unknown key; did you mean trainer.max_steps?"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: lo\n", ("base (recipe top.yaml)", "'lo'", "did you mean low?")),
        ("base: top\n", ("circle", "top.yaml -> top.yaml")),
        ("- 1\n", ("top.yaml", "keys and values")),
        ("a: [1\n", ("top.yaml", "YAML")),
        ("a: 1\na: 2\n", ("top.yaml", "duplicate")),
    ],
)
def test_a_broken_recipe(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    write(tmp_path, "low", "seed: 1\n")
    found = message([], write(tmp_path, "top", text))
    assert all(word in found for word in words), found


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert compose(ToyRun, write(tmp_path, "empty", "# nothing\n"), []) == ToyRun()


def test_repeated_keys() -> None:
    assert repeated_keys(["a=1", "b=2", "a=3"]) == {"a": "3"}
    assert compose(ToyRun, None, ["seed=1", "seed=2"]).seed == 2


def test_nearest_key_of_every_key_with_a_letter_missing() -> None:
    known = list(known_keys(ToyRun))
    for key in known:
        near = nearest_key(key[:-1], known)
        assert near is not None and near.rpartition(".")[2][:2] == key.rpartition(".")[2][:2], (key, near)


def test_docs_come_from_the_docstring() -> None:
    docs = attribute_docs(Encoder)
    assert docs["width"] == "channels of every layer, which is explained on two lines."
    assert docs["kind"] == docs["other"] == "shared words."
    found = keys(ToyRun)
    assert found["trainer.max_steps"].doc == "optimiser steps."
    assert [key for key, entry in keys(RunSettings).items() if not entry.doc] == []
    assert found["encoder.span_m"].expected == "a list of 2 values, a number each"
    assert found["encoder.other"].expected == "text or null"


def test_the_schema_is_left_alone() -> None:
    compose(ToyRun, None, ["encoder.weights.b=2", "logging.trackers=[]"])
    assert ToyRun() == compose(ToyRun, None, []) and ToyRun().logging.trackers == ["tensorboard"]
