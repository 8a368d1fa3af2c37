"""Weights of sound encoders: read from releases and runs, checked by key, written; the model to use."""

from jepa_audio.weights.contents import Weights as Weights
from jepa_audio.weights.facts import Facts as Facts
from jepa_audio.weights.facts import PredictorFacts as PredictorFacts
from jepa_audio.weights.model import AudioModel as AudioModel
from jepa_audio.weights.official import Hints as Hints
from jepa_audio.weights.read import read_weights as read_weights
from jepa_core.weights import WeightsError as WeightsError
