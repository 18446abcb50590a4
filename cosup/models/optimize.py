"""Optimisers and learning rates, as the `training` sections ask for them."""

import math

import torch

from cosup.models.section import TrainingSection


def build_optimizer(model: torch.nn.Module, training: TrainingSection) -> torch.optim.Optimizer:
    """The training's optimiser over a model's parameters.

    Weight decay falls on matrices and kernels alone: not on biases, norms and prototypes' scales.
    A bank's bias is [H, C], so parameters are told apart by name as well as by shape.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = {
        name for name, p in named if p.dim() < 2 or name.split(".")[-1] in ("bias", "log_scale")
    }
    groups = [
        {
            "params": [p for name, p in named if name not in plain],
            "weight_decay": training.weight_decay,
        },
        {"params": [p for name, p in named if name in plain], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    fused = all(p.device.type in ("cpu", "cuda") for _, p in named)
    return kind([g for g in groups if g["params"]], lr=training.lr, fused=fused)


def set_rate(
    optimizer: torch.optim.Optimizer, training: TrainingSection, step: int, total: int
) -> None:
    """Give the optimiser the learning rate of this step (from 0) out of `total`."""
    rate = training.lr * rate_share(training, step, total)
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_share(training: TrainingSection, step: int, total: int) -> float:
    """The share of the highest rate at a step: linear warm-up, then constant or half a cosine."""
    warm = round(training.warmup * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    if training.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
