"""Sound for jepakit: spectrograms and waveforms, from folders of recordings to frozen features."""

__version__ = "0.1.0"
