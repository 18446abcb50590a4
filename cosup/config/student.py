"""The `student` section: the strong model and its training."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cosup.config.rounds import LossChoice
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection, HeadSection, TrainingSection
from cosup.registry import Section, mistakes
from cosup.validation import Mistake


class MetaSection(Section):
    """The meta stage of few-shot learning: the trained student learns from episodes of the base
    classes to tell a few classes apart by a few examples ("Meta-Baseline", Chen et al., arXiv
    2003.04390)."""

    steps: int = Field(default=500, gt=0)
    """Episodes, one per optimiser step."""
    ways: int = Field(default=5, ge=2)
    """Classes per episode."""
    shots: int = Field(default=1, gt=0)
    """Examples per class."""
    queries: int = Field(default=15, gt=0)
    """Further images per class, which are classified."""
    scale: float = Field(default=10.0, gt=0)
    """Initial factor (inverse temperature) of the cosines; it is learned."""
    optimizer: str = "sgd"
    """Any optimiser of timm."""
    lr: float = Field(default=1e-3, gt=0)
    """The constant learning rate."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay."""
    loss: LossChoice | None = None
    """The loss; null: `rounds.loss`."""

    def training(self) -> TrainingSection:
        """Return the settings as a training section."""
        return TrainingSection(
            steps=self.steps,
            batch_size=self.ways * (self.shots + self.queries),
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule="constant",
        )


class StudentSection(Section):
    """The strong model."""

    mode: Literal["head", "finetune"] = "head"
    """`head`: a head on the backbone's frozen features. `finetune`: the whole network, on images.
    """
    backbone: BackboneSection
    """The network, pretrained or (weights: null) randomly initialised."""
    head: HeadSection = HeadSection()
    """The head that is trained on its features (`finetune`: linear only)."""
    training: TrainingSection = TrainingSection(steps=1000)
    """The training in each round."""
    meta: MetaSection | None = None
    """The meta stage after each round (`data.few_shot`); null: none."""
    cross_fit: int = Field(default=0, ge=0)
    """Folds for cross-fitted predictions (0: the student predicts its own training samples)."""

    @field_validator("cross_fit")
    @classmethod
    def _folds(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1: must be 0, or at least 2 folds")
        return value

    @model_validator(mode="after")
    def _fits_mode(self) -> "StudentSection":
        try:
            if self.mode == "head":
                self.training.check_head(untrained=self.head.init == "text")
            else:
                self.training.check_network()
        except ValueError as error:
            key, _, text = str(error).partition(": ")
            raise mistakes([(("training", key), text)]) from None
        if self.mode == "head":
            if self.meta is not None:
                raise ValueError("meta: needs mode 'finetune', a head leaves the network as it is")
            self._check_text()
            return self
        if self.head.kind != "linear":
            text = f"'{self.head.kind}': mode 'finetune' takes linear alone"
            raise mistakes([(("head", "kind"), text)])
        return self

    def _check_text(self) -> None:
        """Text features lie in CLIP's own space, and say nothing in another."""
        if self.head.init != "text":
            return
        found: list[Mistake] = []
        if not self.backbone.name.startswith(OPEN_CLIP):
            text = f"'text': needs a backbone with a text encoder, {OPEN_CLIP}MODEL@WEIGHTS, not "
            found.append((("head", "init"), f"{text}'{self.backbone.name}'"))
        if self.training.standardize:
            text = "true: would move the features away from their texts (allowed: false)"
            found.append((("training", "standardize"), text))
        if found:
            raise mistakes(found)
