"""Heads: map a backbone's frozen features to class logits.

A `HeadBank` holds H heads of one kind over the same features, stacked into one tensor per
parameter, so that one batched loop fits all local students of a level. Kinds: `linear`, a linear
probe (`cosup/METHODS.md`, sections 1 and 4), and `prototype`, a scale times the cosine to learned
class prototypes (section 3).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosup.models.section import HeadSection
from cosup.seeds import torch_generator

HeadKind = Literal["linear", "prototype"]

HIDDEN = ("hidden_1", "hidden_2")
"""Names of the hidden layers' weights; those of their biases end in `_bias`."""

DEFAULT_SCALE = 16.0
"""Scale of prototypes for backbones without a scale of their own (CLIP has one)."""


class HeadBank(nn.Module):
    """H heads of one kind: features [N, D] (shared) or [H, B, D] -> logits [H, N or B, C].

    weight: [H, C, D], the linear map or the prototypes. bias: [H, C], of `linear`. log_scale: [H],
    of `prototype`. shift, gain: [H, D], standardise the features; None leaves them unchanged.
    hidden_1, hidden_2: [H, W, D] and [H, W, W], weights of hidden layers before a linear map [H, C,
    W], with biases [H, W]; None has no such layer.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        log_scale: Tensor | None = None,
        shift: Tensor | None = None,
        gain: Tensor | None = None,
        hidden_1: Tensor | None = None,
        hidden_1_bias: Tensor | None = None,
        hidden_2: Tensor | None = None,
        hidden_2_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (bias is None) == (log_scale is None):
            raise ValueError("a head has either a bias (linear) or a log_scale (prototype)")
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.log_scale = None if log_scale is None else nn.Parameter(log_scale)
        layers = (hidden_1, hidden_1_bias), (hidden_2, hidden_2_bias)
        for name, (own, line) in zip(HIDDEN, layers, strict=True):
            self.register_parameter(name, None if own is None else nn.Parameter(own))
            self.register_parameter(f"{name}_bias", None if line is None else nn.Parameter(line))
        self.shift: Tensor | None
        self.gain: Tensor | None
        self.register_buffer("shift", shift)
        self.register_buffer("gain", gain)

    @property
    def kind(self) -> HeadKind:
        """`linear` or `prototype`."""
        return "linear" if self.log_scale is None else "prototype"

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.weight.shape[1]

    @property
    def num_features(self) -> int:
        """Number of features D."""
        return (self.hidden[0][0] if self.hidden else self.weight).shape[2]

    @property
    def hidden(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each hidden layer, from the features on."""
        layers = [(getattr(self, name), getattr(self, f"{name}_bias")) for name in HIDDEN]
        return [(weight, bias) for weight, bias in layers if weight is not None]

    def __len__(self) -> int:
        return self.weight.shape[0]

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [H, B, C] of features [B, D], shared by all heads, or [H, B, D]."""
        return self.logits(self.standardized(features))

    def standardized(self, features: Tensor) -> Tensor:
        """Return the features as the heads' weights are applied to them."""
        inputs = features.to(self.weight.dtype)
        if self.shift is not None and self.gain is not None:
            offset = (-self.shift * self.gain)[:, None]
            inputs = torch.addcmul(offset, inputs, self.gain[:, None])
        return inputs

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits [H, B, C] of standardised features."""
        if self.log_scale is None:
            for weight, bias in self.hidden:
                inputs = _linear(inputs, weight, bias).relu()
            return _linear(inputs, self.weight, self.bias)
        weight = functional.normalize(self.prototypes(), dim=-1)
        cosine = _linear(functional.normalize(inputs, dim=-1), weight, None)
        return cosine * self.log_scale.exp()[:, None, None]

    def prototypes(self) -> Tensor:
        """Return the class prototypes [H, C, D]."""
        return self.weight

    def settled(self) -> "HeadBank":
        """Return the heads after their training."""
        return self

    def multiplications(self, batch: int) -> int:
        """Return about how many multiplications the logits of a batch take."""
        layers = sum(weight.numel() for weight, _ in self.hidden)
        return batch * (self.weight.numel() + layers)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the weight [C, D] and bias [C] of one linear head, with the standardisation in it.

        They map features that are not standardised to the same logits.
        """
        assert len(self) == 1
        assert not self.hidden
        assert self.bias is not None, "a linear head"
        weight, bias = self.weight[0].detach().double(), self.bias[0].detach().double()
        if self.shift is not None and self.gain is not None:
            weight = weight * self.gain[0].double()
            bias = bias - weight @ self.shift[0].double()
        return weight.float(), bias.float()

    def select(self, heads: int | Sequence[int]) -> "HeadBank":
        """Return a bank of copies of these heads, in this order; a head may occur several times."""
        index = [heads] if isinstance(heads, int) else list(heads)
        return head_bank({name: tensor[index] for name, tensor in self.state_dict().items()})


class HeadBanks(nn.ModuleList):
    """Banks of heads over the same features, all standardised as by the first bank.

    The heads of a bank are computed apart from those of the others, so that their logits and
    gradients are those of the bank alone, to the last bit.
    """

    def __init__(self, banks: Iterable[HeadBank]) -> None:
        super().__init__(banks)

    def __iter__(self) -> Iterator[HeadBank]:
        return iter(cast(Iterable[HeadBank], self._modules.values()))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return the logits of each bank."""
        inputs = next(iter(self)).standardized(features)
        return [bank.logits(inputs) for bank in self]


def head_bank(state: Mapping[str, Tensor]) -> HeadBank:
    """Return the bank with this `state_dict`; the tensors determine its kind and sizes."""
    return HeadBank(**{name: tensor.detach().clone() for name, tensor in state.items()})


def build_heads(
    section: HeadSection,
    heads: int,
    num_features: int,
    num_classes: int,
    seed: int,
    *,
    random: bool = False,
) -> HeadBank:
    """Return new heads: linear ones start as `section.start` says, prototypes in random directions.

    `HeadFit.start` then moves prototypes to the class means if the section asks for it. random:
    linear heads without a `start` have random weights instead of zeros, and their bias is zero.
    """
    shape = (heads, num_classes, num_features)
    if section.kind == "linear":
        layers, width = _hidden_start(section, num_features, seed)
        weight, bias = _linear_start(section, num_classes, width, seed, random=random)
        state = {"weight": weight, "bias": bias, **layers}
        return HeadBank(**{name: t.repeat(heads, *[1] * t.dim()) for name, t in state.items()})
    generator = torch_generator(seed, "prototypes")
    weight = functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    return HeadBank(weight, log_scale=log_scales(section, heads))


def _hidden_start(
    section: HeadSection, num_features: int, seed: int
) -> tuple[dict[str, Tensor], int]:
    """Return what the hidden layers of one head start from, and how many values they return."""
    found: dict[str, Tensor] = {}
    width = num_features
    for name in HIDDEN[: section.hidden]:
        generator, inputs, width = torch_generator(seed, name), width, max(1, num_features // 2)
        bound = 1 / math.sqrt(inputs)
        found[name] = (2 * torch.rand(width, inputs, generator=generator) - 1) * bound
        found[f"{name}_bias"] = (2 * torch.rand(width, generator=generator) - 1) * bound
    return found, width


def _linear_start(
    section: HeadSection, num_classes: int, num_features: int, seed: int, *, random: bool
) -> tuple[Tensor, Tensor]:
    """Return the weight [C, D] and the bias [C] that all linear heads of a bank start from."""
    shape, bias = (num_classes, num_features), torch.zeros(num_classes)
    generator = torch_generator(seed, "linear")
    start = section.start or ("random" if section.hidden else None)
    if start == "normal":
        return 0.01 * torch.randn(shape, generator=generator), bias
    if start == "zero" or not (start or random):
        return torch.zeros(shape), bias
    bound = 1 / math.sqrt(num_features)
    weight = (2 * torch.rand(shape, generator=generator) - 1) * bound
    if start == "random":
        bias = (2 * torch.rand(num_classes, generator=generator) - 1) * bound
    return weight, bias


def text_heads(section: HeadSection, prototypes: Tensor) -> HeadBank:
    """Return one untrained head with these prototypes [C, D].

    With CLIP's text features and scale this is CLIP's zero-shot classifier.
    """
    return HeadBank(prototypes[None].clone(), log_scale=log_scales(section, 1))


def log_scales(section: HeadSection, heads: int) -> Tensor:
    """Return the logarithms of the scales [H] that prototypes start with."""
    return torch.full((heads,), math.log(section.scale or DEFAULT_SCALE))


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply H linear maps: inputs [B, D] or [H, B, D], weight [H, C, D] -> [H, B, C]."""
    if weight.shape[0] == 1:
        # A plain matrix product: a batched one with a single matrix is slower on a CPU.
        # Flattened, not indexed: the gradient of indexing is a copy of the whole weight.
        flat = inputs if inputs.dim() == 2 else inputs.flatten(0, 1)
        line = None if bias is None else bias.flatten(0, 1)
        return functional.linear(flat, weight.flatten(0, 1), line)[None]
    stacked = inputs if inputs.dim() == 3 else inputs.expand(weight.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(stacked, weight.transpose(1, 2))
    return torch.baddbmm(bias[:, None], stacked, weight.transpose(1, 2))
