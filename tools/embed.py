"""The door for ``accelerate launch tools/embed.py <run folder> out=...``: the same as ``jepa embed``."""

import sys

from jepa_core.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
