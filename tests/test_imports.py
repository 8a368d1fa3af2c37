"""Who may import whom: the contracts in pyproject.toml hold, and they are able to fail."""

import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports


def test_import_contracts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert lint_imports(config_filename=str(root / "pyproject.toml"), no_cache=True) == 0


def test_a_core_that_imports_a_modality_is_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, line in (("toy_core", "import toy_modality\n"), ("toy_modality", "")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(line)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_packages = ["toy_core", "toy_modality"]\n[[tool.importlinter.contracts]]\n'
        'name = "planted"\ntype = "forbidden"\nsource_modules = ["toy_core"]\nforbidden_modules = ["toy_modality"]\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 1
    assert "planted BROKEN" in capsys.readouterr().out


def test_every_package_is_under_contract(root: Path) -> None:
    packages = sorted(path.parent.name for path in root.glob("packages/*/src/*/__init__.py"))
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert sorted(settings["root_packages"]) == packages
    modalities = sorted(set(packages) - {"jepa_core"})
    independent = next(entry for entry in settings["contracts"] if entry["type"] == "independence")
    forbidden = next(entry for entry in settings["contracts"] if entry.get("source_modules") == ["jepa_core"])
    assert sorted(independent["modules"]) == sorted(forbidden["forbidden_modules"]) == modalities
