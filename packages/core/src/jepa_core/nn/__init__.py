"""Layers every modality shares."""
