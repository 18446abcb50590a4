"""Config sections of models: backbones, heads, and how a head or a network is trained."""

from typing import Literal

from pydantic import Field, model_validator

from cosup.section import Section


class BackboneSection(Section):
    """A network that turns images into features."""

    name: str
    """A timm name, `hf-hub:owner/model`, or `torchvision:NAME`."""
    weights: str | None = "pretrained"
    """`pretrained` (timm's or torchvision's own), `package:MODULE` (weights shipped by an
    installed package), a path of safetensors or of a state dict, or null (random)."""
    image_size: int | None = Field(default=None, ge=8)
    """Side of the square input in pixels; null takes the model's own."""


class HeadSection(Section):
    """What turns features into class logits."""

    kind: Literal["linear", "prototype"] = "linear"
    """`linear`, or `prototype`: a learnt scale times the cosine to learnt class prototypes."""
    scale: float = Field(default=16.0, gt=0)
    """`prototype`: the scale at the start."""


class TrainingSection(Section):
    """How long and with what optimiser something is trained."""

    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the samples before filtering; rejected samples don't shorten the training."""
    batch_size: int = Field(default=128, gt=0)
    """Samples per step."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW (decoupled weight decay) or Adam."""
    lr: float = Field(default=1e-3, gt=0)
    """The learning rate at its highest."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay (of the weights; biases, prototypes' scales and norms have none)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The learning rate over the steps: half a cosine down to 0, or constant."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """The share of the steps over which the rate rises linearly to `lr`."""
    standardize: bool = False
    """Heads on features or pixels: give each input column mean 0 and variance 1 (measured on the
    training samples; the scaling becomes part of the head)."""

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainingSection":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"steps {self.steps} and epochs {self.epochs}: give one of the two (null unsets it)"
            )
        return self

    def total_steps(self, samples: int) -> int:
        """Optimiser steps for this many samples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * -(-samples // min(self.batch_size, samples))))
