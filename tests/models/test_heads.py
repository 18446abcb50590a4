"""Heads: what they compute, and that a bank is nothing but its heads side by side."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from cosup.models.heads import HeadBank, build_heads, head_bank, text_heads
from cosup.models.section import HeadSection


def random_bank(kind: str, heads: int = 3, standardized: bool = True) -> HeadBank:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return HeadBank(
        draw(heads, 4, 5),
        bias=draw(heads, 4) if kind == "linear" else None,
        log_scale=draw(heads) if kind == "prototype" else None,
        shift=draw(heads, 5) if standardized else None,
        gain=draw(heads, 5).abs() if standardized else None,
    )


def test_a_linear_head_is_torchs_linear_layer() -> None:
    bank = random_bank("linear", standardized=False)
    layer = nn.Linear(5, 4)
    layer.load_state_dict({"weight": bank.weight[1].detach(), "bias": bank.bias[1].detach()})
    x = torch.randn(6, 5)
    torch.testing.assert_close(bank(x)[1], layer(x))


def test_a_prototype_head_is_scaled_cosine_similarity() -> None:
    bank = random_bank("prototype", standardized=False)
    x = torch.randn(6, 5)
    expected = bank.log_scale[2].exp() * functional.cosine_similarity(
        x[:, None], bank.weight[2][None], dim=2
    )
    torch.testing.assert_close(bank(x)[2], expected)


@pytest.mark.parametrize("kind", ["linear", "prototype"])
def test_standardisation_is_part_of_the_head(kind: str) -> None:
    bank = random_bank(kind)
    plain = HeadBank(
        bank.weight.detach(),
        None if bank.bias is None else bank.bias.detach(),
        None if bank.log_scale is None else bank.log_scale.detach(),
    )
    x = torch.randn(6, 5)
    scaled = torch.stack([(x - bank.shift[h]) * bank.gain[h] for h in range(3)])
    torch.testing.assert_close(bank(x), plain(scaled))


@pytest.mark.parametrize("kind", ["linear", "prototype"])
@pytest.mark.parametrize("standardized", [True, False])
def test_heads_of_a_bank_dont_touch_each_other(kind: str, standardized: bool) -> None:
    bank = random_bank(kind, standardized=standardized)
    own = torch.randn(3, 6, 5)
    together = bank(own)
    for h in range(3):
        torch.testing.assert_close(bank.select(h)(own[h])[0], together[h])
    torch.testing.assert_close(bank.select([2, 0])(own[[2, 0]]), together[[2, 0]])
    torch.testing.assert_close(bank(own[0])[0], together[0])


@pytest.mark.parametrize("kind", ["linear", "prototype"])
def test_a_state_dict_gives_the_bank_back(kind: str) -> None:
    bank = random_bank(kind)
    again = head_bank(bank.state_dict())
    x = torch.randn(6, 5)
    assert (again.kind, len(again), again.num_classes, again.num_features) == (kind, 3, 4, 5)
    assert torch.equal(again(x), bank(x))
    with torch.no_grad():
        again.weight.zero_()
    assert not torch.equal(again(x), bank(x))  # a copy, not a view


def test_fresh_heads() -> None:
    linear = build_heads(HeadSection(kind="linear"), 2, 5, 4, seed=0)
    assert torch.equal(linear(torch.randn(6, 5)), torch.zeros(2, 6, 4))
    section = HeadSection(kind="prototype", scale=20.0)
    prototype = build_heads(section, 2, 5, 4, seed=0)
    assert prototype.log_scale.tolist() == pytest.approx([math.log(20.0)] * 2)
    assert torch.equal(prototype.weight, build_heads(section, 2, 5, 4, seed=0).weight)
    assert not torch.equal(prototype.weight, build_heads(section, 2, 5, 4, seed=1).weight)


def test_starts_of_linear_heads() -> None:
    """`random` is the distribution of torch's `nn.Linear`, `normal` that of published linear
    probes; all heads of a bank start alike, and by the seed."""
    features, classes = 400, 50
    banks = {
        start: build_heads(HeadSection(start=start), 2, features, classes, seed=0)
        for start in ("zero", "random", "normal")
    }
    own = torch.nn.Linear(features, classes)
    for part in ("weight", "bias"):
        found, like = getattr(banks["random"], part), getattr(own, part)
        assert found.abs().max() <= 1 / math.sqrt(features)
        assert found.std().item() == pytest.approx(like.std().item(), rel=0.3)
    assert banks["random"].weight.abs().max() > 0.95 / math.sqrt(features)
    assert banks["normal"].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert banks["normal"].weight.abs().max() > 0.03  # a normal distribution has tails
    assert not banks["normal"].bias.any()
    assert not banks["zero"].weight.any()
    for start in ("random", "normal"):
        bank = banks[start]
        assert torch.equal(bank.weight[0], bank.weight[1])
        other = build_heads(HeadSection(start=start), 1, features, classes, seed=1)
        assert not torch.equal(bank.weight[0], other.weight[0])


def test_a_loss_that_asks_for_a_random_start_gets_it_where_none_is_given() -> None:
    for start, some in ((None, True), ("zero", False), ("normal", True)):
        bank = build_heads(HeadSection(start=start), 1, 5, 4, seed=0, random=True)
        assert bool(bank.weight.any()) is some
        assert not bank.bias.any()


def test_prototypes_scale_is_sixteen_unless_said_otherwise() -> None:
    """Both of heads in random directions and of those from text."""
    plain, scaled = HeadSection(kind="prototype"), HeadSection(kind="prototype", scale=20.0)
    prototypes = torch.randn(4, 5)
    for section, scale in ((plain, 16.0), (scaled, 20.0)):
        for bank in (build_heads(section, 3, 5, 4, seed=0), text_heads(section, prototypes)):
            torch.testing.assert_close(bank.log_scale.exp(), torch.full((len(bank),), scale))


def test_text_heads_are_clips_zero_shot_classifier() -> None:
    """scale * cosine, whatever the features' length; of copies."""
    prototypes = functional.normalize(torch.randn(4, 5), dim=1)
    bank = text_heads(HeadSection(kind="prototype", init="text", scale=100.0), prototypes)
    x = 3 * torch.randn(6, 5)
    expected = 100 * functional.normalize(x, dim=1) @ prototypes.T
    torch.testing.assert_close(bank(x)[0], expected, rtol=1e-4, atol=1e-4)
    assert (bank.kind, len(bank), bank.num_classes, bank.num_features) == ("prototype", 1, 4, 5)
    prototypes.zero_()
    torch.testing.assert_close(bank(x)[0], expected, rtol=1e-4, atol=1e-4)
