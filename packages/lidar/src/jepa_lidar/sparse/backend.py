"""Which package does the sparse convolutions, and why."""

from __future__ import annotations

import importlib.util

import torch

BACKENDS = ("auto", "torch", "spconv")
_MEND = "pip install spconv-cu126, or choose torch"


def choose_backend(name: str, device: torch.device) -> tuple[str, str]:
    """The backend of ``auto``, ``torch`` or ``spconv`` on this device, and the reason, for printing.

    Raises:
        ValueError: unknown name, or spconv is asked for and cannot be used.
    """
    if name not in BACKENDS:
        raise ValueError(f"sparse backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    if name == "torch":
        return "torch", "as set"
    if name == "auto" and device.type != "cuda":
        # Said before spconv is looked at: importing it takes four seconds.
        return "torch", f"needs no other package and is level with spconv on a {device.type}"
    problem = spconv_problem()
    if name == "spconv":
        if problem:
            raise ValueError(f"sparse backend: spconv was asked for, but {problem}; {_MEND}")
        return "spconv", "as set"
    if problem:
        return "torch", f"{problem}; to add it: pip install spconv-cu126"
    return "spconv", "its kernels are made for cuda"


def spconv_problem() -> str | None:
    """Why spconv cannot be used; None when it can."""
    if importlib.util.find_spec("spconv") is None:
        return "spconv is not installed"
    try:
        import spconv.pytorch  # noqa: F401  # only whether it loads
    except Exception as error:  # a build for another CUDA or Python can fail in any way
        return f"spconv does not load ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return None
