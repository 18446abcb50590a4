"""Config sections of models: backbones and heads."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cosup.errors import UserError
from cosup.models.prompts import check_templates
from cosup.sections import Section

MOST_PIXELS = 2048
MOST_SCALE = 10_000.0

Start = Literal["zero", "random", "normal"]
"""How a linear head starts."""

FeaturePoint = Literal["penultimate", "pooled_conv"]
"""Where the features of a network are read."""

NamesAsWritten = str | list[str | float] | dict[str, str | float] | None
"""Names of classes in YAML, which reads some as numbers (`names_as_text`)."""


class BackboneSection(Section):
    """A network that turns images into features."""

    name: str
    """A timm name, `hf-hub:owner/model`, `torchvision:NAME`, one of cosup's own `cifar_NAME` and
    `few_shot_NAME`, or `open_clip:MODEL@WEIGHTS`: MODEL of open_clip's or a folder, WEIGHTS a tag
    or a file."""
    weights: str | None = "pretrained"
    """`pretrained` (timm's or torchvision's own), `package:MODULE` (weights shipped by an
    installed package), a path of safetensors or of a state dict, or null (random)."""
    image_size: int | None = Field(default=None, ge=8, le=MOST_PIXELS)
    """Side of the square input in pixels; null takes the model's own. At most 2,048: a batch of 64
    such images alone takes 3 GB, and classifiers are made for 1,024 at most."""
    features: FeaturePoint = "penultimate"
    """Frozen backbones: where features are read. `penultimate`: what the last linear layer reads;
    `pooled_conv`: what the first one reads, of `torchvision:` networks whose classifier has hidden
    layers (AlexNet: 9,216 features in place of 4,096)."""
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    """Frozen backbones: the share of the resized image's shorter side that the centre crop keeps;
    0.875 resizes to 256 pixels and crops 224. null takes the model's own."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Frozen backbones: how images are resized; null takes the model's own."""

    later = ("features", "crop_pct", "interpolation")

    @property
    def of_frozen(self) -> list[str]:
        """The settings that are given and that frozen backbones alone have."""
        return self.given(("features", "crop_pct", "interpolation"))


class HeadSection(Section):
    """The head that turns features into class logits."""

    kind: Literal["linear", "prototype"] = "linear"
    """`linear`, or `prototype`: a scale times the cosine to learnt class prototypes."""
    init: Literal["text", "prompts", "class_means", "random"] = "class_means"
    """`prototype`: how prototypes start. `text`: CLIP's text features of the classes' names
    (backbones `open_clip:...`). `prompts`: no prototypes but prompts are learnt, `context` vectors
    before each class's name, through CLIP's text encoder (CoOp, Zhou et al., arXiv 2109.01134);
    what they give at the end are the prototypes. `class_means`: the mean feature of each class's
    most confident annotations. `random`: random directions."""
    templates: str | list[str] = "a photo of a {}."
    """`init: text`: the prompt, with {} for the class's name: one template, several (their
    features are averaged), or the list of a data set by name (`imagenet`, `imagenet_simple`,
    `cifar`, `mnist`, `fashion_mnist`, `domainnet`)."""
    context: int = Field(default=16, ge=1, le=64)
    """`init: prompts`: the number of learnt vectors, the same for all classes. CLIP reads 77 tokens
    in all."""
    class_names: str | list[str] | dict[str, str] | None = None
    """`init: text` or `prompts`: the classes' names in prompts: a list in their order, a mapping
    from class to name, a text file with a line per class, or `imagenet`; null uses the names in the
    data."""
    start: Start | None = None
    """`linear`: how it starts. `zero`; `random`: as torch's `nn.Linear`, weights and bias uniform
    in +-1 / sqrt(features); `normal`: weights with standard deviation 0.01, bias zero. null:
    `zero`, but for a loss that learns nothing from there. With many classes and few steps, `zero`
    ends many points above `random`, which published code uses."""
    hidden: Literal[0, 1, 2] = 0
    """`linear`: the hidden layers before it, each half as wide as the features, with ReLU. They
    start as torch's `nn.Linear`, and so does the last layer unless `start` says otherwise."""
    confident: float = Field(default=0.5, gt=0, le=1)
    """`init: class_means`: the share of each class's annotations, the most confident, to use."""
    scale: float | None = Field(default=None, gt=0, le=MOST_SCALE)
    """`prototype`: the scale at the start; null: CLIP's own, and 16 for other backbones. Beyond
    10,000 only the nearest prototype counts."""
    learn_scale: bool = False
    """`prototype`: train the scale as well as the prototypes."""

    @property
    def reads_text(self) -> bool:
        """Whether prototypes are made by CLIP's text encoder."""
        return self.init in ("text", "prompts")

    @field_validator("class_names", mode="before", json_schema_input_type=NamesAsWritten)
    @classmethod
    def _names_are_texts(cls, value: object) -> object:
        return names_as_text(value)

    @field_validator("templates")
    @classmethod
    def _holes(cls, value: str | list[str]) -> str | list[str]:
        check_templates(value)
        return value

    @model_validator(mode="after")
    def _text_is_for_prototypes(self) -> "HeadSection":
        if self.reads_text and self.kind != "prototype":
            problem = f"needs kind 'prototype', not '{self.kind}'"
            raise UserError(problem, key="init", value=self.init)
        if self.hidden and self.kind != "linear":
            problem = f"needs kind 'linear', not '{self.kind}'"
            raise UserError(problem, key="hidden", value=self.hidden, allowed="0")
        if self.start is not None and self.kind != "linear":
            raise UserError(
                f"needs kind 'linear', not '{self.kind}', whose start is `init`",
                key="start",
                value=self.start,
            )
        return self


def names_as_text(value: object) -> object:
    """Convert classes and names in prompts that YAML reads as numbers to text."""
    if isinstance(value, dict):
        return {_text(key): _text(name) for key, name in value.items()}
    return [_text(name) for name in value] if isinstance(value, list) else value


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) else value
