"""The attentive probe: the published pooler on the same weights, textbook attention, and probes that do not mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.evaluate.attentive import (
    AttentiveSettings,
    TokenSet,
    attentive_probe_accuracy,
    fit_probes,
    predict,
)
from jepa_core.evaluate.attentive_model import AttentiveProbe, joint_scores
from jepa_core.evaluate.probes import linear_probe_accuracy

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def probe(width: int = 16, heads: int = 4, blocks: int = 0, seed: int = 0) -> AttentiveProbe:
    """A probe whose every parameter is far from its first value, norms included."""
    made = AttentiveProbe(width, 5, heads, blocks)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 * seed + number) * 0.3)
    return made


def labelled(count: int, sites: int = 6, width: int = 16, seed: int = 0, noise: float = 1.0) -> TokenSet:
    """The class is in one token at a place that varies: a mean over sites hides it among the others."""
    labels = torch.arange(count) % 3
    x = random(count, sites, width, seed=seed) * noise
    marks = random(3, width, seed=77) * 3
    x[torch.arange(count), torch.arange(count) % sites] += marks[labels]
    return TokenSet(x, labels)


@pytest.mark.parametrize("blocks", [0, 3])
def test_pooler_is_that_of_transformers(blocks: int) -> None:
    pytest.importorskip("transformers")
    from transformers import VJEPA2Config
    from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

    config = VJEPA2Config(hidden_size=32, num_attention_heads=4, num_pooler_layers=blocks)
    torch.manual_seed(0)
    theirs = VJEPA2AttentivePooler(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    ours = AttentiveProbe(32, 5, 4, blocks)
    ours.load_state_dict({**renamed(theirs.state_dict()), **of_classifier(ours)})
    x = random(3, 11, 32)
    torch.testing.assert_close(ours.pool(x), theirs(x), atol=2e-5, rtol=2e-5)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names of transformers' parameters; the bias of the keys, which changes nothing, has none."""
    names = {
        "query_tokens": "query",
        "cross_attention_layer.layer_norm1": "norm1",
        "cross_attention_layer.layer_norm2": "norm2",
        "cross_attention_layer.cross_attn.": "",
        "cross_attention_layer.mlp": "mlp",
        "self_attention_layers": "blocks",
        "self_attn.out_proj": "proj",
        "self_attn.": "",
        "layer_norm": "norm",
        "_proj": "",
    }
    found = {}
    for name, value in state.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        found[name] = value
    found.pop("k.bias")
    return {**found, "query": found["query"][0]}


def of_classifier(made: AttentiveProbe) -> dict[str, Tensor]:
    return {name: value for name, value in made.state_dict().items() if name.startswith("classifier")}


def test_cross_attention_is_that_of_the_textbook() -> None:
    made, x = probe(), random(3, 7, 16, seed=9)
    valid = random(3, 7, seed=4) > -0.5
    normed = F.layer_norm(x, (16,), made.norm1.weight, made.norm1.bias, 1e-6)

    def heads(values: Tensor) -> Tensor:
        return values.unflatten(-1, (4, 4)).transpose(1, 2)

    query = made.query.expand(3, 1, 16)
    scores = heads(made.q(query)) @ heads(made.k(normed)).transpose(2, 3) / 2
    weights = scores.masked_fill(~valid[:, None, None], float("-inf")).softmax(-1)
    read = query + (weights @ heads(made.v(normed))).transpose(1, 2).flatten(2)
    hidden = F.layer_norm(read, (16,), made.norm2.weight, made.norm2.bias, 1e-6)
    pooled = read + made.mlp.fc2(F.gelu(made.mlp.fc1(hidden)))
    torch.testing.assert_close(made.pool(x, valid), pooled[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blocks", [0, 2])
def test_tokens_that_are_not_valid_and_their_order_change_nothing(blocks: int) -> None:
    made, x = probe(blocks=blocks), random(2, 8, 16)
    valid = torch.tensor([[True] * 5 + [False] * 3, [True] * 8])
    wild = torch.where(valid[..., None], x, torch.nan)
    scores = made(x, valid)
    torch.testing.assert_close(made(wild, valid), scores)
    torch.testing.assert_close(made(x[:1, :5])[0], scores[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made(x.flip(1), valid.flip(1)), scores, atol=1e-5, rtol=1e-5)
    assert bool(torch.isfinite(made(x, torch.zeros(2, 8, dtype=torch.bool))).all())


@pytest.mark.parametrize("blocks", [0, 2])
def test_probes_in_one_pass_are_those_of_one_each(blocks: int) -> None:
    probes = [probe(blocks=blocks, seed=seed) for seed in range(3)]
    x = random(4, 6, 16)
    joint = joint_scores(probes, x)
    for made, scores in zip(probes, joint, strict=True):
        torch.testing.assert_close(scores, made(x), atol=1e-5, rtol=1e-5)
    joint[1].square().sum().backward()
    for made, touched in zip(probes, (False, True, False), strict=True):
        assert all(bool(p.grad is not None and p.grad.any()) == touched for p in made.parameters())


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_probe_trained_beside_others_is_that_trained_alone(blocks: int) -> None:
    train = labelled(40)
    settings = AttentiveSettings(heads=4, blocks=blocks, epochs=3, batch_size=16)
    pairs = [(1e-3, 0.1), (1e-2, 0.0), (3e-3, 0.5)]
    joint = fit_probes(train, pairs, settings, CPU)
    for made, pair in zip(joint, pairs, strict=True):
        (alone,) = fit_probes(train, [pair], settings, CPU)
        for name, value in alone.named_parameters():
            torch.testing.assert_close(dict(made.named_parameters())[name], value, atol=2e-5, rtol=1e-3)


def test_the_same_seed_gives_the_same_bits() -> None:
    train, test = labelled(60), labelled(30, seed=1)
    settings = AttentiveSettings(heads=2, lrs=(1e-3, 1e-2), epochs=2, batch_size=16)
    one, two = (attentive_probe_accuracy(train, test, settings) for _ in range(2))
    assert one.accuracy == two.accuracy and one.validation == two.validation
    states = one.probe.state_dict(), two.probe.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def pooled(samples: TokenSet) -> Tensor:
    assert isinstance(samples.tokens, Tensor)
    return samples.tokens.mean(1)


def test_attention_finds_what_a_mean_hides() -> None:
    train, test = labelled(300, sites=24), labelled(150, sites=24, seed=1)
    settings = AttentiveSettings(heads=4, lrs=(1e-2, 1e-5), weight_decays=(0.01,), epochs=24, batch_size=32)
    result = attentive_probe_accuracy(train, test, settings)
    of_means = linear_probe_accuracy(pooled(train), train.labels, pooled(test), test.labels).accuracy
    assert result.accuracy.value > 0.95 > of_means.value and 0 <= result.accuracy.stderr < 0.03
    assert result.lr == 1e-2 and set(result.validation) == {(1e-2, 0.01), (1e-5, 0.01)}
    assert result.validation[1e-2, 0.01] > result.validation[1e-5, 0.01]


def test_the_test_samples_choose_nothing() -> None:
    train, test = labelled(60), labelled(30, seed=1)
    settings = AttentiveSettings(heads=2, lrs=(1e-3, 1e-2), epochs=2, batch_size=16)
    other = TokenSet(-test.batch(torch.arange(30), CPU)[0], test.labels.flip(0))
    results = [attentive_probe_accuracy(train, samples, settings) for samples in (test, other)]
    assert results[0].validation == results[1].validation
    states = [result.probe.state_dict() for result in results]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_tokens_from_a_function_are_tokens_from_memory() -> None:
    train, test = labelled(60), labelled(30, seed=1)
    settings = AttentiveSettings(heads=2, lrs=(1e-3, 1e-2), epochs=2, batch_size=16)

    def computed(samples: TokenSet) -> TokenSet:
        assert isinstance(samples.tokens, Tensor)
        return TokenSet(samples.tokens.__getitem__, samples.labels)

    plain = attentive_probe_accuracy(train, test, settings)
    lazy = attentive_probe_accuracy(computed(train), computed(test), settings)
    assert plain.accuracy == lazy.accuracy and plain.validation == lazy.validation


def test_class_ids_may_be_any_and_groups_stay_whole() -> None:
    train, test = labelled(90), labelled(30, seed=1)
    names = torch.tensor([40, 7, 900])
    settings = AttentiveSettings(heads=4, lrs=(1e-2, 3e-3), epochs=24, batch_size=16, validation=0.25)
    groups = torch.arange(90) // 9
    renumbered = TokenSet(train.tokens, names[train.labels], groups)
    # A class that the probe has never seen counts as wrong.
    wanted = names[test.labels].clone()
    wanted[0] = 5
    result = attentive_probe_accuracy(renumbered, TokenSet(test.tokens, wanted), settings)
    assert result.classes == (7, 40, 900) and 0.8 < result.accuracy.value <= 29 / 30


def test_a_rate_at_which_a_probe_diverges_loses() -> None:
    train, test = labelled(60), labelled(30, seed=1)
    settings = AttentiveSettings(heads=2, lrs=(1e30, 1e-2), epochs=2, batch_size=16)
    result = attentive_probe_accuracy(train, test, settings)
    assert result.lr == 1e-2 and bool(torch.isfinite(result.probe(random(2, 6, 16))).all())
    with pytest.raises(ValueError, match=r"not finite at lr 1e\+30; look at the tokens, or lower lrs"):
        attentive_probe_accuracy(train, test, AttentiveSettings(heads=2, lrs=(1e30,), epochs=2))


def test_one_pair_needs_no_part_to_choose_on() -> None:
    train = TokenSet(random(3, 4, 8), torch.tensor([0, 1, 1]))
    result = attentive_probe_accuracy(train, train, AttentiveSettings(heads=2, epochs=1))
    assert result.validation == {} and (result.lr, result.weight_decay) == (1e-3, 0.01)


def test_first_weights_are_those_published() -> None:
    made = AttentiveProbe(256, 10, 4, 1, torch.Generator().manual_seed(0))
    for name, parameter in made.named_parameters():
        if parameter.dim() == 2:
            assert parameter.abs().max() <= 2.0 and parameter.std().item() == pytest.approx(0.02, rel=0.15), name
        else:
            assert bool((parameter == (0 if name.endswith("bias") else 1)).all()), name
    assert isinstance(made, nn.Module) and made.query.shape == (1, 256)


BAD = {
    "heads that divide": lambda: AttentiveProbe(10, 2, 4),
    "heads of at least 1": lambda: AttentiveSettings(heads=0),
    "epochs of at least 1": lambda: AttentiveSettings(heads=1, epochs=0),
    "lrs above 0": lambda: AttentiveSettings(heads=1, lrs=(0.0,)),
    "validation share": lambda: AttentiveSettings(heads=1, validation=0.9),
    "tokens .S, N, D.": lambda: TokenSet(random(4, 8), torch.zeros(4)),
    "expected samples": lambda: TokenSet(random(0, 2, 8), torch.zeros(0)),
    "at least 2 classes": lambda: fit_probes(TokenSet(random(4, 2, 8), torch.zeros(4)), [(1e-3, 0)], SMALL, CPU),
    "at least 5 samples or groups": lambda: attentive_probe_accuracy(labelled(3), labelled(3), GRID),
}
SMALL, GRID = AttentiveSettings(heads=2, epochs=1), AttentiveSettings(heads=2, epochs=1, lrs=(1e-3, 1e-2))


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_is_told(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_trains_the_same_probe() -> None:
    train, test = labelled(300), labelled(150, seed=1)
    settings = AttentiveSettings(heads=4, blocks=1, lrs=(3e-3, 1e-4), epochs=4, batch_size=64)
    results = [attentive_probe_accuracy(train, test, settings, device) for device in ("cpu", "cuda")]
    assert abs(results[0].accuracy.value - results[1].accuracy.value) < 0.05
    assert predict([results[1].probe], test, 64, torch.device("cuda")).shape == (1, 150)
