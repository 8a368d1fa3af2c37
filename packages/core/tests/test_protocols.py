"""Cross-validation: equal to scikit-learn, blind to test folds, groups whole, errors as stated."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, PredefinedSplit, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from jepa_core.evaluate.protocols import BEST, Fold, Head, HeadSettings, cross_validate, k_folds, leave_one_group_out


def sounds(samples: int = 240, speakers: int = 6, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features that tell four classes and the speaker, labels and speakers."""
    generator = torch.Generator().manual_seed(seed)
    labels, groups = torch.arange(samples) % 4, torch.arange(samples) * speakers // samples
    centres, voices = torch.randn(4, width, generator=generator), torch.randn(speakers, width, generator=generator)
    x = 1.2 * centres[labels] + voices[groups] + torch.randn(samples, width, generator=generator)
    return x, labels, groups


def test_folds_are_those_of_scikit_learn() -> None:
    names = ["theo", "lucas", "theo", "george", "lucas", "theo"]
    expected = list(LeaveOneGroupOut().split(names, groups=names))
    folds = leave_one_group_out(names)
    assert [fold.name for fold in folds] == ["george", "lucas", "theo"]
    for fold, (train, test) in zip(folds, expected, strict=True):
        assert fold.train.tolist() == train.tolist() and fold.test.tolist() == test.tolist()
    labels = torch.tensor([10, 2, 1, 10, 2])
    split = list(PredefinedSplit(labels.numpy()).split())
    assert [fold.name for fold in k_folds(labels)] == ["1", "2", "10"]
    for fold, (train, test) in zip(k_folds(labels), split, strict=True):
        assert fold.train.tolist() == train.tolist() and fold.test.tolist() == test.tolist()
    with pytest.raises(ValueError, match="at least 2 different values"):
        k_folds([3, 3])


def test_heads_equal_scikit_learn() -> None:
    x, labels, groups = sounds()
    folds = leave_one_group_out(groups)
    found = cross_validate({"x": x}, labels, folds, groups, ("linear", "knn"), HeadSettings(l2s=(1e-2,)))

    def votes(distance: np.ndarray) -> np.ndarray:
        return np.exp(-distance / 0.07)

    for place, fold in enumerate(folds):
        train, test = fold.train.numpy(), fold.test.numpy()
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (1e-2 * len(train)), tol=1e-8, max_iter=5000))
        nearest = KNeighborsClassifier(10, metric="cosine", algorithm="brute", weights=votes)
        for head, model in (("linear", linear), ("knn", nearest)):
            model.fit(x.double().numpy()[train], labels.numpy()[train])
            score = found.score("x", head)
            assert score.predictions[place].tolist() == model.predict(x.double().numpy()[test]).tolist()
            assert score.values[place] == pytest.approx(model.score(x.double().numpy()[test], labels.numpy()[test]))


def test_the_penalty_is_that_of_a_group_wise_search_inside_the_training_part() -> None:
    x, labels, groups = sounds(samples=180, width=30)
    folds = leave_one_group_out(groups)
    l2s = (1e-4, 1e-2, 1.0)
    score = cross_validate({"x": x}, labels, folds, groups, ("linear",), HeadSettings(l2s=l2s)).score("x", "linear")
    for fold, chosen in zip(folds, score.chosen, strict=True):
        X, y, g = x[fold.train].numpy(), labels[fold.train].numpy(), groups[fold.train].numpy()
        accuracy = {}
        for l2 in l2s:
            # C counts the rows that are fitted: those of the training part outside the inner fold.
            correct = 0
            for fit, held in StratifiedGroupKFold(4, shuffle=True, random_state=0).split(X, y, g):
                model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (l2 * len(fit)), max_iter=5000))
                correct += int((model.fit(X[fit], y[fit]).predict(X[held]) == y[held]).sum())
            accuracy[l2] = correct
        best = max(accuracy.values())
        assert chosen == f"l2={max(l2 for l2 in l2s if accuracy[l2] == best):g}"


def test_labels_of_the_test_fold_change_no_prediction_and_no_choice() -> None:
    x, labels, groups = sounds()
    features = {"x": x, "noise": torch.randn(240, 5, generator=torch.Generator().manual_seed(1))}
    heads: tuple[Head, ...] = ("linear", "knn", "knn_standardised")
    settings = HeadSettings(l2s=(1e-3, 1e-1))
    for fold in leave_one_group_out(groups)[:2]:
        leaked = labels.clone()
        leaked[fold.test] = labels[fold.test].flip(0) * 0 + 3
        honest, blind = (cross_validate(features, y, (fold,), groups, heads, settings) for y in (labels, leaked))
        for one, other in zip(honest.scores, blind.scores, strict=True):
            assert torch.equal(one.predictions[0], other.predictions[0]) and one.chosen == other.chosen
        assert honest.score("x", "linear").values != blind.score("x", "linear").values


def test_the_best_readout_is_chosen_inside_the_training_part() -> None:
    x, labels, groups = sounds()
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(240, 4, generator=generator)

    def tempting(fold: Fold) -> Tensor:
        """Noise in the training part; in the test part it tells the class."""
        told = noise.clone()
        told[fold.test] = torch.nn.functional.one_hot(labels[fold.test], 4).float()
        return told

    folds = leave_one_group_out(groups)
    found = cross_validate({"tempting": tempting, "x": x, "control": x}, labels, folds, groups, ("linear",))
    best = found.score(BEST, "linear")
    assert all(name.startswith("x, l2=") for name in best.chosen), "of equals the first, and never the tempting one"
    assert best.values == found.score("x", "linear").values
    few = cross_validate({"noise": noise, "x": x}, labels, folds, groups, ("knn",), choose_from=["noise"])
    assert BEST not in [score.readout for score in few.scores]


def test_features_may_differ_from_fold_to_fold() -> None:
    x, labels, groups = sounds()
    folds = leave_one_group_out(groups)
    called = []

    def of_fold(fold: Fold) -> Tensor:
        called.append(fold.name)
        return x if fold.name == "2" else x * 0 + 1

    by_name = {fold.name: of_fold(fold) for fold in folds}
    called.clear()
    found = cross_validate({"x": x, "called": of_fold, "named": by_name}, labels, folds, groups, ("knn",))
    assert called == [fold.name for fold in folds], "each encoder is asked once"
    assert found.score("called", "knn").values == found.score("named", "knn").values
    assert found.score("called", "knn").values[2] == found.score("x", "knn").values[2]
    assert found.score("called", "knn").values != found.score("x", "knn").values
    del by_name["3"]
    with pytest.raises(ValueError, match="features named: expected those of fold 3, got 0, 1, 2, 4, 5"):
        cross_validate({"named": by_name}, labels, folds, groups, ("knn",))


def test_errors_are_between_folds_and_between_groups() -> None:
    # 40 recordings of 6 rows; whether a recording is right is one coin, so rows tell nothing beyond their recording.
    generator = torch.Generator().manual_seed(3)
    groups = torch.arange(240) // 6
    labels = torch.arange(240) % 2
    right = torch.rand(40, generator=generator) < 0.7
    x = torch.stack([(labels == right[groups].long()).float() * 2 - 1, torch.ones(240)], 1)
    folds = k_folds(groups % 5)
    found = cross_validate({"x": x}, labels, folds, groups, ("linear",))
    score = found.score("x", "linear")
    values = torch.tensor(score.values, dtype=torch.float64)
    assert score.mean == pytest.approx(float(values.mean()))
    assert score.by_folds == pytest.approx(float(values.std()) / math.sqrt(5))
    of_recordings = torch.cat(score.predictions) == torch.cat([labels[fold.test] for fold in folds])
    assert 0 < of_recordings.double().mean() < 1
    share = float(of_recordings.double().mean())
    assert score.by_groups == pytest.approx(math.sqrt(share * (1 - share) / 40), rel=0.15)
    by_rows = cross_validate({"x": x}, labels, folds, None, ("linear",)).score("x", "linear").by_groups
    assert by_rows < score.by_groups
    lone = cross_validate({"x": x}, labels, folds[:1], groups, ("linear",)).score("x", "linear")
    assert math.isnan(lone.by_folds) and not math.isnan(lone.by_groups)


def test_differences_are_paired_and_folds_of_unequal_sizes_count_alike() -> None:
    x, labels, groups = sounds()
    labels, x, groups = labels[30:], x[30:], groups[30:]  # one speaker has a quarter of the others' rows
    folds = leave_one_group_out(groups)
    noise = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(5))
    found = cross_validate({"x": x, "again": x, "noise": noise}, labels, folds, groups, ("knn",))
    assert found.difference("x", "again", "knn") == (0.0, 0.0)
    value, stderr = found.difference("x", "noise", "knn")
    assert value == pytest.approx(found.score("x", "knn").mean - found.score("noise", "knn").mean)
    assert 0 < stderr < value
    table = "\n".join(found.lines())
    assert "best_readout" in table and f"{100 * found.score('x', 'knn').mean:4.1f}" in table


X, LABELS, GROUPS = sounds(samples=60)
FOLDS = k_folds(GROUPS % 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: cross_validate({"x": X}, LABELS, k_folds(torch.arange(60) % 3), GROUPS), "group 0 on both"),
        (lambda: cross_validate({"x": X[:9]}, LABELS, FOLDS, GROUPS), r"features x: expected .* got \[9, 8\]"),
        (lambda: cross_validate({"x": X * math.nan}, LABELS, FOLDS, GROUPS), "NaN"),
        (lambda: cross_validate({"x": X[:, None]}, LABELS, FOLDS, GROUPS), "pool sites first"),
        (lambda: cross_validate({}, LABELS, FOLDS), "at least one readout"),
        (lambda: cross_validate({BEST: X}, LABELS, FOLDS), "none named best_readout"),
        (lambda: cross_validate({"x": X}, LABELS, FOLDS, heads=("nearest",)), "heads: expected"),  # type: ignore[arg-type]  # on purpose
        (lambda: cross_validate({"x": X}, LABELS, FOLDS, choose_from=("y",)), "choose_from: expected some of x"),
        (lambda: cross_validate({"x": X}, LABELS, FOLDS, GROUPS[:5]), "groups: expected one for each of 60"),
        (lambda: cross_validate({"x": X}, LABELS, (Fold("a", torch.arange(9), torch.arange(3)),)), "some twice"),
        (lambda: cross_validate({"x": X}, LABELS, (FOLDS[0], FOLDS[0])), "each of its own name"),
        (lambda: cross_validate({"x": X}, LABELS, FOLDS, GROUPS, ("linear",), HeadSettings(inner_folds=9)), "9 groups"),
        (lambda: cross_validate({"x": X}, LABELS, FOLDS, heads=("knn",), settings=HeadSettings(k=99)), "kNN: expected"),
        (lambda: cross_validate({"x": X}, LABELS, FOLDS, heads=("knn",)).score("y", "knn"), "got y/knn"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)
