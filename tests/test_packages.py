"""The packages as a user gets them: wheels in an empty environment with the locked versions, and the lock itself."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from running import Runner

LOCK_LINE = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?: ; (?P<marker>.+))?$")
PACKAGES = ["audio", "causal", "core", "lidar", "vision"]
UV = str(Path(sys.executable).parent / "uv")


def checked(command: list[str], folder: Path) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of each package."""
    out = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        command = [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
        checked([*command, "--out-dir", str(out), str(root / "packages" / package)], out)
    return {package: next(out.glob(f"jepa_{package}-*.whl")) for package in PACKAGES}


@pytest.fixture(scope="module")
def environment(root: Path, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheels and what they ask for, nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    checked([UV, "venv", "--quiet", "--python", sys.executable, "empty"], folder)
    programs = folder / "empty" / "bin"
    command = [UV, "pip", "install", "--quiet", "--python", str(programs / "python")]
    checked([*command, "--constraint", str(root / "requirements.lock"), *map(str, wheels.values())], folder)
    return programs


def test_wheels_hold_all_that_is_no_code(root: Path, wheels: dict[str, Path]) -> None:
    names = {package: set(zipfile.ZipFile(wheel).namelist()) for package, wheel in wheels.items()}
    for package in PACKAGES:
        source = root / "packages" / package / "src"
        paths = [path for path in source.glob("jepa_*/**/*") if path.is_file() and path.suffix != ".pyc"]
        relative = [path.relative_to(source) for path in paths]
        files = {str(path) for path in relative if not any(part.startswith(".") for part in path.parts)}
        assert files <= names[package], files - names[package]
        assert not any("tests" in name for name in names[package])
    assert all(f"jepa_{name}/recipes/quickstart.yaml" in names[name] for name in PACKAGES if name != "core")
    assert "jepa_vision/video_recipes/quickstart.yaml" in names["vision"] and "jepa_core/py.typed" in names["core"]
    samples = ("clothing10", "sign_digits")
    assert all(f"jepa_vision/samples/{sample}/ATTRIBUTION.md" in names["vision"] for sample in samples)
    assert "jepa_audio/samples/esc10/ATTRIBUTION.md" in names["audio"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_from_an_empty_environment(environment: Path, run: Runner, quick: list[str], tmp_path: Path) -> None:
    jepa = str(environment / "jepa")
    listed = run([jepa, "list"], tmp_path)
    assert listed.returncode == 0 and "lidar  (jepa-lidar 0.1.0;" in listed.stdout and "quickstart" in listed.stdout
    done = run([jepa, "train", *quick], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs" / "quick" / "result.json").read_text())["modality"] == "lidar"
    assert (tmp_path / "runs" / "quick" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_only_what_the_packages_ask_for_is_installed(environment: Path) -> None:
    code = "import importlib.metadata as m; print('\\n'.join(d.name.lower() for d in m.distributions()))"
    names = set(checked([str(environment / "python"), "-c", code], environment).split())
    assert {"jepa-audio", "jepa-causal", "jepa-core", "jepa-lidar", "jepa-vision", "torch"} <= names
    assert not names & {"pytest", "ruff", "mypy", "spconv-cu126", "open3d", "jepakit"}


def test_the_meta_distribution_pulls_every_package_of_this_version(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pulled = {Requirement(text).name: str(Requirement(text).specifier) for text in project["dependencies"]}
    assert set(pulled) == {f"jepa-{path.parent.name}" for path in root.glob("packages/*/pyproject.toml")}
    for path in root.glob("packages/*/pyproject.toml"):
        package = tomllib.loads(path.read_text())["project"]
        assert pulled[package["name"]] == f"=={package['version']}"
        assert package["requires-python"] == project["requires-python"]
        (head,) = (path.parent / "src").glob("jepa_*/__init__.py")
        assert f'__version__ = "{package["version"]}"' in head.read_text()


def locked(root: Path) -> dict[str, list[tuple[Version, str | None]]]:
    """Versions and markers by name; fails on a line that holds anything else."""
    found: dict[str, list[tuple[Version, str | None]]] = {}
    for line in (root / "requirements.lock").read_text().splitlines():
        match = LOCK_LINE.match(line)
        assert match, f"names and versions only, got {line!r}"
        found.setdefault(match["name"], []).append((Version(match["version"]), match["marker"]))
    return found


def test_the_lock_holds_what_every_package_asks_for(root: Path) -> None:
    versions = locked(root)
    wanted = [tomllib.loads(path.read_text())["project"] for path in root.glob("packages/*/pyproject.toml")]
    requirements = [Requirement(text) for project in wanted for text in project["dependencies"]]
    group = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    for requirement in [*requirements, *map(Requirement, group)]:
        if requirement.name.startswith("jepa-"):
            continue
        assert requirement.name in versions, requirement.name
        assert all(version in requirement.specifier for version, _ in versions[requirement.name]), requirement


@pytest.mark.parametrize("name", ["torch", "spconv-cu126", "numpy"])
def test_the_lock_serves_every_python(root: Path, name: str) -> None:
    from packaging.markers import Marker

    for python in ("3.11.9", "3.12.5", "3.13.1"):
        place = {"python_full_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
        serving = [v for v, marker in locked(root)[name] if marker is None or Marker(marker).evaluate(place)]
        assert len(serving) == 1, (name, python, serving)
