"""``jepa compare`` of two runs: both are embedded first, in one process, and then joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from test_embed import EvaluableToy
from toy import ToyModality, ToySettings, quiet

from jepa_core.compare.verb import is_run, read_arguments, run_comparison
from jepa_core.errors import ConfigError
from jepa_core.evaluate.embed import parse_options, run_embedding
from jepa_core.thumbnails import image_png
from jepa_core.train.run import run_training


def train(runs: Path, name: str, seed: int) -> ToySettings:
    config = quiet(ToySettings(runs_dir=str(runs), name=name, seed=seed))
    config.trainer.max_steps = 2
    assert run_training(config, ToyModality(), "modality: toy\n") == 0
    return config


def test_two_runs(tmp_path: Path) -> None:
    settings = {name: train(tmp_path, name, seed) for seed, name in enumerate(("first", "second"))}
    given = []

    def embed(source: Path, out: Path, options: Mapping[str, str], overrides: Sequence[str]) -> None:
        given.append(list(overrides))
        checkpoint = source / "checkpoints" / "step-2"
        wanted = parse_options({**options, "out": str(out)})
        assert run_embedding(settings[source.name], EvaluableToy(), checkpoint, source.name, wanted) == 0

    arguments = [str(tmp_path / "first"), str(tmp_path / "second"), f"out={tmp_path / 'out'}", "split=all"]
    arguments += ["measures=linear_cka", "permutations=19", "groups=none", "layers=last", "b.total=23"]
    for _ in range(2):  # what an earlier comparison left is made anew
        found, page = run_comparison(read_arguments(arguments, "usage"), embed, lambda text: None)
    assert given[:2] == [[], ["total=23"]] and page.is_file()
    assert (found.name_a, found.name_b) == ("first", "second")
    assert found["linear_cka"].n == 23 and dict((k, (a, b)) for k, a, b in found.metadata)["run"] == ("first", "second")


def test_pictures_of_the_samples_that_the_page_shows(tmp_path: Path) -> None:
    settings = {name: train(tmp_path, name, seed) for seed, name in enumerate(("first", "second"))}
    asked: list[tuple[str, str, list[str], int]] = []

    def embed(source: Path, out: Path, options: Mapping[str, str], overrides: Sequence[str]) -> None:
        wanted = parse_options({**options, "out": str(out)})
        checkpoint = source / "checkpoints" / "step-2"
        assert run_embedding(settings[source.name], EvaluableToy(), checkpoint, source.name, wanted) == 0

    def draw(source: Path, split: str, overrides: Sequence[str], wanted: Callable[[str], bool]) -> Mapping[str, bytes]:
        source_of = EvaluableToy().evaluation(settings[source.name], "all")
        names = [name for name in map(source_of.sample_id, range(len(source_of))) if wanted(name)]
        asked.append((source.name, split, list(overrides), len(names)))
        if source.name == "second":
            raise RuntimeError("no\npencil")
        return {name: image_png(np.zeros((8, 8), np.uint8)) for name in names}

    arguments = [str(tmp_path / "first"), str(tmp_path / "second"), f"out={tmp_path / 'out'}", "split=all"]
    arguments += ["measures=linear_cka", "permutations=19", "groups=none", "layers=last", "b.total=23"]
    said: list[str] = []
    found, page = run_comparison(read_arguments(arguments, "usage"), embed, said.append, draw)
    shown = {name for example in found.examples for name in example.shown(0)}
    assert asked[0] == ("first", "all", [], len(shown)) and asked[1][:3] == ("second", "all", ["total=23"])
    cards = sum(1 + len(example.first) for example in found.examples)
    assert page.read_text(encoding="utf-8").count("data:image/png;base64,") == cards
    assert [line for line in said if "no pictures" in line] == [
        f"the page shows no pictures of {tmp_path / 'second'}: no pencil"
    ]


def test_all_layers_of_a_run_are_embedded_only_where_they_are_asked_for(tmp_path: Path) -> None:
    settings = {name: train(tmp_path, name, seed) for seed, name in enumerate(("first", "second"))}
    given: list[Mapping[str, str]] = []

    def embed(source: Path, out: Path, options: Mapping[str, str], overrides: Sequence[str]) -> None:
        given.append(options)
        wanted = parse_options({**options, "out": str(out)})
        assert run_embedding(settings[source.name], EvaluableToy(), source / "checkpoints" / "step-2", "", wanted) == 0

    arguments = [str(tmp_path / "first"), str(tmp_path / "second"), f"out={tmp_path / 'out'}", "split=all"]
    arguments += ["measures=linear_cka", "permutations=19", "groups=none"]
    run_comparison(read_arguments(arguments, "usage"), embed, lambda text: None)
    assert all("layers" not in options for options in given)
    run_comparison(read_arguments([*arguments, "layers=all"], "usage"), embed, lambda text: None)
    assert [options.get("layers") for options in given[2:]] == ["all", "all"]


def test_folders_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert is_run(tmp_path / "run") and not is_run(tmp_path)
    with pytest.raises(ConfigError, match="expected two tables or runs, got 1"):
        read_arguments([str(tmp_path)], "usage")
