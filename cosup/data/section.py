"""The `data` section: where the images come from and how they are split."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_serializer, model_validator

from cosup.data.sources import SOURCES
from cosup.data.sources import SPLITS as SPLITS
from cosup.registry import Choice, Section, setting_names


class SplitShares(Section):
    """Shares of all samples; what is left over (a sum below 1) is not used."""

    teacher_train: float = Field(default=0.0, ge=0, lt=1)
    """Labelled samples that train the teachers; 0 with `data.share_train`, and only then."""
    student_train: float = Field(gt=0, lt=1)
    """Samples the teachers annotate for the student, which sees none of their true labels."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Samples for choices made along the way."""
    test: float = Field(default=0.0, ge=0, lt=1)
    """Samples that measure, and never select; 0 with `data.few_shot`, whose novel classes measure,
    and only then."""

    @model_validator(mode="after")
    def _at_most_one(self) -> "SplitShares":
        total = self.teacher_train + self.student_train + self.validation + self.test
        if total > 1 + 1e-9:
            raise ValueError(f"the shares sum to {total:g}; at most 1 is allowed")
        return self


class NoiseSection(Section):
    """Wrong labels for the samples that train teachers and student."""

    kind: Literal["symmetric", "asymmetric", "matrix"]
    """`symmetric`: any *other* class, each as likely. (Some published code draws among all classes,
    the true one too: rate r there is r (C - 1) / C here.) `asymmetric`: the class that `map` says.
    `matrix`: as `matrix` says."""
    rate: float | None = Field(default=None, ge=0, lt=1)
    """The probability that a sample's label is changed (asymmetric: of a class that `map` maps)."""
    map: Literal["cifar10", "cifar100", "next"] | dict[str, str] | None = None
    """`asymmetric`: the usual maps of CIFAR-10 and CIFAR-100, `next` (each class is taken for the
    next, the last for the first), or a mapping of class names; a class not in it keeps its labels.
    """
    matrix: list[list[float]] | str | None = None
    """`matrix`: a row per true class with the probability of each given class, or a CSV file of it
    without header; every row sums to 1 (to within 0.001)."""

    @field_validator("map", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        """YAML reads classes that are called by numbers as numbers."""
        if not isinstance(value, Mapping):
            return value
        return {str(key): str(v) if isinstance(v, int) else v for key, v in value.items()}

    @model_validator(mode="after")
    def _fits_kind(self) -> "NoiseSection":
        for name, kinds in (
            ("rate", ("symmetric", "asymmetric")),
            ("map", ("asymmetric",)),
            ("matrix", ("matrix",)),
        ):
            given = getattr(self, name) is not None
            if given and self.kind not in kinds:
                raise ValueError(f"{name} goes with kind {' and '.join(kinds)}, not {self.kind}")
            if not given and self.kind in kinds:
                raise ValueError(f"kind {self.kind} needs a {name}")
        return self


class FewShotSection(Section):
    """Which classes are set aside, and the episodes that measure on them."""

    novel: Annotated[int, Field(gt=0)] | list[str | int] | Literal["given"]
    """Classes that nothing is trained on, and that measure at the end: how many (the last ones),
    their names (or indices), or `given` where the source says (miniImageNet)."""
    validation: Annotated[int, Field(ge=0)] | list[str | int] | Literal["given"] = 0
    """Further such classes for choices made along the way; of a number, the last before `novel`."""
    draw: bool = False
    """Draw the numbers of classes by seed, in place of the last ones."""
    ways: int = Field(default=5, ge=2)
    """Classes of an episode."""
    shots: int = Field(default=1, ge=1)
    """Labelled images of each."""
    queries: int = Field(default=15, ge=1)
    """Images of each that are to be classified."""
    episodes: int = Field(default=600, ge=2)
    """Episodes that the accuracy is the mean of."""

    @model_validator(mode="after")
    def _numbers_are_drawn(self) -> "FewShotSection":
        if self.draw and not (isinstance(self.novel, int) and isinstance(self.validation, int)):
            raise ValueError("draw: true: for numbers of classes; these are named or given")
        return self


class DataSection(Section):
    """Images, labels, domains and splits. A source's own settings stand beside these keys."""

    source: Annotated[Choice, BeforeValidator(SOURCES.check)]
    """A registered source (`cosup ls sources`); its settings are written beside it."""
    splits: SplitShares | Literal["given"] = SplitShares(
        teacher_train=0.3, student_train=0.5, test=0.2
    )
    """Shares to draw, or `given`: as the source's folders, lists or `split` column say."""
    stratify: bool = True
    """Draw splits so that each holds the same share of every class and domain."""
    group_by: str | None = None
    """Keep samples together that share this: `group`, or a column of the source's table.
    Null keeps together what the source itself groups (the rotations of one image)."""
    check: Literal["full", "none"] = "full"
    """Decode every image once, up front, and set broken ones aside; `none` trusts the files."""
    max_broken: float = Field(default=0.01, ge=0, le=1)
    """The share of broken images beyond which the run ends."""
    limit: int | None = Field(default=None, gt=0)
    """Use at most this many samples, drawn by seed, stratified (for a quick try)."""
    share_train: bool = False
    """Teachers train on student_train's samples and labels, and there is no teacher_train: the
    setting of distillation and of learning from noisy labels, not of weak-to-strong learning."""
    noise: NoiseSection | None = None
    """Wrong labels for the training samples; null gives the true ones."""
    few_shot: FewShotSection | None = None
    """Set classes aside to be learnt from a few images; null trains and tests on all classes."""

    @model_validator(mode="after")
    def _needed_splits(self) -> "DataSection":
        if isinstance(self.splits, str):
            return self
        rules = (
            ("teacher_train", self.share_train, "share_train"),
            ("test", self.few_shot is not None, "few_shot"),
        )
        for split, absent, setting in rules:
            share = getattr(self.splits, split)
            if absent and share:
                raise ValueError(f"splits: {split} {share:g}: must be 0 with data.{setting}")
            if not absent and not share:
                raise ValueError(f"splits: {split} 0: must be above 0 without data.{setting}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _gather_source(cls, value: Any) -> Any:
        """Move the source's own settings, written beside `source`, into it.

        A key that neither knows stays, so that it is reported together with all other mistakes.
        """
        if not isinstance(value, dict) or isinstance(value.get("source"), Choice | dict):
            return value
        settings = _source_settings(value.get("source"))
        if settings is None:  # which source was meant is unknown: judge only what looks familiar
            own = cls.model_fields
            near = {k for k in value if difflib.get_close_matches(str(k), own, cutoff=0.75)}
            return {key: value[key] for key in value if key in near}
        rest = {key: value[key] for key in value if key in settings}
        own_keys = {key: value[key] for key in value if key not in rest}
        return {**own_keys, "source": {"name": value["source"], **rest}}

    @classmethod
    def known_keys(cls, value: object) -> list[str]:
        """This section's keys and the settings of the source that is named in it."""
        source = value.get("source") if isinstance(value, dict) else None
        name = source.get("name") if isinstance(source, dict) else source
        return [*cls.model_fields, *(_source_settings(name) or ())]

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        splits = self.splits if isinstance(self.splits, str) else self.splits.model_dump()
        rest = {
            key: getattr(self, key)
            for key in type(self).model_fields
            if key not in ("source", "splits")
        }
        return {"source": self.source.name, **self.source.settings, "splits": splits, **rest}


def _source_settings(name: object) -> list[str] | None:
    """The settings of a registered source; None if there is no such source."""
    known = SOURCES.known()
    return setting_names(known[name]) if isinstance(name, str) and name in known else None
