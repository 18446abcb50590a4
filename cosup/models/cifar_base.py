"""Base of the networks for CIFAR: stem, stages, pooled embedding, and timm's interface."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CifarNet", "conv3x3", "he_normal"]


class CifarNet(nn.Module):
    """Images [B, 3, H, W] (32 x 32 as published, 8 x 8 and larger as well) -> logits [B, C].

    stem: module of the first map. stages: modules of the following maps. widths: channels of the
    maps, the stem's first. final: module between the last map and the pooling. num_classes: 0
    returns the embedding [B, num_features]. Modules have the order of the published code (Tian et
    al., github.com/HobbitLong/RepDistiller), so that its checkpoints load in order.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Sequential],
        widths: Sequence[int],
        reductions: Sequence[int],
        num_classes: int,
        final: nn.Module | None = None,
    ) -> None:
        super().__init__()
        assert len(stages) + 1 == len(widths) == len(reductions)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.final = nn.Identity() if final is None else final
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.num_features = widths[-1]
        self.num_classes = num_classes
        self.fc = self._classifier(num_classes)
        names = ("stem", *(f"stages.{number}" for number in range(len(stages))))
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": name}
            for width, reduction, name in zip(widths, reductions, names, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of normalised images."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map [B, num_features, h, w], the input of the head."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        last: Tensor = self.final(x)
        return last

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits [B, C] of the last map, or with `pre_logits` the embedding."""
        pooled: Tensor = self.pool(x).flatten(1)
        return pooled if pre_logits else self.fc(pooled)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the last map and the chosen maps, or the chosen maps only (timm's interface).

        indices: number of last maps, or indices of maps, or None for all. norm: apply `final` to
        the last map.
        """
        assert output_fmt == "NCHW", "output_fmt must be NCHW"
        count = len(self.feature_info)
        wanted = range(count)[-indices:] if isinstance(indices, int) else indices or range(count)
        chosen = {range(count)[index] for index in wanted}
        maps: list[Tensor] = []
        for number, part in enumerate([self.stem, *self.stages]):
            if stop_early and intermediates_only and number > max(chosen):
                break
            x = part(x)
            if number in chosen:
                ends = norm and number == len(self.stages)
                maps.append(self.final(x) if ends else x)
        return maps if intermediates_only else (self.final(x), maps)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a new one; remove it for 0 classes."""
        assert global_pool in (None, "avg"), "the features are averaged"
        self.num_classes = num_classes
        self.fc = self._classifier(num_classes).to(next(self.parameters()).device)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's groups of layers, for layer-wise decay of the learning rate."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^final", (99999,))]}

    def _classifier(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


def conv3x3(inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, or divides it by the stride."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=bias)


def he_normal(model: CifarNet) -> CifarNet:
    """Initialise convolutions as He et al., arXiv 1502.01852 (fan out), and return the model."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
