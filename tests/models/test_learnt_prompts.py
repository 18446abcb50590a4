"""Learnt prompts are text of CLIP's encoder with free embeddings, and are fitted by their loss."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from helpers.tiny_clip import architecture, one_vocabulary, write_clip
from helpers.user_errors import error_of
from test_clip_text import CLASSES, coca, long_model
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, normalize

from cosup.losses.augmented_confidence import AugmentedConfidence
from cosup.losses.base import Objective
from cosup.models import learnt_prompts as module
from cosup.models.clip_text import learnt_prompts, prompts_of, text_features
from cosup.models.fit import fit_heads
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank
from cosup.models.learnt_prompts import LearntPrompts, prompt_heads
from cosup.models.section import BackboneSection, HeadSection
from cosup.models.training_section import TrainingSection
from cosup.models.watch import VALIDATION, Watched
from cosup.probabilities import ProbTable

SCALE = 5.0
HEAD = HeadSection(kind="prototype", init="prompts", context=4, scale=SCALE)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with one_vocabulary():
        yield


def prompts_in(folder: Path, head: HeadSection = HEAD) -> LearntPrompts:
    backbone = BackboneSection(name=f"open_clip:{folder}")
    return learnt_prompts(backbone, prompts_of(backbone, head, CLASSES), head.context)


@pytest.mark.parametrize("kind", ["clip", "quickgelu", "siglip", "coca"])
def test_the_embeddings_of_words_give_the_text_features_of_these_words(
    kind: str, tmp_path: Path
) -> None:
    described = {
        "clip": architecture(),
        "quickgelu": architecture(quick_gelu=True),
        "siglip": long_model(),
        "coca": coca(),
    }
    write_clip(tmp_path, described[kind])
    prompts = prompts_in(tmp_path)
    words = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a photo of a"])[0, 1:5]
    found = prompts(prompts.embedding(words))
    backbone = BackboneSection(name=f"open_clip:{tmp_path}")
    plain = HeadSection(kind="prototype", init="text", templates="a photo of a {}.")
    expected = text_features(backbone, prompts_of(backbone, plain, CLASSES))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = prompts(prompts.embedding(words.flip(0)))
    assert not torch.allclose(other, expected, atol=1e-3)


class ByHand:
    """CLIP's text encoder in float64, worked from its weights; one layer, two heads."""

    def __init__(self, folder: Path) -> None:
        state: dict[str, Any] = open_clip.create_model(f"local-dir:{folder}").state_dict()
        self.state = {name: t.double() for name, t in state.items() if t.is_floating_point()}
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.tokens: Tensor = tokens([f"X X X X {name}." for name in CLASSES], context_length=16)

    def __call__(self, context: Tensor) -> Tensor:
        s, block = self.state, "transformer.resblocks.0."
        x = s["token_embedding.weight"][self.tokens]
        x = torch.cat([x[:, :1], context.expand(len(x), 4, 32), x[:, 5:]], 1)
        x = x + s["positional_embedding"]
        y = self.norm(x, f"{block}ln_1")
        joint = y @ s[f"{block}attn.in_proj_weight"].T + s[f"{block}attn.in_proj_bias"]
        query, key, value = (p.unflatten(2, (2, 16)).transpose(1, 2) for p in joint.chunk(3, -1))
        scores = query @ key.transpose(2, 3) / math.sqrt(16)
        later = torch.ones(16, 16, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ value
        mixed = mixed.transpose(1, 2).flatten(2)
        x = x + mixed @ s[f"{block}attn.out_proj.weight"].T + s[f"{block}attn.out_proj.bias"]
        y = self.norm(x, f"{block}ln_2")
        y = gelu(y @ s[f"{block}mlp.c_fc.weight"].T + s[f"{block}mlp.c_fc.bias"])
        x = x + y @ s[f"{block}mlp.c_proj.weight"].T + s[f"{block}mlp.c_proj.bias"]
        ends = self.norm(x, "ln_final")[torch.arange(len(x)), self.tokens.argmax(1)]
        return normalize(ends @ s["text_projection"], dim=-1)

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.state[f"{name}.{part}"] for part in ("weight", "bias"))
        return layer_norm(x, x.shape[-1:], weight, bias)


@pytest.mark.parametrize("at_once", [2, 64])
def test_prototypes_and_their_gradient_are_those_worked_by_hand(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    write_clip(tmp_path)
    torch.manual_seed(3)
    context = (0.3 * torch.randn(4, 32)).requires_grad_()
    same = context.detach().double().requires_grad_()
    found, expected = prompts_in(tmp_path)(context), ByHand(tmp_path)(same)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn(found.shape)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    assert context.grad is not None
    assert same.grad is not None
    torch.testing.assert_close(context.grad.double(), same.grad, rtol=1e-3, atol=1e-5)


def augmented_loss(logits: Tensor, targets: Tensor, weight: float) -> Tensor:
    """AuxConf of Burns et al., section 4.3.2, with the student's own class."""
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    own = log_p.detach().argmax(1)
    teacher = -(targets * log_p).sum(1)
    return ((1 - weight) * teacher - weight * log_p[torch.arange(len(own)), own]).mean()


def test_training_with_auxconf_is_that_worked_by_hand(tmp_path: Path) -> None:
    """All samples are in every batch, so that their order has no bearing."""
    write_clip(tmp_path)
    torch.manual_seed(5)
    features = torch.randn(12, 32)
    targets = ProbTable.compress(torch.randn(12, 4).mul(2).softmax(1))
    steps, rate, most = 6, 0.02, 0.5
    fit = HeadFit(
        features,
        targets,
        [torch.arange(12)],
        HEAD,
        TrainingSection(steps=steps, batch_size=12, optimizer="adam", lr=rate, schedule="constant"),
        Objective(AugmentedConfidence(max_weight=most, ramp=0.4)),
        seed=7,
        prompts=prompts_in(tmp_path),
    )
    bank = fit_heads(fit)
    assert type(bank) is HeadBank

    assert fit.prompts is not None
    start = prompt_heads(fit.prompts, torch.zeros(1), 7).context[0]
    assert 0.01 < float(start.detach().std()) < 0.03
    by_hand, unit = ByHand(tmp_path), normalize(features.double(), dim=1)
    context = start.detach().double().requires_grad_()
    wanted, moments = targets.dense().double(), [torch.zeros(4, 32).double() for _ in range(2)]
    for step in range(steps):
        weight = most * min(1.0, step / (steps - 1) / 0.4)
        loss = augmented_loss(SCALE * unit @ by_hand(context).T, wanted, weight)
        (slope,) = torch.autograd.grad(loss, context)
        with torch.no_grad():  # Adam: Kingma and Ba, arXiv 1412.6980
            for moment, decay, power in zip(moments, (0.9, 0.999), (1, 2), strict=True):
                moment.mul_(decay).add_((1 - decay) * slope**power)
            first, second = (
                moment / (1 - decay ** (step + 1))
                for moment, decay in zip(moments, (0.9, 0.999), strict=True)
            )
            context -= rate * first / (second.sqrt() + 1e-8)
    expected = by_hand(context).detach()
    moved = (expected - by_hand(start.double()).detach()).norm()
    assert moved > 0.05
    assert (bank.weight[0].double() - expected).norm() < 0.01 * moved


def test_heads_fitted_together_are_those_fitted_alone(tmp_path: Path) -> None:
    write_clip(tmp_path)
    torch.manual_seed(6)
    rows = [torch.arange(8), torch.arange(2, 10)]
    fit = HeadFit(
        torch.randn(10, 32),
        ProbTable.compress(torch.randn(10, 4).softmax(1)),
        rows,
        HEAD,
        TrainingSection(steps=3, batch_size=8, lr=0.02),
        Objective(AugmentedConfidence()),
        seed=1,
        prompts=prompts_in(tmp_path),
    )
    both = fit_heads(fit)
    alone = fit_heads(replace(fit, members=rows[:1]))
    torch.testing.assert_close(both.weight[:1], alone.weight, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(both.weight[0], both.weight[1], atol=1e-5)
    assert torch.equal(both.weight, fit_heads(fit).weight)


def test_a_context_that_the_encoder_would_cut_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path)
    error = error_of(prompts_in, tmp_path, HEAD.model_copy(update={"context": 14}))
    assert error.key == ("context",)


def test_their_accuracy_is_watched_while_they_are_fitted(tmp_path: Path) -> None:
    """The last accuracy that is reported is that of the prototypes in the end."""
    write_clip(tmp_path)
    torch.manual_seed(6)
    features, labels = torch.randn(40, 32), torch.arange(40) % 4
    rows = torch.arange(40)
    watched = Watched(features, labels)
    seen: list[float] = []
    fit = HeadFit(
        features,
        ProbTable.compress(torch.eye(4)[labels]),
        [rows],
        HEAD,
        TrainingSection(steps=5, batch_size=40, lr=0.1),
        Objective(AugmentedConfidence()),
        seed=1,
        prompts=prompts_in(tmp_path),
        watched=watched,
    )
    bank = fit_heads(
        fit, on_step=lambda step, loss, met: seen.append(float(met.get(VALIDATION, -1)))
    )
    assert seen[-1] == pytest.approx(float((bank(features)[0].argmax(1) == labels).double().mean()))
