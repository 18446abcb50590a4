"""Build the optimisers and learning-rate schedules of the `training` sections."""

import importlib
import math
from typing import TYPE_CHECKING, Any

import torch

from cosup.errors import UserError, in_short, unknown_of_many, within
from cosup.models.classifier import Classifier
from cosup.models.training_section import TrainingSection

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler


def build_optimizer(model: torch.nn.Module, training: TrainingSection) -> torch.optim.Optimizer:
    """Return the optimiser of a bank of heads.

    Weight decay is applied to matrices and kernels only, not to biases, norms and scales of
    prototypes. A bank's bias is [H, C], so the name of a parameter counts besides its shape.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = {name for name, p in named if p.dim() < 2 or name.endswith(("bias", "log_scale"))}
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
    """Set the learning rate of a step (from 0) out of `total`."""
    rate = training.lr * rate_share(training, step, total)
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_share(training: TrainingSection, step: int, total: int) -> float:
    """Return the rate of a step as a share of `lr`: linear warm-up, then constant or cosine."""
    warm = round(training.warmup * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    if training.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, _falling(training, total) - warm)))


def _falling(training: TrainingSection, total: int) -> int:
    """Return the step at which the cosine ends, in a training of `total` steps."""
    return max(total, training.schedule_steps or 0)


def build_network_optimizer(
    module: torch.nn.Module, training: TrainingSection
) -> torch.optim.Optimizer:
    """Return timm's optimiser over the trainable parameters of a module.

    timm groups the weights of the network (of the `Classifier` in the module): no decay of biases,
    norms and parameters that the network excludes; with `layer_decay` a rate per layer. All other
    parameters (of a connector, a temperature) have the full rate.

    Raises `UserError` for an optimiser that is unknown to timm or not available, and for
    `layer_decay` of a network without groups of layers.
    """
    optim = _timm("optim")
    known = optim.list_optimizers()
    if training.optimizer not in known:
        usual = "timm's, such as adamw, sgd, lamb, lion"
        with within("optimizer"):
            raise unknown_of_many("optimizer", training.optimizer, known, usual)
    info = optim.get_optimizer_info(training.optimizer)
    groups = _groups(module, training)
    devices = {p.device.type for group in groups for p in group["params"]}
    torchs = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    extra = {"fused": True} if info.opt_class in torchs and devices <= {"cpu", "cuda"} else {}
    try:
        optimizer: torch.optim.Optimizer = optim.create_optimizer_v2(
            groups,
            opt=training.optimizer,
            lr=training.lr,
            weight_decay=training.weight_decay,
            momentum=training.momentum,
            **extra,
        )
    except (AssertionError, ImportError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot be created here ({in_short(error)})", key="optimizer", value=training.optimizer
        ) from None
    if getattr(optimizer, "is_second_order", False):
        raise UserError(
            "needs second derivatives, which are not computed",
            key="optimizer",
            value=training.optimizer,
            allowed="any of timm's first-order optimisers, such as sgd, adamw, lamb",
        )
    return optimizer


def _groups(module: torch.nn.Module, training: TrainingSection) -> list[dict[str, Any]]:
    """Return parameter groups: timm's of the network, then the others with and without decay."""
    found = [part for part in module.modules() if isinstance(part, Classifier)]
    core: Any = found[0].model if found else module
    excluded = core.no_weight_decay() if hasattr(core, "no_weight_decay") else ()
    skip = {"no_weight_decay_list": excluded}
    groups: list[dict[str, Any]]
    if training.layer_decay is None:
        groups = _timm("optim").param_groups_weight_decay(core, training.weight_decay, **skip)
    else:
        groups = _timm("optim").param_groups_layer_decay(
            core, training.weight_decay, layer_decay=training.layer_decay, **skip
        )
        if training.layer_decay < 1 and len({group["lr_scale"] for group in groups}) == 1:
            name = found[0].name if found else type(core).__name__
            raise UserError(
                f"the layers of '{name}' have no known order",
                key="layer_decay",
                value=training.layer_decay,
                allowed="null",
            )
    own = {id(p) for p in core.parameters()}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in own]
    groups += [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_scheduler(
    optimizer: torch.optim.Optimizer, training: TrainingSection, steps: int
) -> "Scheduler":
    """Return timm's scheduler over `steps` updates; call `step_update(step)` before each, from 0.

    The rates are those of `rate_share`: warm-up from lr / (w + 1) to lr over w steps, then half a
    cosine to `min_lr`, constant, or divided by ten at each of `milestones` (shares of all steps).
    """
    warm = round(training.warmup * steps)
    shape: dict[str, Any]
    if training.schedule == "cosine":
        shape = {
            "sched": "cosine",
            "num_epochs": max(1, _falling(training, steps) - warm),
            "min_lr": training.min_lr,
            "warmup_prefix": True,
        }
    elif training.schedule == "multistep":
        # timm applies a milestone m at update m - 1.
        milestones = sorted(round(share * steps) + 1 for share in training.milestones)
        shape = {"sched": "multistep", "num_epochs": steps, "decay_milestones": milestones}
        shape["decay_rate"] = 0.1
    else:
        shape = {"sched": "step", "num_epochs": steps, "decay_epochs": steps + 1}
        shape["decay_rate"] = 1.0
    scheduler: Scheduler
    scheduler, _ = _timm("scheduler").create_scheduler_v2(
        optimizer,
        warmup_epochs=warm,
        warmup_lr=training.lr / (warm + 1),
        step_on_epochs=False,
        updates_per_epoch=1,
        **shape,
    )
    return scheduler


def _timm(part: str) -> Any:
    """Return a module of timm, whose import takes seconds and whose type hints are incomplete."""
    return importlib.import_module(f"timm.{part}")
