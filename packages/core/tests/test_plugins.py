"""Plug-ins through real distribution metadata: what loads, what fails loudly, what a wrong name is told."""

import sys
from pathlib import Path
from typing import Any

import pytest

from jepa_core import help as pages
from jepa_core.cli import main
from jepa_core.errors import ConfigError
from jepa_core.plugins import LoadFailure, find_modality, find_recipe, installed, modalities, recipes

TOY = '''
from dataclasses import dataclass
from pathlib import Path
from jepa_core.settings import RunSettings

@dataclass
class ToyRun(RunSettings):
    """A toy run.

    Attributes:
        modality: always toy.
        size: edge of the toy.
    """
    modality: str = "toy"
    size: int = 3

class Toy:
    name, schema, recipes = "toy", ToyRun, Path(__file__).parent / "toy_recipes"
    def build(self, config): ...
    def sources(self, config): raise ValueError("data.root: expected toys, got none")
    def choices(self, config): return []
    def probe(self, config, trained, untrained, device): ...
    def pictures(self, config, method, batch): ...
    def add_commands(self, subparsers):
        parser = subparsers.add_parser("shake")
        parser.add_argument("times", type=int)
        parser.set_defaults(run=lambda arguments: print("shake " * arguments.times))

TOY = Toy()
HALF = object()
class Stranger(Toy):
    name = "stranger"
STRANGER = Stranger()
'''


def install(site: Path, distribution: str, points: dict[str, str]) -> None:
    info = site / f"{distribution}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[jepa.modalities]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that stands for the only site-packages with plug-ins."""
    import importlib.metadata

    (tmp_path / "toy_plugin.py").write_text(TOY)
    (tmp_path / "toy_recipes").mkdir()
    (tmp_path / "toy_recipes" / "quickstart.yaml").write_text("# A quick toy.\n# paper: none\nsize: 4\n")
    (tmp_path / "toy_recipes" / "large.yaml").write_text("base: quickstart\nsize: 40\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)

    def only_here(group: str) -> Any:
        found = importlib.metadata.distributions(path=[str(tmp_path)])
        return [point for dist in found for point in dist.entry_points if point.group == group]

    monkeypatch.setattr("jepa_core.plugins.entry_points", only_here)
    return tmp_path


@pytest.fixture
def toy(site: Path) -> Path:
    """The toy modality alone."""
    install(site, "jepa-toy", {"toy": "toy_plugin:TOY"})
    return site


def test_a_modality_and_its_recipes(toy: Path) -> None:
    modality = find_modality("toy")
    assert list(modalities()) == ["toy"] and modality.name == "toy"
    assert {name: recipe.summary for name, recipe in recipes(modality).items()} == {
        "large": "",
        "quickstart": "A quick toy.",
    }
    assert find_recipe(modality, "large").name == "large.yaml"
    assert find_recipe(modality, str(toy / "toy_recipes" / "large.yaml")).is_file()


@pytest.mark.parametrize("name", ["larg", "no.yaml"])
def test_a_recipe_that_is_not_there(toy: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="did you mean large|no such file"):
        find_recipe(find_modality("toy"), name)


def test_a_modality_that_is_not_there(toy: Path) -> None:
    with pytest.raises(ConfigError, match=r"installed one \(toy\) or a \.py file, got 'tooy'; did you mean toy\?"):
        find_modality("tooy")


def test_no_modality_at_all(site: Path) -> None:
    with pytest.raises(ConfigError, match="pip install"):
        find_modality("toy")
    assert "no modality is installed" in pages.listing()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:TOY", "ModuleNotFoundError"),
        ("toy_plugin:NOTHING", "AttributeError"),
        ("toy_plugin:HALF", "it has no name, schema"),
        ("toy_plugin:STRANGER", "they must agree"),
    ],
)
def test_a_failure_is_listed_and_keeps_nobody_from_working(toy: Path, value: str, words: str) -> None:
    install(toy, "jepa-broken", {"broken": value})
    failure = modalities()["broken"]
    assert isinstance(failure, LoadFailure) and words in failure.error and "\n" not in failure.error
    assert find_modality("toy").name == "toy"
    with pytest.raises(ConfigError, match="broken is installed and fails to load"):
        find_modality("broken")
    page = pages.listing()
    assert "broken  (jepa-broken 1.2)" in page and f"fails to load: {failure.error}" in page and "A quick toy." in page


def test_two_packages_for_one_name(toy: Path) -> None:
    install(toy, "jepa-other", {"toy": "toy_plugin:STRANGER"})
    failure = modalities()["toy"]
    assert isinstance(failure, LoadFailure) and "two packages" in failure.error


def test_the_same_entry_twice_is_one(toy: Path) -> None:
    install(toy, "jepa-copy", {"toy": "toy_plugin:TOY"})
    assert len(installed()["toy"]) == 1


def test_help_names_every_key_with_its_value_in_the_recipe(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "modality=toy", "recipe=large", "--help"]) == 0
    page = capsys.readouterr().out
    assert "size=40" in page and "edge of the toy. [a whole number]" in page and "trainer.device=auto" in page
    assert "[one of auto, cpu, cuda]" in page and "A quick toy." in page


def test_data_commands_come_from_the_modality(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "shake", "2"]) == 0
    assert capsys.readouterr().out == "shake shake \n"
    assert main(["data", "shake", "often"]) == 2
    assert main(["data", "shak", "2"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_a_modality_says_of_its_data_is_one_line(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks", "modality=toy"]) == 2
    assert capsys.readouterr().err == "jepa: data.root: expected toys, got none\n"


def test_a_repeated_key_is_said(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "modality=toy", "size=1", "size=2", "--help"])
    said = capsys.readouterr()
    assert said.err == "jepa: size is given more than once; the last, 2, counts\n" and "size=2" in said.out
