"""The typed settings of the causal modality; recipes are values for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_core.checks import check_between
from jepa_core.settings import DataSettings, OnlineProbeSettings, OptimizerSettings, RunSettings, TrainerSettings

ENDLESS = float("inf")


@dataclass
class CausalDataSettings(DataSettings):
    """Episodes and what their slots are.

    Attributes:
        root: of slots that others extracted (``slots=files``): a file or folder, see :mod:`jepa_causal.slots.files`;
            with ``slots=learned`` the folder in which trained slot encoders and their slots are kept, None = ``slots``
            in ``runs_dir``. Not used with ``slots=state``.
        world: where episodes come from: ``discs`` (collisions), ``two_rooms`` or ``push_t`` (needs the extra
            ``pusht``). Not used with ``slots=files``.
        slots: ``state`` (a frozen random embedding of true position and colour, without velocity), ``learned`` (slot
            attention on rendered frames, trained first) or ``files``.
        episodes: episodes to train on.
        test_episodes: episodes to hold back; of ``files`` so many of the last.
        steps: frames of an episode of a world.
        seed: of episodes and slot encoder. It is not the run's, so that runs of several seeds share their data.
        frame_skip: frames between two model steps, counted from one to the other; actions of the frames between are put
            side by side.
        objects_min, objects_max: discs of an episode.
        repulsion: strength of a long-range force between discs; 0 = none.
        slot_width: D of ``state`` and ``learned`` slots.
        slot_count: slots of ``learned``, None = ``objects_max`` and one for the background; of ``files`` it is needed
            where a Parquet file has them in one flat list.
        slot_mode: ``learned``: ``image`` (each frame by itself) or ``video`` (slots keep their object over time).
        slot_steps: optimiser steps of the slot encoder; of a ``video`` one the last fifth on clips.
        frame_size: pixels along a side of the frames that it sees.
    """

    world: Literal["discs", "two_rooms", "push_t"] = "discs"
    slots: Literal["state", "learned", "files"] = "state"
    episodes: int = 1500
    test_episodes: int = 200
    steps: int = 50
    seed: int = 0
    frame_skip: int = 1
    objects_min: int = 2
    objects_max: int = 5
    repulsion: float = 0.0
    slot_width: int = 64
    slot_count: int | None = None
    slot_mode: Literal["image", "video"] = "video"
    slot_steps: int = 1125
    frame_size: int = 16


@dataclass
class MaskingSettings:
    """What is hidden of the history; the future always is.

    Attributes:
        kind: ``object`` (all steps after the first of some objects), ``token`` (single slots after the first step) or
            ``tube`` (a run of steps of all objects).
        masked_objects: fewest and most objects hidden in a sample, each number as likely; [0, 0] is OC-JEPA, which
            hides the future alone. With ``token`` and ``tube`` as many slots are hidden.
        share: of the slots after the first step that ``token`` and ``tube`` hide instead; None = see above.
        released_fixed_mask: as the released code, which hides the same places in all samples of a run, drawn once from
            the run's seed; the published text draws them at random. It needs one number of objects, as [1, 1].
        released_anchor_in_loss: as the released code, which counts the visible first step of hidden objects too.
    """

    kind: Literal["object", "token", "tube"] = "object"
    masked_objects: list[int] = field(default_factory=lambda: [0, 1])
    share: float | None = None
    released_fixed_mask: bool = False
    released_anchor_in_loss: bool = False


@dataclass
class PredictorSettings:
    """The transformer that predicts.

    Attributes:
        width: of its tokens; 0 = that of the slots, which are then not projected (as published).
        depth: blocks.
        heads: attention heads.
        head_width: channels of a head.
        mlp: width inside the MLP; 0 = four times the width.
        residual: ``last_visible`` predicts the change since the last visible slot of an object, ``none`` the slot
            itself (as published).
        released_attention: as the released code: heads of ``width / heads`` channels whatever ``head_width`` is, no
            norm before attention.
        dropout: in the released attention; elsewhere there is none.
        init: how linear layers are drawn: ``xavier`` (by a layer's widths), ``torch`` (as the layers are made) or
            ``normal`` (standard deviation 0.02, far too little for narrow predictors: codes of time drown slots).
    """

    width: int = 64
    depth: int = 2
    heads: int = 4
    head_width: int = 64
    mlp: int = 0
    residual: Literal["none", "last_visible"] = "last_visible"
    released_attention: bool = False
    dropout: float = 0.0
    init: Literal["xavier", "torch", "normal"] = "xavier"


@dataclass
class CausalSettings:
    """The method.

    Attributes:
        history: model steps of a window that are given.
        future: model steps of a window that are predicted.
        masking, predictor: see there.
        history_weight, future_weight: factors of the two means in the loss.
        actions, proprio: ``auto`` (given to the predictor where episodes have them) or ``none``.
        matching: ``hungarian`` compares each future step's slots with the targets in the order that fits best (for
            encoders whose slots swap objects), ``none`` in their own.
    """

    history: int = 5
    future: int = 3
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    predictor: PredictorSettings = field(default_factory=PredictorSettings)
    history_weight: float = 1.0
    future_weight: float = 1.0
    actions: Literal["auto", "none"] = "auto"
    proprio: Literal["auto", "none"] = "auto"
    matching: Literal["none", "hungarian"] = "none"


@dataclass
class CausalProbeSettings(OnlineProbeSettings):
    """What a run ends with: forecasts, completions and counterfactuals on episodes that were held back.

    Attributes:
        enabled: whether they are scored; it needs episodes of discs.
    """

    enabled: bool = True


@dataclass
class CausalRun(RunSettings):
    """A run on object slots: the common settings and this modality's.

    Attributes:
        data: see there.
        causal: the method.
        probe: the scores at the end.
    """

    modality: str = "causal"
    data: CausalDataSettings = field(default_factory=CausalDataSettings)
    causal: CausalSettings = field(default_factory=CausalSettings)
    probe: CausalProbeSettings = field(default_factory=CausalProbeSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def validate(self) -> None:
        """Impossible values; each message names the key, what was expected and what came."""
        _check_data(self.data, self.causal.history + self.causal.future)
        _check_masking(self.causal)
        _check_predictor(self.causal.predictor)
        for key in ("history_weight", "future_weight"):
            check_between(f"causal.{key}", getattr(self.causal, key), 0, ENDLESS)


def _check_data(data: CausalDataSettings, window: int) -> None:
    least = {"episodes": 1, "test_episodes": 0, "frame_skip": 1, "objects_min": 1, "slot_width": 1}
    least |= {"slot_steps": 1, "seed": 0, "frame_size": 8}
    for key, low in least.items():
        check_between(f"data.{key}", getattr(data, key), low, ENDLESS)
    if data.slot_count is not None:
        check_between("data.slot_count", data.slot_count, 1, ENDLESS)
    check_between("data.repulsion", data.repulsion, 0, ENDLESS)
    if data.objects_max < data.objects_min:
        raise ValueError(f"data.objects_max: expected {data.objects_min} (objects_min) or more, got {data.objects_max}")
    span = (window - 1) * data.frame_skip + 1
    if data.slots != "files" and data.steps < span:
        raise ValueError(
            f"data.steps: expected {span} or more for causal.history + causal.future = {window} steps at "
            f"data.frame_skip={data.frame_skip}, got {data.steps}"
        )
    if data.slots == "files" and data.root is None:
        raise ValueError("data.root: expected the file or folder of extracted slots with data.slots=files, got none")


def _check_masking(causal: CausalSettings) -> None:
    masking, objects = causal.masking, causal.masking.masked_objects
    check_between("causal.history", causal.history, 1, ENDLESS)
    check_between("causal.future", causal.future, 1, ENDLESS)
    if len(objects) != 2 or not 0 <= objects[0] <= objects[1]:
        raise ValueError(
            f"causal.masking.masked_objects: expected [fewest, most] with 0 <= fewest <= most, got {list(objects)}"
        )
    if masking.share is not None:
        check_between("causal.masking.share", masking.share, 0, 1)
        if masking.kind == "object":
            raise ValueError("causal.masking.share: expected None with kind=object; set masked_objects, or kind=token")
    hides = bool(objects[1] or masking.share)
    if hides and causal.history < 2:
        raise ValueError(
            f"causal.history: expected 2 or more to hide what follows the first step, got {causal.history}; or set "
            "causal.masking.masked_objects=[0,0]"
        )
    if masking.released_fixed_mask and (masking.kind != "object" or objects[0] != objects[1]):
        raise ValueError(
            f"causal.masking.released_fixed_mask: expected kind=object and masked_objects as [1,1], got "
            f"kind={masking.kind} and {list(objects)}"
        )
    if masking.released_anchor_in_loss and not hides:
        raise ValueError("causal.masking.released_anchor_in_loss: expected masked_objects above [0,0], got [0,0]")


def _check_predictor(wanted: PredictorSettings) -> None:
    for key in ("depth", "heads", "head_width"):
        check_between(f"causal.predictor.{key}", getattr(wanted, key), 1, ENDLESS)
    for key in ("width", "mlp"):
        check_between(f"causal.predictor.{key}", getattr(wanted, key), 0, ENDLESS)
    check_between("causal.predictor.dropout", wanted.dropout, 0, 0.99)
    if wanted.dropout and not wanted.released_attention:
        raise ValueError(
            f"causal.predictor.dropout: expected 0 without causal.predictor.released_attention, got {wanted.dropout}"
        )
