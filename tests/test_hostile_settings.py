"""Settings of strangers: no variable of the environment and no Python file of theirs gets into a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jepa_core.cli import main
from jepa_core.config import compose
from jepa_core.errors import ConfigError
from jepa_core.plugins import find_modality
from jepa_core.request import configure_as

TEXTS = {
    "a text": "name: ${oc.env:SECRET}",
    "within a text": "data: {root: 'https://example.org/${oc.env:SECRET}'}",
    "in a list": "logging: {trackers: ['${oc.env:SECRET}']}",
    "escaped for YAML": 'name: "\\x24{oc.env:SECRET}"',
    "escaped for OmegaConf": "name: '\\${oc.env:SECRET}'",
    "a resolver": "seed: ${oc.decode:'${oc.env:SECRET}'}",
    "another setting": "name: ${runs_dir}",
    "by way of a setting": "runs_dir: ${oc.env:SECRET}\nname: ${runs_dir}",
    "unfinished": "name: ${",
    "a recipe below": "base: ${oc.env:SECRET}",
    "the modality": "modality: ${oc.env:SECRET}",
}


@pytest.mark.parametrize("case", TEXTS)
def test_variables_of_the_environment_stay_there(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    recipe = tmp_path / "theirs.yaml"
    recipe.write_text(TEXTS[case])
    with pytest.raises(ConfigError) as refusal:
        compose(find_modality("causal").schema, recipe, ())
    assert "hunter2" not in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "value", ["${oc.env:SECRET}", "a${runs_dir}", "${", "'${oc.env:SECRET}'", "[${oc.env:SECRET}]"]
)
def test_the_command_line_has_the_same_rule(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(ConfigError, match=r'name \(command line\): .* name="\$NAME"') as refusal:
        compose(find_modality("causal").schema, None, [f"name={value}"])
    assert "hunter2" not in str(refusal.value)


def test_a_dollar_alone_is_a_letter() -> None:
    settings = compose(find_modality("causal").schema, None, ["data.root=/a/$b{c}", "name=$x"])
    assert (settings.data.root, settings.name) == ("/a/$b{c}", "$x")


@pytest.mark.parametrize("verb", ["probe", "embed"])
def test_a_run_does_not_bring_its_own_code(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "theirs" / "checkpoints" / "step-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(json.dumps({"format_version": 1, "sha256": {}}))
    (tmp_path / "theirs" / f"{verb}_evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    for name in (
        tmp_path / "theirs" / f"{verb}_evil.py",
        f"theirs/{verb}_evil.py",
        tmp_path / "x" / ".." / "theirs" / f"{verb}_evil.py",
    ):
        (checkpoint / "config.yaml").write_text(f"modality: {name}\n")
        with pytest.raises(ConfigError, match="refused to run"):
            configure_as(checkpoint / "config.yaml", ())
        assert main([verb, f"run={checkpoint}", "out=x.parquet"]) == 2
        assert "refused to run" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()
    # Whoever names it, trusts it: it is run, and fails for what it lacks.
    with pytest.raises(ConfigError, match="MODALITY"):
        configure_as(checkpoint / "config.yaml", [f"modality=theirs/{verb}_evil.py"])
    assert (tmp_path / "marker").exists()
