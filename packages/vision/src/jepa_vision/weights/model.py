"""A model to use: uint8 pictures or clips in, tokens or features out; loaded from and written to every known format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from jepa_core.contracts import Tokens
from jepa_core.weights import hub
from jepa_core.weights.folders import CONFIG, write_json, write_tensors
from jepa_vision.weights import huggingface, timm_models
from jepa_vision.weights.contents import Copy, Parts, Weights
from jepa_vision.weights.facts import Facts
from jepa_vision.weights.official import Hints, read_official
from jepa_vision.weights.own import OWN
from jepa_vision.weights.read import read_folder
from jepa_vision.weights.runs import read_run

_FILES = (*hub.FILES, "*preprocessor_config.json")


class VisionModel(hub.PushesToHub, nn.Module):
    """An encoder with its front end and, where there is one, its predictor.

    >>> model = VisionModel.from_run("runs/vision-quickstart", which="target")  # doctest: +SKIP
    >>> model.features(images)  # uint8 [B, 3, H, W] to [B, D]  # doctest: +SKIP

    Attributes:
        facts: sizes, patch, usual input, normalisation.
        front_end: normalises and cuts into patches.
        encoder: see :class:`jepa_vision.encoder.VisionTransformer`.
        predictor: see :class:`jepa_core.nn.predictor.TransformerPredictor`; None = there is none. It predicts on the
            lattice of the usual input only.
    """

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.facts = facts
        self.front_end = facts.front_end()
        self.encoder = facts.encoder()
        self.predictor = None if facts.predictor is None else facts.build_predictor()

    # ---------------------------------------------------------------------------------------------- use

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of uint8 pictures ``[B, 3, H, W]`` or clips ``[B, 3, T, H, W]``, ``[B, N, D]`` after the last norm.

        Sides other than the usual ones are possible where they are multiples of the patch.
        """
        inputs, _ = self.front_end(images, self._no_seeds(images))
        return cast(Tokens, self.encoder(inputs, None))

    def features(self, images: Tensor, layers: Sequence[int] = ()) -> Tensor:
        """One vector for each picture or clip: the mean of its tokens, ``[B, D]``.

        Args:
            images: as for :meth:`forward`.
            layers: blocks whose outputs are averaged instead, before any norm, and laid side by side in this order,
                ``[B, len(layers) * D]``; counted from 0, or from the end when negative.
        """
        if not layers:
            return self(images).features.mean(1)
        inputs, _ = self.front_end(images, self._no_seeds(images))
        tokens = self.encoder.forward_layers(inputs, None, layers)
        named = [tokens.layers[f"block_{layer % self.facts.size.depth}"] for layer in layers]
        return torch.cat([features.mean(1) for features in named], dim=-1)

    def _no_seeds(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), dtype=torch.long, device=images.device)

    # ---------------------------------------------------------------------------------------------- load

    @classmethod
    def from_weights(cls, weights: Weights) -> VisionModel:
        """The model, in eval mode, of what :func:`jepa_vision.weights.read.read_weights` gave."""
        model = cls(weights.facts)
        model.encoder.load_state_dict(dict(weights.encoder))
        if model.predictor is not None:
            assert weights.predictor is not None
            model.predictor.load_state_dict(dict(weights.predictor))
        return model.eval()

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | os.PathLike[str], revision: str | None = None, *, parts: Parts = "all"
    ) -> VisionModel:
        """Loads a folder of this project, of transformers or of timm: a local one, or one on the Hugging Face hub.

        Args:
            path_or_hub_id: a folder, or ``<owner>/<name>``.
            revision: branch, tag or commit on the hub; None = its main branch.
            parts: ``all`` or ``encoder``.

        Raises:
            ValueError: it is none of these, is damaged or newer than this version, or cannot be had from the hub.
        """
        folder = hub.local_folder(path_or_hub_id, revision, _FILES)
        return cls.from_weights(read_folder(folder, parts=parts))

    @classmethod
    def from_run(
        cls, folder: str | os.PathLike[str], which: Literal["online", "target"], *, parts: Parts = "all"
    ) -> VisionModel:
        """Loads a run (its newest whole checkpoint) or a checkpoint folder; ``target`` is the moving average."""
        copy: Copy = "teacher" if which == "target" else "student"
        return cls.from_weights(read_run(Path(folder), copy, parts=parts))

    @classmethod
    def from_official(
        cls, path: str | os.PathLike[str], which: Copy, *, parts: Parts = "all", hints: Hints | None = None
    ) -> VisionModel:
        """Loads a released checkpoint; arguments as of :func:`jepa_vision.weights.official.read_official`."""
        return cls.from_weights(read_official(path, which, parts=parts, hints=hints))

    @classmethod
    def from_huggingface(cls, source: Any, *, parts: Parts = "all") -> VisionModel:
        """Loads a folder that transformers wrote, or an ``IJepaModel`` or ``VJEPA2Model`` in memory."""
        if isinstance(source, nn.Module):
            config = cast(Any, source).config.to_dict()
            read = huggingface.from_config(config, source.state_dict(), type(source).__name__, parts=parts)
            return cls.from_weights(read)
        return cls.from_weights(huggingface.read_huggingface(Path(source), parts=parts))

    @classmethod
    def from_timm(cls, source: Any) -> VisionModel:
        """Loads a folder that timm wrote, or a ``timm.models.VisionTransformer`` in memory."""
        if isinstance(source, nn.Module):
            return cls.from_weights(timm_models.from_model(source))
        return cls.from_weights(timm_models.read_timm(Path(source)))

    # ---------------------------------------------------------------------------------------------- write

    def weights(self) -> Weights:
        """The tensors and facts as they are now."""
        predictor = None if self.predictor is None else self.predictor.state_dict()
        return Weights("model", "jepakit", self.facts, self.encoder.state_dict(), predictor)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``config.json`` (with a format version and the weights' SHA-256) and ``model.safetensors``."""
        tensors = {name: value for name, value in self.state_dict().items() if not name.startswith("front_end.")}
        OWN.write(Path(folder), self.facts, tensors)

    def to_huggingface(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``config.json``, ``model.safetensors`` and the processor's configuration as transformers reads them.

        Pictures become an ``IJepaModel``, which has no predictor; clips a ``VJEPA2Model`` with all mask tokens in their
        order, of which the inference of transformers takes row 1 (see :mod:`jepa_vision.weights.huggingface`).

        Raises:
            ValueError: no model of transformers computes what this one does.
        """
        config, tensors = huggingface.to_config(self.weights())
        write_tensors(Path(folder), tensors)
        write_json(Path(folder) / CONFIG, config)
        name, processor = huggingface.processor_config(self.facts)
        write_json(Path(folder) / name, processor)

    def to_timm(self) -> nn.Module:
        """A ``timm.models.VisionTransformer`` of the encoder, in eval mode; its output equals :meth:`features`.

        It takes normalised float pictures, not uint8 ones.

        Raises:
            ValueError: timm's blocks compute something else.
        """
        return timm_models.build(self.weights())

    def save_timm(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that ``timm.create_model("local-dir:<folder>", pretrained=True)`` loads.

        Raises:
            ValueError: timm's blocks compute something else.
        """
        config, tensors = timm_models.to_config(self.facts), timm_models.to_state(self.weights())
        write_tensors(Path(folder), tensors)
        write_json(Path(folder) / CONFIG, config)
