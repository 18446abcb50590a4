"""Learnt prompts: context vectors before the class names, through CLIP's frozen text encoder.

CoOp (Zhou et al., "Learning to Prompt for Vision-Language Models", arXiv 2109.01134, section 3.2),
with one context for all classes and the class name at its end; `cosup/METHODS.md`, section 3. The
prompt of class c is the text "X ... X NAME.", where the embeddings of the placeholders are replaced
by the vectors. What is fitted is the vectors alone; the prototypes that they give at the end are
the head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from cosup.models.heads import HeadBank
from cosup.seeds import torch_generator

__all__ = ["LearntPrompts", "PromptBank", "prompt_heads"]

START = 0.02
"""Standard deviation of the vectors at the start, as published."""
AT_ONCE = 64
"""Prompts that are encoded at a time. Only these keep what their gradient needs: all prompts of 345
classes would take gigabytes."""


class LearntPrompts(nn.Module):
    """Maps context vectors [M, W] to the prototypes [C, D] of their prompts, of unit length.

    encoder: CLIP's text encoder (`encode_text`), which stays as it is. tokens: [C, L], with
    placeholders in the columns first to first + M.
    """

    tokens: Tensor

    def __init__(self, encoder: nn.Module, tokens: Tensor, first: int, count: int) -> None:
        super().__init__()
        self.encoder: Any = encoder.eval().requires_grad_(False)
        self.register_buffer("tokens", tokens, persistent=False)
        self.first, self.count = first, count
        self.embedding = self._embedding()
        self.width: int = self.embedding.embedding_dim

    def forward(self, context: Tensor) -> Tensor:
        """Return the prototypes.

        Of several parts the activations are computed again for the gradient, part by part.
        """
        if len(self.tokens) <= AT_ONCE:
            return normalize(self._encode(context, self.tokens), dim=-1)
        parts = [
            checkpoint(self._encode, context, part, use_reentrant=False)
            for part in torch.split(self.tokens, AT_ONCE)
        ]
        return normalize(torch.cat(parts), dim=-1)

    def multiplications(self) -> int:
        """Return about how many multiplications all prompts take."""
        encoder: nn.Module = self.encoder
        sizes = [each.numel() for each in encoder.parameters() if each.dim() > 1]
        return self.tokens.numel() * (sum(sizes) - self.embedding.weight.numel())

    def _encode(self, context: Tensor, tokens: Tensor) -> Tensor:
        """Return text features [n, D] of tokens [n, L] with the context in its place."""
        with self._replaced(context):
            features: Tensor = self.encoder.encode_text(tokens)
        return features.float()

    @contextmanager
    def _replaced(self, context: Tensor) -> Iterator[None]:
        """Replace the embeddings of the placeholders by the context."""
        last = self.first + self.count

        def replace(_: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
            own = context.to(embedded.dtype).expand(len(embedded), -1, -1)
            return torch.cat([embedded[:, : self.first], own, embedded[:, last:]], dim=1)

        handle = self.embedding.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def _embedding(self) -> nn.Embedding:
        """Return the layer of the encoder that reads the tokens."""
        found: list[nn.Embedding] = []
        one = self.tokens[:1]

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            read = inputs[0]
            if read.dim() == 2 and torch.equal(read, one[:, : read.shape[1]]):
                assert isinstance(layer, nn.Embedding)
                found.append(layer)

        layers = [one for one in self.encoder.modules() if isinstance(one, nn.Embedding)]
        handles = [layer.register_forward_hook(note) for layer in layers]
        self.encoder.encode_text(one)
        for handle in handles:
            handle.remove()
        assert len(found) == 1, "a text encoder embeds its tokens once"
        return found[0]


class PromptBank(HeadBank):
    """Prototype heads while their prompts are fitted; `settled` gives those of their end.

    context: [H, M, W], of each head. log_scale: [H].
    """

    def __init__(self, prompts: LearntPrompts, context: Tensor, log_scale: Tensor) -> None:
        with torch.no_grad():
            weight = torch.stack([prompts(each) for each in context])
        super().__init__(weight, log_scale=log_scale)
        self.weight.requires_grad_(False)  # of the start; in use are those of `prototypes`
        self.context = nn.Parameter(context)
        self.prompts = prompts

    def prototypes(self) -> Tensor:
        """Return the prototypes [H, C, D] of the prompts as they are now."""
        return torch.stack([self.prompts(each) for each in self.context])

    def multiplications(self, batch: int) -> int:
        """Return about how many multiplications the logits of a batch take, with the prompts."""
        return super().multiplications(batch) + len(self) * self.prompts.multiplications()

    def select(self, heads: int | Sequence[int]) -> HeadBank:
        """Return a bank of these heads, as they are now."""
        return self.settled().select(heads)

    @torch.no_grad()
    def settled(self) -> HeadBank:
        """Return plain prototype heads, which need no text encoder."""
        assert self.log_scale is not None
        return HeadBank(self.prototypes(), log_scale=self.log_scale.detach().clone())


def prompt_heads(prompts: LearntPrompts, log_scale: Tensor, seed: int) -> PromptBank:
    """Return heads with these scales [H], all with the same random context."""
    generator = torch_generator(seed, "prompts")
    context = START * torch.randn(prompts.count, prompts.width, generator=generator)
    context = context.to(prompts.tokens.device).repeat(len(log_scale), 1, 1)
    return PromptBank(prompts, context, log_scale.to(context.device))
