"""Heads: what turns a backbone's frozen features into class logits.

A `HeadBank` holds H heads of one kind over the same features, stacked in one tensor each, so that
all local students of a level are fitted by one batched loop. Kinds: `linear` (a linear probe, as in
Burns et al. 2023 and CSL, arXiv 2402.15505) and `prototype` (a scale times the cosine to learnt
class prototypes, as in CPL, arXiv 2511.18396; METHODS.md section 3).

Prototypes from annotations: a class starts at the mean feature of those it is surest of.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import normalize

from cosup.models.samples import chunks, hard_labels
from cosup.models.section import HeadSection
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator

__all__ = [
    "most_confident",
    "use_class_means",
]


HeadKind = Literal["linear", "prototype"]

DEFAULT_SCALE = 16.0
"""The prototypes' scale on backbones that bring none of their own (CLIP's do)."""


class HeadBank(nn.Module):
    """H heads of one kind: features [N, D] (shared) or [H, B, D] -> logits [H, N or B, C].

    `shift` and `gain` [H, D] standardise the features; both are None where they are read as they
    are. `weight` [H, C, D] is the linear map or the prototypes; `bias` [H, C] belongs to `linear`
    and `log_scale` [H] to `prototype`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        log_scale: Tensor | None = None,
        shift: Tensor | None = None,
        gain: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (bias is None) == (log_scale is None):
            raise ValueError("a head has either a bias (linear) or a log_scale (prototype)")
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.log_scale = None if log_scale is None else nn.Parameter(log_scale)
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
        """C."""
        return self.weight.shape[1]

    @property
    def num_features(self) -> int:
        """D."""
        return self.weight.shape[2]

    def __len__(self) -> int:
        return self.weight.shape[0]

    def forward(self, features: Tensor) -> Tensor:
        """Logits [H, B, C] of features [B, D], which every head reads, or [H, B, D], one's own."""
        inputs = features.to(self.weight.dtype)
        if self.shift is not None and self.gain is not None:
            offset = (-self.shift * self.gain)[:, None]
            inputs = torch.addcmul(offset, inputs, self.gain[:, None])
        if self.log_scale is None:
            return _linear(inputs, self.weight, self.bias)
        cosine = _linear(
            functional.normalize(inputs, dim=-1), functional.normalize(self.weight, dim=-1), None
        )
        return cosine * self.log_scale.exp()[:, None, None]

    def select(self, heads: int | Sequence[int]) -> "HeadBank":
        """A bank of copies of these heads, in this order (one may be named several times)."""
        index = [heads] if isinstance(heads, int) else list(heads)
        return head_bank({name: tensor[index] for name, tensor in self.state_dict().items()})


def head_bank(state: Mapping[str, Tensor]) -> HeadBank:
    """The bank whose `state_dict` this is; kind and sizes are read off the tensors."""
    return HeadBank(**{name: tensor.detach().clone() for name, tensor in state.items()})


def build_heads(
    section: HeadSection, heads: int, num_features: int, num_classes: int, seed: int
) -> HeadBank:
    """`heads` fresh heads: linear ones at zero, prototypes in random directions.

    (`fit_heads` moves prototypes on to the class means; those from text are made of text features.)
    """
    shape = (heads, num_classes, num_features)
    if section.kind == "linear":
        return HeadBank(torch.zeros(shape), bias=torch.zeros(heads, num_classes))
    generator = torch_generator(seed, "prototypes")
    weight = functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    return HeadBank(weight, log_scale=_log_scale(section, heads))


def text_heads(section: HeadSection, prototypes: Tensor) -> HeadBank:
    """One untrained head with these prototypes [C, D]: CLIP's zero-shot, if they are its text
    features and the scale its own."""
    return HeadBank(prototypes[None].clone(), log_scale=_log_scale(section, 1))


def _log_scale(section: HeadSection, heads: int) -> Tensor:
    return torch.full((heads,), math.log(section.scale or DEFAULT_SCALE))


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """inputs [B, D] or [H, B, D], weight [H, C, D], bias [H, C] or None -> [H, B, C]."""
    if weight.shape[0] == 1:
        # One plain matrix product: a batched one of a single matrix is slower on a CPU.
        # Flattened rather than indexed: the gradient of an index is a copy of the whole weight.
        flat = inputs if inputs.dim() == 2 else inputs.flatten(0, 1)
        line = None if bias is None else bias.flatten(0, 1)
        return functional.linear(flat, weight.flatten(0, 1), line)[None]
    stacked = inputs if inputs.dim() == 3 else inputs.expand(weight.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(stacked, weight.transpose(1, 2))
    return torch.baddbmm(bias[:, None], stacked, weight.transpose(1, 2))


@torch.no_grad()
def use_class_means(
    bank: HeadBank, features: Tensor, targets: ProbTable, members: Sequence[Tensor], share: float
) -> None:
    """Set each head's prototypes to the mean unit feature of their class's most confident samples.

    features: [N, D]; targets: N rows; members: the rows of each head; share: as of
    `most_confident`. A class that no sample is annotated with keeps its random direction.
    """
    labels, (_, confidence) = hard_labels(targets), targets.top()
    for h, rows in enumerate(members):
        chosen = rows[most_confident(labels[rows], confidence[rows], bank.num_classes, share)]
        sums = torch.zeros(bank.num_classes, bank.num_features)
        for chunk in chunks(chosen):
            part = features[chunk].to(torch.float32)
            if bank.shift is not None and bank.gain is not None:
                part = (part - bank.shift[h]) * bank.gain[h]
            sums.index_add_(0, labels[chunk], normalize(part, dim=1))
        found = sums.norm(dim=1) > 0
        bank.weight[h, found] = normalize(sums[found], dim=1)


def most_confident(labels: Tensor, confidence: Tensor, classes: int, share: float) -> Tensor:
    """[n] bool: the samples that are among this share of their class's most confident ones.

    labels: [n] int64, -1 for abstentions, which are not. Every class keeps one sample at least; of
    equals at the limit all are kept, so hard annotations (all of confidence 1) all are.
    """
    order = confidence.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    order = order[labels[order] >= 0]
    sizes = torch.bincount(labels[order], minlength=classes)
    counts = (sizes.double() * share - 1e-6).ceil().long().clamp_min(1)  # 0.07 of 100 is 7, not 8
    last = sizes.cumsum(0) - sizes + counts - 1
    limit = torch.full((classes,), torch.inf, dtype=confidence.dtype)
    limit[sizes > 0] = confidence[order[last[sizes > 0]]]
    return (labels >= 0) & (confidence >= limit[labels.clamp_min(0)])
