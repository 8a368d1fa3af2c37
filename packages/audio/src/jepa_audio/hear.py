"""The common API of HEAR 2021 (arXiv 2203.03022): ``hear-eval-kit`` and other tools take this module by its name.

Time steps are as long as the model's tiles; HEAR suggests at most 50 ms for its transcription tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_audio.weights.model import AudioModel, open_model

RATES = (16_000, 22_050, 44_100, 48_000)
"""Those in which HEAR has its tasks."""


class HearModel(nn.Module):
    """What :func:`load_model` gives.

    Attributes:
        model: the encoder.
        sample_rate: Hz of the sounds that it takes: the model's, or the next of HEAR's four, resampled from here.
        scene_embedding_size: D of a sound.
        timestamp_embedding_size: D of a time step.
    """

    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        self.model = model
        self.sample_rate: int = next((rate for rate in RATES if rate >= model.sample_rate_hz), RATES[-1])
        self.scene_embedding_size: int = model.feature_size()
        self.timestamp_embedding_size: int = model.timestamp_size


def load_model(model_file_path: str = "") -> HearModel:
    """Loads a model, in eval mode.

    Args:
        model_file_path: see :func:`jepa_audio.weights.model.open_model`. None comes with the package.

    Raises:
        ValueError: there is no such model.
    """
    if not model_file_path:
        raise ValueError("model_file_path: expected a run, a saved model or a released .ckpt file, got none")
    return HearModel(open_model(model_file_path)).eval()


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Sounds ``[n_sounds, n_samples]`` in -1..1 to time steps.

    Returns:
        float32 ``[n_sounds, T, timestamp_embedding_size]``, and their middles in milliseconds, float32
        ``[n_sounds, T]``.
    """
    return model.model.timestamps(audio, model.sample_rate)


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Sounds ``[n_sounds, n_samples]`` in -1..1 to one vector each, float32 ``[n_sounds, scene_embedding_size]``."""
    return model.model.features(audio, model.sample_rate)
