"""Commands in processes of their own, as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Runner:
    """Runs commands as a user would: another process, a folder of its own, no data named by the environment."""

    def __call__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Exit code and output of a command; nothing is checked."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JEPA_", "PYTHONPATH"))}
        return subprocess.run(
            list(command),
            cwd=folder,
            env={**kept, "OMP_NUM_THREADS": "1", **(environment or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def jepa(self, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """``python -m jepa_core`` with these arguments."""
        return self([sys.executable, "-m", "jepa_core", *arguments], folder)
