"""Teachers from outside: annotation tables and simulated annotators."""

from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cosup.config.scope import ScopeSection
from cosup.errors import UserError
from cosup.sections import FileName, Section

__all__ = ["FORMS", "ColumnsSection", "ExternalSection", "Form", "Match", "SimulateSection"]

Form = Literal["labels", "probabilities", "long", "wide", "matrix", "label_studio", "coco"]
"""What a file of annotations looks like; `cosup/teachers/tables` reads each."""

FORMS: tuple[Form, ...] = get_args(Form)

Match = Literal["exact", "path", "stem", "name"]
"""How the ids of a table are matched with those of the data, from strict to loose."""


class ColumnsSection(Section):
    """The names of a table's columns; null finds each by the names that are usual for it."""

    sample_id: str | None = None
    """The sample: its id or path. Usual: sample_id, task, path, image, file_name, filename, file,
    image_path, file_path, filepath, image_name, image_id, img, item. In Label Studio's JSON, a key
    of the task's data."""
    annotator: str | None = None
    """Who answered. Usual: annotator, worker, rater, annotator_id, worker_id."""
    label: str | None = None
    """The answer. Usual: label, choice, class, class_name, category, target, answer. In Label
    Studio's JSON, the name of the choices."""
    confidence: str | None = None
    """The probability of the answer. Usual: confidence, probability."""


class CopiesSection(Section):
    """Answers that a simulated annotator takes over from another one."""

    of: str
    """The name of another simulated annotator, listed before this one."""
    share: float = Field(ge=0, le=1)
    """The share of the other's answers that this one repeats."""


class SimulateSection(Section):
    """An annotator made from the true labels. `cosup/METHODS.md` has its rules.

    A planning tool: what would a fourth annotator of 70 % bring? Its answers depend on the true
    labels, so its figures are no measurement of anybody.
    """

    accuracy: float = Field(ge=0, le=1)
    """The share of its answers that are right, in classes and domains that are not listed below."""
    coverage: float = Field(default=1.0, gt=0, le=1)
    """The share of the samples that it answers."""
    classes: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Its accuracy on single classes, by name."""
    domains: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Its accuracy in single domains, by name; there it replaces `accuracy` and `classes`."""
    confuses: Literal["next"] | dict[str, str] | None = None
    """What its wrong answers are. null: any other class. `next`: always the next class (of the
    last: the first). A mapping of classes: that class; any other for classes not listed."""
    copies: CopiesSection | None = None
    """Answers that it takes over from another simulated annotator; null: none."""
    seed: int = Field(default=0, ge=0)
    """The seed of its answers. They do not depend on the run's seed, as those of a file."""

    @field_validator("classes", "domains", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        """Convert names that YAML reads as numbers."""
        return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator(
        "confuses",
        mode="before",
        json_schema_input_type=Literal["next"] | dict[str, str | int] | None,
    )
    @classmethod
    def _both_are_names(cls, value: object) -> object:
        """Convert names that YAML reads as numbers."""
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else value


class ExternalSection(Section):
    """Teachers from outside: the annotators of a table, or one simulated annotator."""

    name: FileName | None = None
    """Its name in tables, files and reports. A table of several annotators makes a teacher of each,
    `NAME_ANNOTATOR`; without a name, the table names them."""
    simulate: SimulateSection | None = None
    """Make it from the true labels, in place of `annotations`."""
    annotations: str | None = None
    """The file: .csv, .tsv, .jsonl, .json (each also .gz), .parquet, .npy or .npz."""
    form: Form | Literal["auto"] = "auto"
    """`labels`: a row per sample, with `label`. `probabilities`: with a column per class. `long`: a
    row per answer, with `annotator` and `label`. `wide`: a row per sample and a column per
    annotator. `matrix`: the same, with class indices and -1 for no answer. `label_studio`, `coco`:
    JSON. `auto` finds out."""
    annotator: str | None = None
    """One annotator of the table; null: all of them."""
    annotators: list[str] | None = None
    """Several annotators of the table; null: all of them."""
    columns: ColumnsSection = ColumnsSection()
    """The names of the table's columns."""
    ids: str | None = None
    """.npy files: a table whose sample ids are those of the array's rows, in order."""
    match: Match | Literal["auto"] = "auto"
    """`exact`: equal ids. `path`: equal, but for folders at the front that one of the two lacks.
    `stem`: so, without the file's ending. `auto`: the first of these by which half of the table's
    rows match. `name`: equal file names, whatever the folder."""
    unmatched: Literal["error", "ignore"] = "error"
    """What if fewer than half of the table's rows match a sample."""
    scope: ScopeSection = ScopeSection()
    """The classes and domains that it knows. A simulated annotator answers nothing else."""
    level: int = -1
    """Its level, from 0; -1 is the finest."""
    missing: Literal["error", "abstain"] | None = None
    """Samples without an answer: an error, or the teacher abstains on them. null: an error for
    forms of one annotator (`labels`, `probabilities`), else `abstain`."""

    @field_validator("annotations")
    @classmethod
    def _one_of_two(cls, value: str | None, info: ValidationInfo) -> str | None:
        simulated = info.data.get("simulate")
        if value is None and simulated is None and "simulate" in info.data:
            raise UserError("must be given, or else `simulate`")
        if value is not None and simulated is not None:
            raise UserError("is given, and so is `simulate`", allowed="one of the two")
        return value

    @field_validator("annotator", mode="before", json_schema_input_type=str | int | None)
    @classmethod
    def _name_is_text(cls, value: object) -> object:
        """Convert an annotator's number."""
        return str(value) if isinstance(value, int) else value

    @field_validator(
        "annotators", mode="before", json_schema_input_type=str | int | list[str | int] | None
    )
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        """Convert annotators' numbers, and one annotator to a list."""
        if isinstance(value, str | int):
            value = [value]
        return [str(one) for one in value] if isinstance(value, list) else value

    @field_validator("annotators")
    @classmethod
    def _one_or_several(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value is not None and info.data.get("annotator") is not None:
            raise UserError("is given, and so is `annotator`", allowed="one of the two")
        if value is not None and (not value or len(set(value)) < len(value)):
            raise UserError("must be annotators, each once")
        return value

    @field_validator("annotator", "annotators", "ids", "missing")
    @classmethod
    def _of_tables(cls, value: object, info: ValidationInfo) -> object:
        if value not in (None, "error") and info.data.get("simulate") is not None:
            hint = "simulate.coverage" if info.field_name == "missing" else None
            raise UserError("is for annotation tables", allowed=hint)
        return value

    @model_validator(mode="after")
    def _simulated_by_name(self) -> "ExternalSection":
        if self.simulate is not None and self.name is None:
            raise UserError("must be given with `simulate`", key="name")
        return self
