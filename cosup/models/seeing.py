"""What a network sees on the way to its logits: the maps of its stages and its embedding.

All of it comes out of one forward pass through timm's own feature extraction, so that batch norm,
dropout and stochastic depth act once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cosup.errors import UserError
from cosup.losses.features import Seen, Shapes

__all__ = ["embedding", "evaluating", "feature_names", "is_plain", "see", "shapes_of"]


def see(
    name: str, model: nn.Module, last: Sequence[nn.Module], pixels: Tensor, plain: bool = False
) -> Seen:
    """Logits, maps [B, C, h, w] of the stages in order, and the embedding [B, D].

    name: of the network, for errors. last: the layers that give the logits. pixels: normalised
    images [B, 3, H, W]. plain: as `is_plain` says; it saves the hooks, for which torch.compile
    would compile anew in every step. Raises `UserError` for networks that give no feature maps.
    """
    network: Any = model
    if plain:
        features, maps = network.forward_intermediates(pixels, output_fmt="NCHW")
        pooled = network.forward_head(features, pre_logits=True)
        return Seen(last[0](pooled), tuple(maps), pooled)
    if hasattr(model, "forward_intermediates"):
        with _caught(last) as inputs:
            features, maps = network.forward_intermediates(pixels, output_fmt="NCHW")
            logits: Tensor = network.forward_head(features)
        return Seen(logits, tuple(maps), _joined(inputs))
    stages = feature_names(model)
    if not stages:
        raise UserError(
            f"network '{name}' gives no feature maps (allowed: timm's networks, and cosup's "
            "cifar_...)"
        )
    with _caught(last) as inputs, _caught([model.get_submodule(s) for s in stages], 1) as outputs:
        logits = model(pixels)
    return Seen(logits, tuple(outputs), _joined(inputs))


def is_plain(model: nn.Module, last: Sequence[nn.Module], pixels: Tensor) -> bool:
    """Whether the logits are one linear layer on timm's `pre_logits`, as in most families.

    Found by trying it on an image: some add another head's share (VOLO).
    """
    network: Any = model
    if not hasattr(model, "forward_intermediates") or [type(m) for m in last] != [nn.Linear]:
        return False
    features = network.forward_features(pixels)
    pooled, logits = network.forward_head(features, pre_logits=True), network.forward_head(features)
    if pooled.dim() != 2 or pooled.shape[1] != last[0].in_features:
        return False
    return bool(torch.allclose(last[0](pooled), logits, rtol=1e-3, atol=1e-5))


def embedding(model: nn.Module, last: Sequence[nn.Module], pixels: Tensor) -> Tensor:
    """What the last layers read, [B, D], of normalised images; of any network."""
    with _caught(last) as inputs:
        model(pixels)
    return _joined(inputs)


def shapes_of(seen: Seen, model: nn.Module) -> Shapes:
    """The shapes of what a network sees, without the batch."""
    assert seen.embedding is not None
    maps = tuple((m.shape[1], m.shape[2], m.shape[3]) for m in seen.maps)
    names = feature_names(model)
    known = names if len(names) == len(maps) else tuple(map(str, range(len(maps))))
    return Shapes(maps, seen.embedding.shape[1], known)


def feature_names(model: nn.Module) -> tuple[str, ...]:
    """The submodules whose outputs are the network's maps, as far as timm says."""
    return tuple(str(entry["module"]) for entry in getattr(model, "feature_info", ()))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of `model` in eval mode, each put back to its own mode after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _caught(modules: Sequence[nn.Module], which: int = 0) -> Iterator[list[Tensor]]:
    """Gather the inputs (which 0) or outputs (1) of submodules, in the order they run."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        caught.append(output if which else inputs[0])

    handles = [module.register_forward_hook(catch) for module in modules]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _joined(inputs: Sequence[Tensor]) -> Tensor:
    """[B, D]: side by side, where several layers give the logits (distilled, or in parallel)."""
    flat = [tensor.flatten(1) for tensor in inputs]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)
