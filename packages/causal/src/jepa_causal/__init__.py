"""Objects for jepakit: worlds with ground truth, slot attention, Causal-JEPA (arXiv 2602.11389)."""
