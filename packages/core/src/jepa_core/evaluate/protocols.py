"""Cross-validation of frozen features: given folds or leave-one-group-out, and no choice made on a test fold.

In every fold all that is chosen (the penalty of the linear head, the readout) is chosen by a cross-validation of the
fold's training part that keeps groups whole; the test part is predicted once. Hand-made controls are features like any
others. Letters: N samples, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from jepa_core.checks import hint
from jepa_core.evaluate.linear import L2S, Standardiser, choose_l2, group_folds, linear_predictions
from jepa_core.evaluate.probes import Estimate, bootstrap_stderr, knn_predictions, paired_bootstrap

Head = Literal["linear", "knn", "knn_standardised"]
BEST = "best_readout"


@dataclass(frozen=True)
class Fold:
    """One division of the samples.

    Attributes:
        name: of what is held out.
        train, test: int64, which samples.
    """

    name: str
    train: Tensor
    test: Tensor


Features = Tensor | Mapping[str, Tensor] | Callable[[Fold], Tensor]
"""``[N, D]``, the same in all folds or, by name or by call, for each: of an encoder trained on its training part."""


def k_folds(fold_labels: Iterable[object] | Tensor) -> tuple[Fold, ...]:
    """The folds that come with a data set: each is held out once.

    Args:
        fold_labels: ``[N]`` fold of each sample, numbers or text.

    Raises:
        ValueError: fewer than two folds.
    """
    return _hold_out_each("fold_labels", fold_labels)


def leave_one_group_out(groups: Iterable[object] | Tensor) -> tuple[Fold, ...]:
    """A fold for each group: a speaker, a recording, a drive.

    Args:
        groups: ``[N]`` group of each sample, numbers or text.

    Raises:
        ValueError: fewer than two groups.
    """
    return _hold_out_each("groups", groups)


def _hold_out_each(what: str, labels: Iterable[object] | Tensor) -> tuple[Fold, ...]:
    values = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    names = sorted(set(values))
    if len(names) < 2:
        raise ValueError(f"{what}: expected at least 2 different values, got {names}; there is nothing to hold out")
    place = {name: number for number, name in enumerate(names)}
    number_of_row = torch.tensor([place[value] for value in values])
    return tuple(
        Fold(str(name), torch.nonzero(number_of_row != k).flatten(), torch.nonzero(number_of_row == k).flatten())
        for k, name in enumerate(names)
    )


# -------------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Score:
    """A readout under a head.

    Attributes:
        readout, head: their names.
        values: accuracy of each fold.
        predictions: classes predicted for each fold's test samples, int64.
        chosen: what the cross-validation inside each training part chose.
        by_groups: standard error of the mean when whole groups (samples without groups) are drawn again over all folds;
            it holds the encoder and the training parts as they are. NaN of one group.
        by_folds: standard deviation between folds / sqrt(folds); training parts overlap, so it is no bound either way.
            NaN of one fold.
    """

    readout: str
    head: str
    values: tuple[float, ...]
    predictions: tuple[Tensor, ...]
    chosen: tuple[str, ...]
    by_groups: float
    by_folds: float

    @property
    def mean(self) -> float:
        """Mean over folds."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True)
class CrossValidation:
    """Outcome of :func:`cross_validate`.

    Attributes:
        folds: what the figures stand on.
        scores: each readout under each head, then :data:`BEST`.
    """

    folds: tuple[Fold, ...]
    scores: tuple[Score, ...]
    _drawn: _Drawn

    def score(self, readout: str, head: str) -> Score:
        """One row of the table.

        Raises:
            ValueError: there is none of these names.
        """
        for score in self.scores:
            if (score.readout, score.head) == (readout, head):
                return score
        known = [f"{score.readout}/{score.head}" for score in self.scores]
        wanted = f"{readout}/{head}"
        raise ValueError(f"readout/head: expected one of {', '.join(known)}, got {wanted}{hint(wanted, known)}")

    def difference(self, readout: str, control: str, head: str) -> Estimate:
        """Mean accuracy of one readout minus that of another, both under the same draws of groups."""
        one, other = (self._drawn.correct(self.score(name, head).predictions) for name in (readout, control))
        return paired_bootstrap(_mean_over_folds, one, other, self._drawn.share, self._drawn.units, DRAWS)

    def lines(self) -> list[str]:
        """The table: mean, both errors, then each fold, in percent."""
        width = max(len(score.readout) for score in self.scores)
        head = max(len(score.head) for score in self.scores)
        names = " ".join(f"{fold.name:>8.8}" for fold in self.folds)
        rows = [f"{'':{width}}  {'':{head}}  mean  +-groups  +-folds  {names}"]
        for score in self.scores:
            values = " ".join(f"{100 * value:8.1f}" for value in score.values)
            rows.append(
                f"{score.readout:{width}}  {score.head:{head}}  {100 * score.mean:4.1f}  {100 * score.by_groups:8.1f}  "
                f"{100 * score.by_folds:7.1f}  {values}"
            )
        return rows


DRAWS = 1000
"""Of groups, for standard errors."""


@dataclass(frozen=True)
class _Drawn:
    """The test samples of all folds, one after the other, as what is drawn again.

    Attributes:
        truth: classes ``[R]``.
        share: ``[R]`` one over the samples of the row's fold, so that folds of unequal sizes count alike.
        units: ``[R]`` group of each row, or its own number.
    """

    truth: Tensor
    share: Tensor
    units: Tensor

    @classmethod
    def of(cls, labels: Tensor, folds: Sequence[Fold], groups: Tensor | None) -> _Drawn:
        rows = torch.cat([fold.test for fold in folds])
        share = torch.cat([torch.full((len(fold.test),), 1 / len(fold.test)) for fold in folds]).double()
        return cls(labels[rows], share, rows if groups is None else groups[rows])

    def correct(self, predictions: Sequence[Tensor]) -> Tensor:
        """Share of each row where it is right, 0 where it is wrong."""
        return (torch.cat(list(predictions)) == self.truth) * self.share


def _mean_over_folds(correct: Tensor, share: Tensor, weights: Tensor) -> Tensor:
    # With weights of 1 this is the mean over folds; a fold that no draw holds has no say, instead of no value.
    return (weights * correct).sum(-1) / (weights * share).sum(-1)


# ---------------------------------------------------------------------------------------------------------------- heads


@dataclass(frozen=True)
class HeadSettings:
    """How heads are fitted.

    Attributes:
        l2s: penalties tried by ``linear``, see :func:`jepa_core.evaluate.linear.choose_l2`.
        inner_folds: of the cross-validation inside each training part.
        k, temperature: of ``knn`` (X-ARES: 10 and 0.07, features as they are) and ``knn_standardised``; fixed.
    """

    l2s: tuple[float, ...] = L2S
    inner_folds: int = 4
    k: int = 10
    temperature: float = 0.07


@dataclass(frozen=True)
class _Train:
    """A fold's training part."""

    x: Tensor
    y: Tensor
    groups: Tensor | None


@dataclass(frozen=True)
class _Outcome:
    """Of one readout and head in one fold; ``validation``: accuracy inside the training part."""

    predicted: Tensor
    validation: float
    chosen: str


def _linear(train: _Train, test_x: Tensor, settings: HeadSettings) -> _Outcome:
    l2, validation = choose_l2(train.x, train.y, train.groups, settings.l2s, settings.inner_folds)
    return _Outcome(linear_predictions(train.x, train.y, test_x, l2), validation[l2], f"l2={l2:g}")


def _knn(train: _Train, test_x: Tensor, settings: HeadSettings) -> _Outcome:
    return _neighbours(train, test_x, settings, lambda fit, x: x)


def _knn_standardised(train: _Train, test_x: Tensor, settings: HeadSettings) -> _Outcome:
    return _neighbours(train, test_x, settings, lambda fit, x: Standardiser.fit(fit)(x))


def _neighbours(
    train: _Train, test_x: Tensor, settings: HeadSettings, scale: Callable[[Tensor, Tensor], Tensor]
) -> _Outcome:
    def predict(x: Tensor, y: Tensor, held: Tensor) -> Tensor:
        return knn_predictions(scale(x, x), y, scale(x, held), settings.k, settings.temperature)

    correct = 0
    for fit, held in group_folds(train.y, train.groups, settings.inner_folds):
        correct += int((predict(train.x[fit], train.y[fit], train.x[held]) == train.y[held]).sum())
    return _Outcome(predict(train.x, train.y, test_x), correct / len(train.y), f"k={settings.k}")


_HEADS: dict[str, Callable[[_Train, Tensor, HeadSettings], _Outcome]] = {
    "linear": _linear,
    "knn": _knn,
    "knn_standardised": _knn_standardised,
}


# ------------------------------------------------------------------------------------------------------------ protocol


def cross_validate(
    features: Mapping[str, Features],
    labels: Tensor,
    folds: Sequence[Fold],
    groups: Tensor | None = None,
    heads: Sequence[Head] = ("linear", "knn"),
    settings: HeadSettings | None = None,
    choose_from: Sequence[str] | None = None,
) -> CrossValidation:
    """Probes every readout in every fold.

    The row :data:`BEST` takes in each fold the readout that does best, under the same head, in the cross-validation of
    that fold's training part (of equals the first); only its predictions of the test part count.

    Args:
        features: by name of the readout, see :data:`Features`; controls are among them.
        labels: int64 ``[N]`` class ids.
        folds: of :func:`k_folds` or :func:`leave_one_group_out`.
        groups: int64 ``[N]`` recording or speaker. No group may lie on both sides of a fold; inside training parts they
            are kept whole too, and standard errors draw them. None = each sample is its own.
        heads: ``linear`` (converged logistic regression), ``knn``, ``knn_standardised``.
        settings: of the heads.
        choose_from: readouts that :data:`BEST` chooses from, without the controls; None = all. With one there is no
            such row.

    Raises:
        ValueError: folds that overlap, groups on both sides, features of a wrong shape or with NaN, unknown names.
    """
    settings = HeadSettings() if settings is None else settings
    candidates = list(features) if choose_from is None else list(choose_from)
    _check_names(features, heads, candidates)
    labels, groups = labels.cpu().long(), None if groups is None else groups.cpu()
    _check_folds(folds, labels, groups)
    outcomes: dict[tuple[str, str], list[_Outcome]] = {}
    for fold in folds:
        found = _one_fold(features, labels, fold, groups, heads, settings)
        if len(candidates) > 1:
            found |= {(BEST, head): _best(found, head, candidates) for head in heads}
        for key, outcome in found.items():
            outcomes.setdefault(key, []).append(outcome)
    drawn = _Drawn.of(labels, folds, groups)
    scores = tuple(_score(key, kept, labels, folds, drawn) for key, kept in outcomes.items())
    return CrossValidation(tuple(folds), scores, drawn)


def _best(found: Mapping[tuple[str, str], _Outcome], head: str, candidates: Sequence[str]) -> _Outcome:
    best = max(candidates, key=lambda name: found[name, head].validation)
    return replace(found[best, head], chosen=f"{best}, {found[best, head].chosen}")


def _one_fold(
    features: Mapping[str, Features],
    labels: Tensor,
    fold: Fold,
    groups: Tensor | None,
    heads: Sequence[Head],
    settings: HeadSettings,
) -> dict[tuple[str, str], _Outcome]:
    found: dict[tuple[str, str], _Outcome] = {}
    for name, given in features.items():
        x = _features_of(name, given, fold, len(labels))
        train = _Train(x[fold.train], labels[fold.train], None if groups is None else groups[fold.train])
        for head in heads:
            found[name, head] = _HEADS[head](train, x[fold.test], settings)
    return found


def _features_of(name: str, given: Features, fold: Fold, rows: int) -> Tensor:
    if isinstance(given, Mapping):
        if fold.name not in given:
            raise ValueError(f"features {name}: expected those of fold {fold.name}, got {', '.join(given) or 'none'}")
        x = given[fold.name]
    else:
        x = given if isinstance(given, Tensor) else given(fold)
    if x.ndim != 2 or len(x) != rows or not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"features {name}: expected finite numbers [N, D] with a row for each of {rows} labels, got {list(x.shape)}"
            f"{'' if bool(torch.isfinite(x).all()) else ' with NaN or infinity'}; pool sites first"
        )
    return x.detach().cpu()


def _score(
    key: tuple[str, str], kept: Sequence[_Outcome], labels: Tensor, folds: Sequence[Fold], drawn: _Drawn
) -> Score:
    predictions = tuple(outcome.predicted for outcome in kept)
    hits = [predicted == labels[fold.test] for predicted, fold in zip(predictions, folds, strict=True)]
    values = torch.stack([hit.double().mean() for hit in hits])
    by_folds = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    by_groups = math.nan
    if len(drawn.units.unique()) > 1:
        correct = drawn.correct(predictions)
        by_groups = bootstrap_stderr(_mean_over_folds, correct, drawn.share, drawn.units, DRAWS).stderr
    return Score(*key, tuple(values.tolist()), predictions, tuple(o.chosen for o in kept), by_groups, by_folds)


def _check_names(features: Mapping[str, Features], heads: Sequence[str], candidates: Sequence[str]) -> None:
    if not features or not heads or BEST in features:
        raise ValueError(
            f"cross_validate: expected at least one readout, none named {BEST}, and one head, got "
            f"{', '.join(features) or 'no readout'} and {', '.join(heads) or 'no head'}"
        )
    for what, names, known in (("heads", heads, list(_HEADS)), ("choose_from", candidates, list(features))):
        for name in names:
            if name not in known:
                raise ValueError(f"{what}: expected some of {', '.join(known)}, got {name!r}{hint(name, known)}")


def _check_folds(folds: Sequence[Fold], labels: Tensor, groups: Tensor | None) -> None:
    if not folds or len({fold.name for fold in folds}) < len(folds):
        raise ValueError(f"folds: expected at least one, each of its own name, got {[fold.name for fold in folds]}")
    if groups is not None and groups.shape != labels.shape:
        raise ValueError(f"groups: expected one for each of {len(labels)} labels, got {list(groups.shape)}")
    for fold in folds:
        used = torch.cat([fold.train, fold.test])
        repeated = len(used.unique()) < len(used)
        if not len(fold.train) or not len(fold.test) or repeated or int(used.max()) >= len(labels):
            raise ValueError(
                f"fold {fold.name}: expected training and test samples of {len(labels)}, none twice, got "
                f"{len(fold.train)} and {len(fold.test)}{', some twice' if repeated else ''}"
            )
        if groups is None:
            continue
        both = set(groups[fold.train].tolist()) & set(groups[fold.test].tolist())
        if both:
            raise ValueError(
                f"fold {fold.name}: expected every group on one side, got group {min(both)} on both; divide by group"
            )
