"""Readouts: shapes and values, frequencies kept apart, padding left out, whatever it holds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_audio.readouts import READOUTS, frequency, frequency_std, layers, mean, timestamps
from jepa_core.contracts import Sites, Tokens
from jepa_core.lattice import Lattice

STEPS, ROWS, WIDTH = 9, 4, 3


def lattice(steps: int) -> Lattice:
    return Lattice(("t", "f"), (steps, ROWS), (0.16, 16.0), ("s", "bin"), (0.08, 7.5))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips(steps: int = STEPS, batch: int = 2) -> Tokens:
    sites = Sites.whole(lattice(steps), batch)
    depths = {f"block_{k}": random(batch, steps * ROWS, WIDTH, seed=k) for k in range(2)}
    return Tokens(random(batch, steps * ROWS, WIDTH, seed=9), sites, lattice(steps), depths)


def padded(tokens: Tokens, steps: int, inside: float) -> Tokens:
    """The same clips on a longer lattice; what is past their end holds ``inside``."""
    batch, count = tokens.features.shape[:2]
    whole = lattice(steps)

    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, torch.full((batch, whole.count - count, WIDTH), inside)], 1)

    valid = torch.arange(whole.count).expand(batch, -1) < count
    sites = Sites(Sites.whole(whole, batch).ids, valid, complete=True)
    return Tokens(longer(tokens.features), sites, whole, {name: longer(x) for name, x in tokens.layers.items()})


def test_values_of_each_readout() -> None:
    tokens = clips()
    x = tokens.features.view(2, STEPS, ROWS, WIDTH)
    torch.testing.assert_close(mean(tokens), tokens.features.mean(1))
    torch.testing.assert_close(frequency(tokens), x.mean(1).flatten(1))
    spread = x.std(1, correction=0).flatten(1)
    torch.testing.assert_close(frequency_std(tokens), torch.cat([x.mean(1).flatten(1), spread], 1))
    both = torch.cat([tokens.layers["block_0"].mean(1), tokens.layers["block_1"].mean(1)], 1)
    torch.testing.assert_close(layers(tokens), both)
    stamps = timestamps(tokens)
    torch.testing.assert_close(stamps.features, x.flatten(2))
    assert stamps.valid.all() and stamps.seconds.tolist() == pytest.approx([0.08 + 0.16 * t for t in range(STEPS)])


@pytest.mark.parametrize("inside", [0.0, 1e6, math.nan])
@pytest.mark.parametrize("name", READOUTS)
def test_a_padded_clip_reads_as_it_does_alone(name: str, inside: float) -> None:
    tokens = clips()
    alone, longer = READOUTS[name](tokens), READOUTS[name](padded(tokens, 14, inside))
    torch.testing.assert_close(longer, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inside", [1e6, math.nan])
def test_time_steps_of_padding_are_not_valid(inside: float) -> None:
    tokens = clips()
    alone, longer = timestamps(tokens), timestamps(padded(tokens, 14, inside))
    assert longer.valid.sum(1).tolist() == [STEPS, STEPS] and longer.features.shape == (2, 14, ROWS * WIDTH)
    torch.testing.assert_close(longer.features[:, :STEPS], alone.features)
    assert not longer.features[:, STEPS:].any() and torch.equal(longer.seconds[:STEPS], alone.seconds)


def test_only_the_sites_that_tokens_hold_count_in_any_order() -> None:
    whole = clips()
    ids = torch.stack([torch.randperm(STEPS * ROWS, generator=torch.Generator().manual_seed(k))[:11] for k in (0, 1)])
    valid = torch.arange(11) < torch.tensor([[11], [7]])
    held = Tokens(whole.at(Sites(ids)), Sites(ids, valid), whole.lattice)
    x = held.features[1, :7]
    torch.testing.assert_close(mean(held)[1], x.mean(0))
    rows = ids[1, :7] % ROWS
    expected = [x[rows == f].mean(0) if bool((rows == f).any()) else torch.zeros(WIDTH) for f in range(ROWS)]
    torch.testing.assert_close(frequency(held)[1], torch.cat(expected))
    assert bool(torch.isfinite(frequency_std(held)).all())


def test_a_lattice_of_time_alone_has_one_frequency() -> None:
    where = Lattice(("t",), (12,), (0.01,), ("s",), (0.0,))
    tokens = Tokens(random(2, 12, WIDTH).half(), Sites.whole(where, 2), where)
    assert torch.equal(frequency(tokens), mean(tokens)) and mean(tokens).dtype == torch.float32
    assert timestamps(tokens).features.shape == (2, 12, WIDTH)


def test_what_cannot_be_is_refused_in_one_line() -> None:
    where = Lattice(("y", "x"), (3, 4), (1.0,) * 2, ("px",) * 2, (0.0,) * 2)
    image = Tokens(random(1, 12, WIDTH), Sites.whole(where, 1), where)
    with pytest.raises(ValueError, match=r"expected a lattice of \(t, f\)"):
        frequency(image)
    with pytest.raises(ValueError, match="layers: expected tokens with further depths"):
        layers(image)
