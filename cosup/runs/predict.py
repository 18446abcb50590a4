"""`cosup predict`: a student's answers to images, as a table on the console or in a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from cosup.data.given import GivenImages
from cosup.errors import Mistakes
from cosup.runs.kept_rows import Row, written_alone
from cosup.runs.new_images import ImagesRequest, Said, Speakers, ask_about, check_request
from cosup.student.exported import Answers, ExportedStudent, load_student
from cosup.student.folder import identity, student_folder

__all__ = ["Request", "predict_images"]

MOST_LABELS = 3
"""Labels that a row has, the most probable first."""
LEAST_WEIGHT = 0.01
"""A teacher of at least this weight counts as asked."""


@dataclass(frozen=True, kw_only=True)
class Request(ImagesRequest):
    """What is to be predicted.

    student, packages: as for `load_student`. team: together with the teachers. The rest is that of
    `ImagesRequest`.
    """

    student: str | Path
    team: bool = False
    packages: Sequence[str] = ()


def predict_images(request: Request) -> RenderableType:
    """Predict images, write the output, and return what to print.

    Broken images are left out, and named in the log. Raise `UserError` for an output that exists,
    that another process is writing or is of an unknown type, for arguments that name no image, for
    what is no student, and if every image is broken.
    """
    mistakes, folder = Mistakes(), Path()
    paths = check_request(request, mistakes)
    with mistakes.caught():
        folder = student_folder(request.student)
    mistakes.raise_all()
    with written_alone(request.output, request.may_exist):
        student = load_student(folder, request.device, request.packages)
        if request.team:
            student.team  # noqa: B018  (loaded here, so that its errors come first)
        return ask_about(paths, _speakers(student, folder, request), request)


def _speakers(student: ExportedStudent, folder: Path, request: Request) -> Speakers:
    names = student.team.names if request.team else ()

    def say(paths: Sequence[str]) -> Iterator[Said]:
        given = GivenImages(paths, files=True)
        for answers in student.answers(given, request.team, request.batch_size):
            rows = _rows([paths[place] for place in answers.places], answers, student, names)
            yield Said(rows, list(answers.broken.values()))

    return Speakers(
        columns=_columns(len(student.classes), request.team),
        origin=identity(folder, request.team),
        doing="predicting",
        say=say,
    )


def _rows(
    paths: Sequence[str], answers: Answers, student: ExportedStudent, names: Sequence[str]
) -> dict[str, list[Row]]:
    """Return the row of each image of a batch; names: of the teachers, empty without a team."""
    best = answers.probs.topk(min(MOST_LABELS, len(student.classes)), 1)
    rows = {}
    for path, probs, labels, asked in zip(
        paths, best.values.tolist(), best.indices.tolist(), answers.asked, strict=True
    ):
        row: Row = {"path": path}
        for number, (prob, label) in enumerate(zip(probs, labels, strict=True), 1):
            end = f"_{number}" if number > 1 else ""
            row |= {f"label{end}": student.classes[label], f"probability{end}": round(prob, 6)}
        if names:
            places = asked.argsort(descending=True, stable=True).tolist()
            row["asked"] = ", ".join(names[p] for p in places if asked[p] >= LEAST_WEIGHT)
        rows[path] = [row]
    return rows


def _columns(classes: int, team: bool) -> tuple[str, ...]:
    """Return the columns of the output; there are no more labels than classes."""
    ends = ["", *(f"_{number}" for number in range(2, min(MOST_LABELS, classes) + 1))]
    best = [f"{name}{end}" for end in ends for name in ("label", "probability")]
    return ("path", *best, *(["asked"] if team else []))
