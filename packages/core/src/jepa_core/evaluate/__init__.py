"""Frozen features against controls: probes and their errors."""
