"""The README tells the truth: its paths exist, its verbs and recipes are those of the command, it stays short."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from jepa_audio.weights import AudioModel
from jepa_core.cli import VERBS
from jepa_core.plugins import find_modality, recipes
from jepa_vision.weights import VisionModel


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def test_it_is_short(readme: str) -> None:
    assert len(readme.splitlines()) < 200


def test_every_link_leads_somewhere(root: Path, readme: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert links and not [link for link in links if not (root / link).exists()]


def test_every_path_of_the_tree_exists(root: Path, readme: str) -> None:
    tree = readme.split("## The tree")[1].split("```")[1]
    folder, missing = root, []
    for line in tree.strip().splitlines():
        names = re.split(r" {2,}", line.strip())
        indented = line.startswith(" ")
        if not indented:
            folder = root / names[0].split()[0] if names[0].startswith("packages/") else root
        # Names are separated by two spaces; the description begins at the first thing that is no path.
        for name in (n for part in names for n in part.split() if re.fullmatch(r"[\w./*-]+(\.py|/|\.md|\.yaml)", n)):
            base = folder if indented else root
            if not list(base.glob(name.rstrip("/"))):
                missing.append(f"{base.relative_to(root)}/{name}")
    assert not missing


def test_verbs_are_those_of_the_command(readme: str) -> None:
    assert set(re.findall(r"^jepa (\w+)", readme, re.M)) == set(VERBS)


@pytest.mark.parametrize("page", ["audio", "causal", "compare", "vision", "lidar", "decisions"])
def test_every_link_of_the_pages_leads_somewhere(root: Path, page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (root / f"docs/{page}.md").read_text(encoding="utf-8"))
    assert not [link for link in links if not (root / "docs" / link).exists()]


@pytest.mark.parametrize(
    ("page", "heading", "modality"),
    [
        ("audio", "Recipes", "audio"),
        ("causal", "Recipes", "causal"),
        ("lidar", "Recipes", "lidar"),
        ("vision", "Recipes of images", "vision"),
        ("vision", "Recipes of video", "video"),
    ],
)
def test_recipes_are_those_of_the_package(root: Path, page: str, heading: str, modality: str) -> None:
    text = (root / f"docs/{page}.md").read_text(encoding="utf-8")
    section = text.split(f"## {heading}")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == set(recipes(find_modality(modality)))


def test_launch_files_exist(root: Path, readme: str) -> None:
    assert all((root / path).is_file() for path in re.findall(r"--config_file (\S+)", readme))


@pytest.mark.parametrize("page", ["README.md", "docs/vision.md", "docs/audio.md"])
def test_models_are_called_as_they_can_be(root: Path, page: str) -> None:
    models = {"VisionModel": VisionModel, "AudioModel": AudioModel}
    text = (root / page).read_text(encoding="utf-8")
    called = 0
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for node in ast.walk(ast.parse(block)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            kind = models.get(owner, AudioModel if page.endswith("audio.md") else VisionModel)
            if owner in models or owner == "model":
                function = getattr(kind, node.func.attr)
                own = [] if owner in models else [None]
                named = {keyword.arg or "": None for keyword in node.keywords}
                inspect.signature(function).bind(*own, *([None] * len(node.args)), **named)
                called += 1
    assert called > 1
