"""Weights on disk, for every modality: key tables, files of others, our own format, runs, hub, starting from them."""

from jepa_core.weights.contents import Copy as Copy
from jepa_core.weights.contents import Parts as Parts
from jepa_core.weights.contents import Weights as Weights
from jepa_core.weights.contents import WeightsError as WeightsError
from jepa_core.weights.contents import refuse_misfits as refuse_misfits
from jepa_core.weights.keys import KeyTable as KeyTable
from jepa_core.weights.keys import first as first
from jepa_core.weights.keys import read_lightning as read_lightning
from jepa_core.weights.keys import read_state as read_state
from jepa_core.weights.keys import tensors_of as tensors_of
