"""Objects for jepakit: worlds with ground truth, slot attention, Causal-JEPA (arXiv 2602.11389)."""

__version__ = "0.1.0"
