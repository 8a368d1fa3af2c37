"""Maskers that several modalities share."""
