"""Seeds: golden values, independence of batch and order, uniformity."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from jepa_core.seeds import draws, permutation, random_keys, sample_seed, splitmix64, uniform

GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
KEYS = [
    [7408967549993215229, 6724461808509910690],
    [7284979895090362885, 9193288371996002370],
    [8774805804362927989, 1750371334632626200],
]
SEED = 9149485441244241992
ORDERS = [[0, 4, 5, 2, 1, 3], [5, 4, 2, 1, 3, 0], [2, 4, 1, 0, 3, 5]]


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ],
)
def test_splitmix64_golden(seed: int, expected: list[int]) -> None:
    state = torch.tensor([seed]) + GAMMA * torch.arange(1, 4)
    assert [value % 2**64 for value in splitmix64(state).tolist()] == expected


def test_draws_never_change() -> None:
    """A change of these breaks the resumption of every run."""
    seeds = torch.tensor([0, 1, 2**62 + 5])
    assert random_keys(seeds, 2, 3).tolist() == KEYS
    assert sample_seed(1, 2, "drive-7/000012") == SEED
    assert permutation(seeds, 6, 1).tolist() == ORDERS


def test_draws_depend_on_the_seed_alone() -> None:
    seeds = torch.tensor([sample_seed(0, 0, f"sample-{i}") for i in range(7)])
    together = random_keys(seeds, 50, 2)
    assert torch.equal(together[3:4], random_keys(seeds[3:4], 50, 2))
    assert torch.equal(together[:, :20], random_keys(seeds, 20, 2))
    assert (together >= 0).all()
    assert not torch.equal(together, random_keys(seeds, 50, 1))


def test_sample_seeds_differ_in_every_part() -> None:
    seeds = {sample_seed(s, e, name) for s in range(4) for e in range(4) for name in ("a", "b", "1", "11")}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_uniform_is_uniform_and_uncorrelated() -> None:
    # Neighbouring seeds and streams are the hard case for a hash.
    draws = torch.stack([uniform(torch.arange(64), 1000, stream) for stream in range(4)]).double()
    assert draws.min() >= 0 and draws.max() < 1
    counts = torch.histc(draws, bins=64, min=0, max=1)
    expected = draws.numel() / 64
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 110  # 63 degrees of freedom: 1 in 5000
    rows = torch.corrcoef(draws.flatten(0, 1))
    assert (rows - torch.eye(len(rows))).abs().max() < 0.18  # 32640 pairs, standard error 0.032
    lagged = torch.corrcoef(torch.stack([draws[..., 1:].flatten(), draws[..., :-1].flatten()]))[0, 1]
    assert lagged.abs() < 0.01


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 123456789])
@pytest.mark.parametrize("stream", [0, 3, 311])
def test_draws_without_tensors_are_the_same(seed: int, stream: int) -> None:
    assert list(islice(draws(seed, stream), 50)) == uniform(torch.tensor([seed]), 50, stream)[0].tolist()


def test_permutations_are_fair() -> None:
    orders = permutation(torch.arange(6000), 3, 0)
    assert torch.equal(orders.sort(1).values, torch.arange(3).expand(6000, 3))
    counts = torch.bincount(orders[:, 0] * 9 + orders[:, 1] * 3 + orders[:, 2])
    assert (counts[counts > 0] - 1000).abs().max() < 150
    assert (counts > 0).sum() == 6


def test_seeds_must_be_int64_rows() -> None:
    with pytest.raises(ValueError, match="int64"):
        random_keys(torch.zeros(3), 2, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_the_same_bits() -> None:
    seeds = torch.tensor([sample_seed(0, 0, str(i)) for i in range(100)])
    assert torch.equal(random_keys(seeds, 333, 5), random_keys(seeds.cuda(), 333, 5).cpu())
    assert torch.equal(permutation(seeds, 333, 5), permutation(seeds.cuda(), 333, 5).cpu())
    assert torch.equal(uniform(seeds, 333, 5), uniform(seeds.cuda(), 333, 5).cpu())
