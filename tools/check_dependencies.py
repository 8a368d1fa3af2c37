"""What the project depends on, checked without a network: the lock, who may be asked for it, and the licences.

    python tools/check_dependencies.py

- every line of ``requirements.lock`` is ``name==version``, perhaps with a marker: no address, no index, no path;
- every dependency that a ``pyproject.toml`` names is in the lock, in a version that it allows;
- every installed package of the lock has a licence of :data:`ALLOWED`, or stands in :data:`KNOWN` with the reason.

Known faults of versions are a question to a database on the network: ``make audit`` asks it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = re.compile(
    r"\b(MIT\b|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla Public|Unlicense|Zlib|0BSD|HPND|CC0|LGPL|"
    r"Lesser General Public|Historical Permission|Public Domain|Boost)",
    re.IGNORECASE,
)
KNOWN = {
    "nvidia": "NVIDIA's own licence; runtime libraries that torch's CUDA build asks for, not distributed here",
    "cuda": "NVIDIA's own licence; runtime libraries that torch's CUDA build asks for, not distributed here",
    "plyfile": "GPL 3; imported at run time by one reader, not distributed here",
}


def main() -> int:
    """Prints one line for each fault; 1 when there is any."""
    faults: list[str] = []
    locked = read_lock((ROOT / "requirements.lock").read_text(encoding="utf-8"), faults)
    for path in sorted([ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]):
        check_project(path, locked, faults)
    for name in sorted(locked):
        check_licence(name, faults)
    print("\n".join(faults) or f"{len(locked)} dependencies: pinned by name and version, known licences")
    return 1 if faults else 0


def read_lock(text: str, faults: list[str]) -> dict[str, str]:
    """Version by name; what is no plain pin is a fault."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)( ; [\w\s.'\"<>=!()]+)?", line)
        if pin is None:
            faults.append(f"requirements.lock, line {number}: expected name==version, got {line!r}")
        else:
            found[canonicalize_name(pin[1])] = pin[2]
    return found


def check_project(path: Path, locked: dict[str, str], faults: list[str]) -> None:
    """Every dependency of a ``pyproject.toml`` against the lock."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    project = content.get("project", {})
    named = [*project.get("dependencies", []), *content.get("dependency-groups", {}).get("dev", [])]
    where = path.relative_to(ROOT)
    for text in named:
        try:
            wanted = Requirement(text)
        except InvalidRequirement as error:
            faults.append(f"{where}: {text!r}: {error}")
            continue
        name = canonicalize_name(wanted.name)
        if wanted.url:
            faults.append(f"{where}: {text!r}: expected a name and versions, got an address")
        elif name.startswith("jepa-"):
            continue
        elif name not in locked:
            faults.append(f"{where}: {name} is not in requirements.lock: make lock")
        elif not wanted.specifier.contains(locked[name], prereleases=True):
            faults.append(f"{where}: {text!r}, but requirements.lock has {locked[name]}: make lock")


def check_licence(name: str, faults: list[str]) -> None:
    """Of an installed package; those of other platforms are not installed and are passed over."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return
    named = [line for line in found.get_all("Classifier") or [] if line.startswith("License")]
    stated = {name: str(found.json.get(name, "")) for name in ("license_expression", "license")}
    said = " ".join([stated["license_expression"], *named, stated["license"][:200]])
    if not ALLOWED.search(said) and not any(name == known or name.startswith(f"{known}-") for known in KNOWN):
        faults.append(f"{name}: licence {said.strip()[:80] or 'not named'!r} is not among those that are known")


if __name__ == "__main__":
    sys.exit(main())
