"""Weights of image and video encoders: read from releases, transformers, timm and runs, checked by key, written."""

from jepa_vision.weights.contents import Weights as Weights
from jepa_vision.weights.contents import WeightsError as WeightsError
from jepa_vision.weights.facts import Facts as Facts
from jepa_vision.weights.facts import PredictorFacts as PredictorFacts
from jepa_vision.weights.model import VisionModel as VisionModel
from jepa_vision.weights.official import Hints as Hints
from jepa_vision.weights.read import read_weights as read_weights
