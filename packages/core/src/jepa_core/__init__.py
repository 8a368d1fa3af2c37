"""The parts every joint-embedding predictive architecture is made of, whatever the sensor."""

__version__ = "0.1.0"
