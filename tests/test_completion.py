"""Shell completion: the scripts are whole, and bash offers what it should."""

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from jepa_core.cli import VERBS, main


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash in a file."""
    with contextlib.redirect_stdout(io.StringIO()) as page:
        assert main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("completion") / "jepa.bash"
    path.write_text(page.getvalue())
    return path


def offered(script: Path, line: str) -> list[str]:
    """What Tab offers at the end of a line."""
    code = f"source {script}; COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; _jepa; "
    code += """printf '%s\\n' "${COMPREPLY[@]}" """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_offers_verbs_keys_and_values(bash: Path) -> None:
    assert set(offered(bash, "jepa ")) == set(VERBS)
    assert offered(bash, "jepa nei") == ["neighbours"]
    assert {"lidar", "vision", "audio"} <= set(offered(bash, "jepa train modality="))
    assert "trainer.max_steps=" in offered(bash, "jepa train modality=vision trainer.m")
    assert "vision.encoder.size=" in offered(bash, "jepa train modality=vision vision.enc")
    assert "vision.encoder.size=" not in offered(bash, "jepa train modality=lidar vi")
    assert "quickstart" in offered(bash, "jepa train modality=lidar recipe=")
    assert offered(bash, "jepa train modality=lidar trainer.precision=f") == ["fp32"]
    assert offered(bash, "jepa train dry_run=t") == ["true"]
    assert "metric=" in offered(bash, "jepa neighbours table.parquet ")
    assert {"out=", "layers=", "assume_row_aligned=", "split="} <= set(offered(bash, "jepa compare a.npy b.npy "))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_names_verbs_and_settings(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    page = capsys.readouterr().out
    assert all(verb in page for verb in VERBS) and "trainer.max_steps" in page and "quickstart" in page
    parser = shutil.which(shell)
    if parser is not None:
        assert subprocess.run([parser, "-n"], input=page, text=True, check=False).returncode == 0


def test_a_shell_that_is_none_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2 and "did you mean bash?" in capfd.readouterr().err
    assert main(["completion"]) == 2 and len(capfd.readouterr().err.splitlines()) == 1
