"""The door for ``accelerate launch tools/train.py modality=...``: the same as ``jepa train``."""

import sys

from jepa_core.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
