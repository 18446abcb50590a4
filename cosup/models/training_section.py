"""Config sections of training: length, optimiser and schedule, augmentation, and mixing."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cosup.errors import MISSING, UserError
from cosup.models.section import MOST_PIXELS
from cosup.sections import Section

MOST_STEPS = 100_000_000
MOST_BATCH = 10_000_000
MOST_RATE = 1e38
"""Float32, in which weights are, ends there."""
MOST_ALPHA = 1000.0
"""Beta(1000, 1000) is 1/2 within 0.05."""


class AugmentSection(Section):
    """Augmentation of the images that train a network (timm's and torchvision's transforms)."""

    crop: Literal["none", "resized", "padded"] = "none"
    """`resized`: a random part of the image, scaled to the input (as on ImageNet). `padded`: the
    image with `padding` pixels around it, cut at random (as on CIFAR). `none`: as for prediction.
    """
    scale: tuple[float, float] = (0.08, 1.0)
    """`resized`: the smallest and the largest share of the image's area."""
    padding: int = Field(default=4, ge=0, le=MOST_PIXELS)
    """`padded`: pixels added on each side, at most the side of the largest image."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """The probability of a horizontal flip."""
    color_jitter: float = Field(default=0.0, ge=0, le=10)
    """Strength of random changes in brightness, contrast and saturation; at 10 little but black and
    white is left."""
    auto_augment: str | None = None
    """timm's policy, such as `rand-m9-mstd0.5-inc1`, `augmix-m5-w4-d2` or `original`."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """The probability that a random rectangle is overwritten with noise."""

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentSection":
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise UserError(
                "must be {allowed}",
                key="scale",
                value=list(self.scale),
                allowed="0 < smallest <= largest <= 1",
            )
        return self


class MixupSection(Section):
    """Mixing pairs of images with their targets (timm's Mixup)."""

    mixup: float = Field(default=0.0, ge=0, le=MOST_ALPHA)
    """Alpha of mixup's Beta distribution; 0 is off (Zhang et al., arXiv 1710.09412)."""
    cutmix: float = Field(default=0.0, ge=0, le=MOST_ALPHA)
    """Alpha of cutmix's Beta distribution; 0 is off (Yun et al., arXiv 1905.04899)."""
    prob: float = Field(default=1.0, ge=0, le=1)
    """The share of batches that are mixed."""
    switch_prob: float = Field(default=0.5, ge=0, le=1)
    """Where both are on, the share of mixed batches that get cutmix."""

    @property
    def active(self) -> bool:
        """Return whether any batch is mixed."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)


class TrainingSection(Section):
    """The length of a training, its optimiser and its schedule.

    From `momentum` on: for whole networks alone (`NETWORK_ONLY`); heads have no use for it.
    """

    steps: int | None = Field(default=None, ge=0, le=MOST_STEPS)
    """Optimiser steps; 0, for prototypes from text alone, leaves the student untrained. At most 100
    million: a head makes some 1,000 a second, and needs a day for them."""
    epochs: float | None = Field(default=None, gt=0, le=100_000)
    """Passes over the samples before filtering; rejected samples do not shorten the training. At
    most 100,000: a hundred times as many as published trainings make."""
    batch_size: int = Field(default=128, gt=0, le=MOST_BATCH)
    """Samples per step, or all samples if there are fewer. A head may take the whole set; images
    are held in memory, 600 kB each at 224 pixels."""
    optimizer: str = "adamw"
    """`adamw` (decoupled weight decay) or `adam`; networks accept any optimiser of timm's (`sgd`,
    `lamb`, `lion`, ...), and heads `lbfgs`: at most `steps` iterations over all samples at once,
    with a line search in place of `batch_size`, `lr` and `schedule`. It pays with few classes or
    samples."""
    lr: float = Field(default=1e-3, gt=0, le=MOST_RATE)
    """The highest learning rate; float32 ends at the bound."""
    weight_decay: float = Field(default=0.0, ge=0, le=MOST_RATE)
    """Weight decay (of the weights; biases, prototypes' scales and norms are excluded)."""
    schedule: Literal["cosine", "constant", "multistep"] = "cosine"
    """The learning rate over the steps: half a cosine down to `min_lr`, constant, or (networks)
    divided by ten at each of `milestones`."""
    schedule_steps: int | None = Field(default=None, gt=0, le=MOST_STEPS)
    """`cosine`: the steps over which the rate falls, where a training ends before: published code
    of weak teachers stops a long schedule early, so that the rate hardly falls. null, or fewer than
    the training's steps: the training's."""
    sampling: Literal["passes", "independent"] = "passes"
    """Heads: `passes` over the samples, each in a new order, or `independent`: every sample of a
    batch is drawn anew, with replacement."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """The share of the steps over which the rate rises linearly to `lr`."""
    standardize: bool = False
    """Heads on features or pixels: give each input column mean 0 and variance 1 (measured on the
    training samples; the scaling becomes part of the head)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of optimisers that have one (`sgd` uses Nesterov's; `momentum` is plain SGD)."""
    min_lr: float = Field(default=0.0, ge=0, le=MOST_RATE)
    """The learning rate at the end of the cosine."""
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = [0.5, 0.75]
    """`multistep`: the shares of the steps at which the rate falls."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """The ratio of each layer's rate to the next higher one (timm's groups); null: all equal."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """The rate of stochastic depth, for networks that support it."""
    clip: float | None = Field(default=None, gt=0, le=1e6)
    """The largest norm of the gradient; null does not clip, and more than a million means null."""
    accumulate: int = Field(default=1, gt=0, le=MOST_BATCH)
    """Parts into which a batch is split to save memory; batch norms and mixing work within a part.
    """
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Predict with an exponential moving average of the weights, decaying by this per step."""
    compile: bool = False
    """Compile the network with torch.compile: slower to start, faster afterwards."""
    save_every: int = Field(default=500, gt=0, le=MOST_STEPS)
    """Steps between saved states, and so the most that a killed training loses."""
    augment: AugmentSection = AugmentSection()
    """Augmentation of the training images."""
    mixing: MixupSection = MixupSection()
    """Mixup and cutmix."""

    later = ("schedule_steps", "sampling")

    @model_validator(mode="after")
    def _one_schedule(self) -> "TrainingSection":
        if self.schedule_steps is not None and self.schedule != "cosine":
            raise UserError(
                f"is for schedule cosine, not {self.schedule}",
                key="schedule_steps",
                value=self.schedule_steps,
                allowed="null",
            )
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainingSection":
        if (self.steps is None) == (self.epochs is None):
            raise UserError(
                "give one of steps and epochs (null unsets the other)",
                value={"steps": self.steps, "epochs": self.epochs},
            )
        if self.batch_size % self.accumulate:
            raise UserError(
                f"must divide batch_size ({self.batch_size})",
                key="accumulate",
                value=self.accumulate,
            )
        return self

    def check_head(self, untrained: bool = False, augments: bool = False) -> None:
        """Raise `UserError` for settings that do not apply to a head or another linear model.

        untrained: it predicts without any training too. augments: it can read the features of
        augmented images.
        """
        if not untrained:
            self._check_steps()
        given = self.given(name for name in NETWORK_ONLY if not (augments and name == "augment"))
        if given:
            value = getattr(self, given[0])
            raise UserError(
                "is for whole networks, not for a head or a linear model",
                key=given[0],
                value=MISSING if isinstance(value, Section) else value,
            )
        if self.optimizer not in ("adam", "adamw", "lbfgs"):
            raise UserError(
                "must be {allowed} for a head",
                key="optimizer",
                value=self.optimizer,
                allowed="adam, adamw or lbfgs",
            )
        if self.optimizer == "lbfgs":
            self._check_full_batch()
        if self.augments:
            self._check_augmented()
        if self.schedule == "multistep":
            raise UserError(
                "must be {allowed} for a head",
                key="schedule",
                value=self.schedule,
                allowed="cosine or constant",
            )

    def check_network(self) -> None:
        """Raise `UserError` for settings that do not apply to a whole network."""
        self._check_steps()
        if self.sampling != "passes":
            raise UserError(
                "is for heads, not for networks",
                key="sampling",
                value=self.sampling,
                allowed="passes",
            )
        if self.standardize:
            raise UserError(
                "is for heads: a network normalises its own pixels", key="standardize", value=True
            )

    def _check_full_batch(self) -> None:
        """Raise `UserError` for settings of mini-batches that L-BFGS cannot follow."""
        if self.epochs is not None:
            raise UserError(
                "counts passes in batches; optimizer lbfgs takes all samples in every iteration: "
                "give steps",
                key="epochs",
                value=self.epochs,
                allowed="null",
            )
        if self.warmup:
            raise UserError(
                "is for a learning rate, and optimizer lbfgs has none",
                key="warmup",
                value=self.warmup,
                allowed="0",
            )

    @property
    def augments(self) -> bool:
        """Whether the training images are augmented."""
        return self.augment != AugmentSection()

    def _check_augmented(self) -> None:
        """Raise `UserError` for settings that need the features of all images at once."""
        whole = {"standardize": self.standardize, "optimizer": self.optimizer == "lbfgs"}
        for key in (key for key, wrong in whole.items() if wrong):
            raise UserError(
                "needs the features of all samples at once, and those of augmented images are "
                "computed step by step",
                key=key,
                value=getattr(self, key),
            )
        if self.augment.erase:
            raise UserError(
                "is for whole networks: features are of whole images",
                key=("augment", "erase"),
                value=self.augment.erase,
                allowed="0",
            )

    def _check_steps(self) -> None:
        if self.steps == 0:
            raise UserError(
                "must be {allowed}",
                key="steps",
                value=0,
                allowed="above 0; 0 only with student.head.init 'text'",
            )

    def batch_for(self, samples: int, workers: int = 1) -> int:
        """Return the samples per step: at most all samples and, where images are mixed in pairs,
        an even number in each part of each worker's slice."""
        size = min(self.batch_size, samples)
        if self.mixing.active and size < self.batch_size:
            size -= size % (2 * self.accumulate * workers)
        return size or samples

    def total_steps(self, samples: int) -> int:
        """Return the optimiser steps for this many samples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * self.epoch_steps(samples)))

    def epoch_steps(self, samples: int) -> int:
        """Return the optimiser steps of one pass over this many samples."""
        return -(-samples // min(self.batch_size, samples))


NETWORK_ONLY = (
    "momentum",
    "min_lr",
    "milestones",
    "layer_decay",
    "drop_path",
    "clip",
    "accumulate",
    "ema",
    "compile",
    "save_every",
    "augment",
    "mixing",
)
