"""Vision for jepakit: the I-JEPA line on images."""

__version__ = "0.1.0"
