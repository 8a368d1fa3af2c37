"""Shell completion in fish and zsh themselves: what Tab offers there."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_core.cli import VERBS, main

FISH, ZSH = shutil.which("fish"), shutil.which("zsh")
PATIENCE_S = 60.0


def script(shell: str, folder: Path) -> Path:
    """The script of a shell in a file."""
    with contextlib.redirect_stdout(io.StringIO()) as page:
        assert main(["completion", shell]) == 0
    path = folder / f"jepa.{shell}"
    path.write_text(page.getvalue())
    return path


@pytest.mark.skipif(FISH is None, reason="no fish on PATH")
def test_fish_offers_verbs_keys_and_values(tmp_path: Path) -> None:
    path = script("fish", tmp_path)
    (tmp_path / "my_run").mkdir()
    lines = {
        "jepa ": set(VERBS),
        "jepa nei": {"neighbours"},
        "jepa train modality=vi": {"modality=video", "modality=vision"},
        "jepa train modality=vision trainer.max_s": {"trainer.max_steps="},
        "jepa train modality=lidar recipe=occ": {"recipe=occupancy"},
        "jepa train modality=lidar vision.enc": set(),
        "jepa train trainer.precision=f": {"trainer.precision=fp32"},
        "jepa train my_r": set(),
        "jepa train data.root=my_r": {"data.root=my_run/"},
        "jepa report my_r": {"my_run/"},
        "jepa completion ": {"bash", "zsh", "fish"},
    }
    code = "\n".join([f"source {path}", *(f"complete -C '{line}'; echo ==" for line in lines)])
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    assert FISH is not None
    done = subprocess.run(
        [FISH, "--no-config", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0 and done.stderr == ""
    # A candidate's description stands behind a tabulator.
    blocks = [{line.partition("\t")[0] for line in block.split("\n") if line} for block in done.stdout.split("==\n")]
    for line, found in zip(lines, blocks, strict=False):
        assert found == lines[line], line


class Zsh:
    """A zsh on a terminal of its own, in which Tab can be pressed."""

    def __init__(self, path: Path) -> None:
        assert ZSH is not None
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(path.parent)
            os.execve(ZSH, [ZSH, "-f", "-i"], {**os.environ, "HOME": str(path.parent), "TERM": "dumb", "PS1": ""})
        show = "show() { print -r -- \"<$BUFFER>\"; BUFFER=''; }; zle -N show; bindkey '^X' show"
        self.send(f"unsetopt auto_menu list_beep; autoload -U compinit; compinit -u -D; source {path}; {show}")
        self.send("\nprint -r -- rea''dy\n")
        self.read("ready")

    def send(self, text: str) -> None:
        """Types."""
        os.write(self.terminal, text.encode())

    def read(self, until: str) -> str:
        """What is shown until a text has come."""
        shown, end = "", time.monotonic() + PATIENCE_S
        while until not in shown:
            ready, _, _ = select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"zsh did not show {until!r}: {shown!r}"
            shown += os.read(self.terminal, 65536).decode(errors="replace")
        return shown

    def completed(self, line: str) -> str:
        """The line after Tab."""
        self.send(f"{line}\t\x18")
        shown = self.read(">")
        return shown[shown.rindex("<") + 1 : shown.rindex(">")]

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self.send("\nexit\n")
        os.close(self.terminal)
        os.waitpid(self.process, 0)


@pytest.fixture
def zsh(tmp_path: Path) -> Iterator[Zsh]:
    """A zsh that has sourced the script."""
    (tmp_path / "my_run").mkdir()
    started = Zsh(script("zsh", tmp_path))
    yield started
    started.close()


@pytest.mark.skipif(ZSH is None, reason="no zsh on PATH")
def test_zsh_completes_verbs_keys_and_values(zsh: Zsh) -> None:
    for line, wanted in {
        "jepa nei": "jepa neighbours ",
        "jepa train moda": "jepa train modality=",
        "jepa train modality=li": "jepa train modality=lidar ",
        "jepa train modality=vision trainer.max_s": "jepa train modality=vision trainer.max_steps=",
        "jepa train modality=lidar recipe=occ": "jepa train modality=lidar recipe=occupancy ",
        "jepa train modality=lidar vision.enc": "jepa train modality=lidar vision.enc",
        "jepa train trainer.precision=f": "jepa train trainer.precision=fp32 ",
        "jepa train data.root=my": "jepa train data.root=my_run/",
        "jepa report my": "jepa report my_run/",
        "jepa completion f": "jepa completion fish",
    }.items():
        assert zsh.completed(line) == wanted, line
