"""The `data` section of a config: source, splits, label noise and few-shot classes.

Imports neither torch nor pandas, so that a config can be checked quickly.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from cosup.data.shifted import ShiftedSection
from cosup.data.sources import SOURCES
from cosup.data.sources.base import SPLITS as SPLITS
from cosup.errors import MISSING, UserError
from cosup.sections import Choice, FileName, Section
from cosup.validation import setting_names
from cosup.words import either, noun


class SplitShares(Section):
    """Shares of the labelled samples. If they sum to less than 1, the rest is not used."""

    teacher_train: float = Field(default=0.0, ge=0, le=1)
    """Labelled samples that train the teachers. Must be 0 with `data.share_train`, and above 0
    without it where a teacher is trained."""
    student_train: float = Field(default=0.0, ge=0, le=1)
    """Samples that the teachers annotate to train the student; their true labels are not used.
    Unlabelled samples are added to them."""
    validation: float = Field(default=0.0, ge=0, le=1)
    """Samples for choices made during the run."""
    test: float = Field(default=0.0, ge=0, le=1)
    """Samples for measuring, never for selection; 0 measures nothing. Must be 0 with
    `data.few_shot`, which measures on novel classes."""

    @model_validator(mode="after")
    def _at_most_one(self) -> "SplitShares":
        total = self.teacher_train + self.student_train + self.validation + self.test
        if total > 1 + 1e-9:
            raise UserError(f"the shares sum to {total:g}", allowed="a sum of at most 1")
        return self


class NoiseSection(Section):
    """Wrong labels for the samples that train teachers and student."""

    kind: Literal["symmetric", "asymmetric", "matrix"]
    """`symmetric`: any other class with equal probability. (Some published code draws from all
    classes, including the true one: rate r there is r (C - 1) / C here.) `asymmetric`: the class
    given by `map`. `matrix`: as given by `matrix`."""
    rate: float | None = Field(default=None, ge=0, lt=1)
    """The probability that a label is changed (asymmetric: of the classes in `map`)."""
    map: Literal["cifar10", "cifar100", "next"] | dict[str, str] | None = None
    """For `asymmetric`: the usual maps of CIFAR-10 and CIFAR-100, `next` (each class becomes the
    next, the last the first), or a mapping of class names; other classes keep their labels."""
    matrix: list[list[float]] | str | None = None
    """For `matrix`: a row per true class with the probability of each label, or a CSV file of it
    without header. Every row sums to 1 (to within 0.001)."""

    @field_validator(
        "map",
        mode="before",
        json_schema_input_type=Literal["cifar10", "cifar100", "next"] | dict[str, str | int] | None,
    )
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        """Convert class names that YAML reads as numbers."""
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
                raise UserError(
                    f"needs kind {either(map(repr, kinds))}, not '{self.kind}'",
                    key=name,
                    value=getattr(self, name),
                )
            if not given and self.kind in kinds:
                raise UserError(f"must be given with kind '{self.kind}'", key=name)
        return self


MOST_PER_EPISODE = 10_000
MOST_IN_EPISODE = 100_000


def check_episode(ways: int, shots: int, queries: int) -> None:
    """Raise `UserError` for more images than an episode holds in memory."""
    images = ways * (shots + queries)
    if images > MOST_IN_EPISODE:
        raise UserError(
            f"ways x (shots + queries) are {images:,} images in an episode",
            allowed=f"at most {MOST_IN_EPISODE:,}",
        )


class FewShotSection(Section):
    """The classes that are set aside, and the episodes that measure on them."""

    novel: Annotated[int, Field(gt=0)] | list[str | int] | Literal["given"]
    """Classes that are not trained on, and that measure at the end: their number (the last ones),
    their names (or indices), or `given` if the source has them (miniImageNet)."""
    validation: Annotated[int, Field(ge=0)] | list[str | int] | Literal["given"] = 0
    """More such classes for choices made during the run; a number takes the last before `novel`."""
    draw: bool = False
    """Draw the numbers of classes by seed instead of taking the last ones."""
    ways: int = Field(default=5, ge=2, le=MOST_PER_EPISODE)
    """Classes per episode. An episode has at most 100,000 images in all."""
    shots: int = Field(default=1, ge=1, le=MOST_PER_EPISODE)
    """Labelled images per class."""
    queries: int = Field(default=15, ge=1, le=MOST_PER_EPISODE)
    """Images to classify per class."""
    episodes: int = Field(default=600, ge=2, le=1_000_000)
    """Episodes to average the accuracy over; a million gives it to 0.001 %."""

    @model_validator(mode="after")
    def _fits_memory(self) -> "FewShotSection":
        check_episode(self.ways, self.shots, self.queries)
        return self

    @model_validator(mode="after")
    def _only_numbers_are_drawn(self) -> "FewShotSection":
        if self.draw and not (isinstance(self.novel, int) and isinstance(self.validation, int)):
            raise UserError("needs numbers of classes, not names or given", key="draw", value=True)
        return self


class DataSection(Section):
    """Images, labels, domains and splits. The settings of the source are keys of this section."""

    source: Annotated[Choice, SOURCES]
    """A registered source (`cosup ls sources`)."""
    splits: SplitShares | Literal["auto", "given"] = "auto"
    """Shares to draw, or `given` for those of the source's folders, lists or `split` column. `auto`
    takes those of the source if it names any, of `train` as many as the teachers need; else it
    draws them: 0.3 teacher_train (if a teacher is trained), 0.5 student_train, 0.2 test; or, if
    some samples have no label and so are student_train, 0.5 teacher_train, 0.2 validation, 0.3
    test of the others."""
    divide_test: bool = False
    """Of a source with an official test part (as DomainNet's lists): student_train and test divide
    that part in proportion to their shares, and the other splits the rest. False: it is all test.
    """
    stratify: bool = True
    """Draw splits that each have the same share of every class and domain."""
    group_by: str | None = None
    """Keep samples of one group in one split: `group`, or a column of the source's table. Null uses
    the groups of the source (such as the rotations of one image)."""
    check: Literal["full", "none"] = "full"
    """`full` decodes every image once before the run and sets broken ones aside; `none` does not.
    """
    max_broken: float = Field(default=0.01, ge=0, le=1)
    """The largest share of broken images; the run stops if there are more."""
    limit: int | None = Field(default=None, gt=0)
    """Use at most this many samples, drawn by seed and stratified (for a quick try)."""
    share_train: bool = False
    """Train teachers on the samples and labels of student_train, without teacher_train. This is the
    setting of distillation and of learning with noisy labels, not of weak-to-strong learning."""
    noise: NoiseSection | None = None
    """Wrong labels for the training samples; null uses the true ones."""
    answers: str | None = None
    """Labels of some images of student_train by a person: a CSV or Parquet file with `sample_id`,
    `label` and maybe `reason`, such as `RUN/review/answers.parquet` (`cosup review`)."""
    answers_as: Literal["auto", "labels"] = "auto"
    """`auto`: images that were chosen at random measure (as the test split where there is none,
    else as validation), the others are labels of student_train. `labels`: all are labels."""
    few_shot: FewShotSection | None = None
    """Set classes aside to be learnt from a few images; null trains and tests on all classes."""
    shifted: dict[FileName, ShiftedSection] = Field(default={}, max_length=100)
    """Test sets of other distributions, by name, measured beside the test split. Each is predicted
    by the student and every control, so that more than 100 are no test any more."""

    def absent_splits(self, teacher_train: bool) -> set[str]:
        """Return the splits that a run does without. teacher_train: a teacher is trained."""
        absent = set[str]()
        if self.share_train or not teacher_train:
            absent.add("teacher_train")
        if self.few_shot is not None:
            absent.add("test")
        return absent

    def wanted_splits(self, teacher_train: bool) -> set[str]:
        """Return the splits that must have samples. teacher_train: a teacher is trained."""
        wanted = {"teacher_train", "student_train"} - self.absent_splits(teacher_train)
        if not isinstance(self.splits, str):
            wanted |= {name for name in SPLITS if getattr(self.splits, name) > 0}
        return wanted

    @model_validator(mode="after")
    def _episodes_measure(self) -> "DataSection":
        """Check that nothing else is to be measured on, or taken from, a test split."""
        others = {"answers": "null", "divide_test": "false", "shifted": "{}"}
        for key in self.given(others) if self.few_shot is not None else ():
            problem = "must be {allowed} with data.few_shot, which measures on novel classes"
            value = MISSING if key == "shifted" else getattr(self, key)
            raise UserError(problem, key=key, value=value, allowed=others[key])
        return self

    @model_validator(mode="after")
    def _unwanted_splits(self) -> "DataSection":
        if isinstance(self.splits, str):
            return self
        for split, absent, setting in (
            ("teacher_train", self.share_train, "share_train"),
            ("test", self.few_shot is not None, "few_shot"),
        ):
            share = getattr(self.splits, split)
            if absent and share:
                raise UserError(
                    f"must be 0 with data.{setting}", key=("splits", split), value=share
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _gather_source(cls, value: Any) -> Any:
        """Move the source's settings into `source`.

        Unknown keys stay, so that they are reported together with all other errors.
        """
        if not isinstance(value, dict) or isinstance(value.get("source"), Choice | dict):
            return value
        settings = _source_settings(value.get("source"))
        if settings is None:  # the source is unknown, so check only keys like those of this section
            own = cls.model_fields
            near = {k for k in value if difflib.get_close_matches(str(k), own, cutoff=0.75)}
            return {key: value[key] for key in value if key in near}
        rest = {key: value[key] for key in value if key in settings}
        own_keys = {key: value[key] for key in value if key not in rest}
        return {**own_keys, "source": {"name": value["source"], **rest}}

    @classmethod
    def known_keys(cls, value: object) -> list[str]:
        """Return the keys of this section and the settings of the source named in `value`."""
        source = value.get("source") if isinstance(value, dict) else None
        name = source.get("name") if isinstance(source, dict) else source
        return [*cls.model_fields, *(_source_settings(name) or ())]

    @classmethod
    def elsewhere(cls, key: str) -> str:
        """Return the sources that have this setting."""
        own = [name for name in SOURCES.known() if key in (_source_settings(name) or ())]
        return f"{noun(len(own), 'source')} {', '.join(own)}" if own else ""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the JSON schema of the section as it is written: for each source, its settings."""
        section = handler.resolve_ref_schema(handler(schema))
        own = {key: item for key, item in section["properties"].items() if key != "source"}
        return {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "source": {"const": name, "description": source.get("description", "")},
                        **source.get("properties", {}),
                        **own,
                    },
                    "required": ["source", *source.get("required", ())],
                    "additionalProperties": False,
                }
                for name, source in SOURCES.setting_schemas(handler).items()
            ],
            "description": section.get("description", ""),
        }

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
    """Return the settings of a registered source; None if there is no such source."""
    known = SOURCES.known()
    return setting_names(known[name].settings) if isinstance(name, str) and name in known else None
