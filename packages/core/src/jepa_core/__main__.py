"""``python -m jepa_core`` is ``jepa``."""

from jepa_core.cli import entry

if __name__ == "__main__":
    entry()
