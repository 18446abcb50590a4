"""What the JSON files of a student's folder hold. Anybody may have written them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

from cosup.config.teacher_model import TeacherModelSection
from cosup.data.transforms import INTERPOLATIONS
from cosup.errors import UserError, in_short
from cosup.models.section import MOST_PIXELS, BackboneSection
from cosup.models.training_section import TrainingSection
from cosup.words import brief

__all__ = [
    "ENCODER",
    "ClipFile",
    "StudentFile",
    "TeamFeatures",
    "TeamFile",
    "TeamTeacher",
    "TimmFile",
    "read_about",
]

ENCODER = "backbone"
"""The folder of the image encoder that the teachers of a team of format 1 read."""
MOST_BYTES = 2**26
"""A larger JSON file is none of a student: a million class names take a third of it."""


def _differ(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{twice!r} is there twice")
    return names


Name = Annotated[str, Field(min_length=1, max_length=10_000)]
Names = Annotated[tuple[Name, ...], AfterValidator(_differ)]
FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]+$", max_length=255)]
"""A file in the same folder."""
Channels = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Side = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Share = Annotated[FiniteFloat, Field(gt=0, le=2)]


class About(BaseModel):
    """The content of a file. Keys that are not declared here are not read."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    format: int = Field(default=1, ge=1)


class StudentFile(About):
    """`student.json`.

    backbone: of the network, or under the head. classes: names of the columns of probabilities.
    meta: whether it went through the meta stage. no_team: why there is no team. weights: the hash
    of the weights of a backbone that is not a part of the network.
    """

    backbone: BackboneSection
    classes: Names = Field(min_length=1)
    meta: bool = False
    no_team: str | None = None
    weights: str | None = None


class TimmInput(BaseModel):
    """How images are prepared. input_size: channels, height, width."""

    input_size: tuple[Annotated[int, Field(ge=3, le=3)], Side, Side]
    mean: Channels
    std: tuple[Share, Share, Share]
    crop_pct: Share
    interpolation: str

    @field_validator("interpolation")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in INTERPOLATIONS:
            raise ValueError(f"is none of {', '.join(INTERPOLATIONS)}")
        return value


class TimmFile(BaseModel):
    """`config.json` of a network of timm's."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    architecture: str = Field(pattern=r"^\w+$", max_length=255)
    num_classes: int
    label_names: Names
    model_args: dict[str, JsonValue] = {}
    pretrained_cfg: TimmInput


class ClipModel(BaseModel):
    """The architecture of CLIP, as far as its image encoder goes."""

    embed_dim: int
    vision_cfg: dict[str, JsonValue]


class ClipFile(BaseModel):
    """`open_clip_config.json` of an image encoder."""

    model_config = ConfigDict(protected_namespaces=())

    model_cfg: ClipModel


class TeamTeacher(BaseModel):
    """A teacher of a team. weights, encoder: in the team's folder."""

    name: Name
    answers: bool
    level: int = Field(ge=0)
    classes: Names | None
    domains: Names | None
    steps: int = Field(ge=0)
    weights: FileName | None
    hash: str | None
    model: TeacherModelSection
    training: TrainingSection
    backbone: str | None = None
    encoder: FileName | None = None


class TeamFeatures(BaseModel):
    """The backbone whose features the assigner reads. weights: their hash."""

    backbone: BackboneSection
    weights: str


class TeamFile(About):
    """`team/team.json`."""

    classes: Names
    domains: Names
    seed: int
    student_exponent: FiniteFloat
    team_exponent: FiniteFloat
    teachers: tuple[TeamTeacher, ...] = Field(min_length=1)
    assigner: dict[str, JsonValue]
    features: TeamFeatures | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_format_1(cls, value: object) -> object:
        """Give each teacher what format 1 says of all of them at once."""
        if not isinstance(value, dict) or not isinstance(value.get("teachers"), list):
            return value
        common = {key: value[key] for key in ("model", "training", "backbone") if key in value}
        if not common:
            return value
        common["encoder"] = ENCODER
        each = [{**common, **one} if isinstance(one, dict) else one for one in value["teachers"]]
        return {**value, "teachers": each}

    @model_validator(mode="after")
    def _teachers_fit(self) -> Self:
        _differ(tuple(teacher.name for teacher in self.teachers))
        for teacher in self.teachers:
            for kind, part in (("classes", teacher.classes), ("domains", teacher.domains)):
                unknown = set(part or ()) - set(getattr(self, kind))
                if unknown:
                    raise ValueError(f"teacher {teacher.name!r} has unknown {kind}: {min(unknown)}")
        return self


File = TypeVar("File", bound=BaseModel)


def read_about(path: Path, kind: type[File], what: str, newest: int | None = None) -> File:
    """Read a JSON file of a student's folder.

    what: the file belongs to, for errors. newest: format that can be read. Raises `UserError` for a
    file that is missing, too large, of a newer format, or holds something else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        tree = from_json(path.read_bytes())
        made = tree.get("format", 1) if isinstance(tree, Mapping) else 1
        if newest is None or not isinstance(made, int) or made <= newest:
            return kind.model_validate(tree)
    except ValidationError as error:
        reason = _first(error)
    except (OSError, ValueError, RecursionError) as error:
        reason = in_short(error)
    else:
        problem = f"was written by a newer cosup (format {made}); this one reads up to {newest}"
        raise UserError(f"{problem}; upgrade cosup", where=str(path.parent))
    problem = f"is not {what}: {path.name} cannot be read ({reason})"
    raise UserError(problem, where=str(path.parent))


def _first(error: ValidationError) -> str:
    """Return the first mistake as one line."""
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    text = brief(found["msg"].removeprefix("Value error, "))
    return f"{brief(place)}: {text}" if place else text
