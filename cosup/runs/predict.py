"""`cosup predict`: a student's answers to images, as a table on the console or in a file."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from cosup.data.broken import log_broken
from cosup.data.given import GivenImages
from cosup.data.listing import list_images
from cosup.errors import Mistakes, UserError
from cosup.layout import Layout
from cosup.runs.kept_rows import KeptRows, Row, check_output
from cosup.runs.logs import progress
from cosup.student.exported import (
    HEAD,
    NETWORK,
    SETTINGS,
    TEAM,
    Answers,
    ExportedStudent,
    load_student,
)
from cosup.words import plural

__all__ = ["Request", "predict_images"]

MOST_LABELS = 3
"""Labels that a row has, the most probable first."""
SHOWN = 20
"""Rows that are printed where there is no output, and labels that are counted."""
LEAST_WEIGHT = 0.01
"""A teacher of at least this weight counts as asked."""


@dataclass(frozen=True)
class Request:
    """What is to be predicted.

    student: its folder, or that of its run. images: as for `list_images`. output: the file to
    write; None only shows some rows. team: together with the teachers. resume: go on after the rows
    of an interrupted command, or of a finished one for images that are new. overwrite: replace the
    output. device: as `execution.device`.
    """

    student: Path
    images: Sequence[str]
    output: Path | None = None
    team: bool = False
    resume: bool = False
    overwrite: bool = False
    batch_size: int = 64
    device: str = "auto"


def predict_images(request: Request) -> RenderableType:
    """Predict images, write the output, and return what to print.

    Broken images are left out, and named in the log. Raise `UserError` for an output that exists or
    is of an unknown type, for arguments that name no image, for what is no student, and if every
    image is broken.
    """
    mistakes = Mistakes()
    paths: list[str] = []
    with mistakes.caught():
        _check_output(request)
    with mistakes.caught():
        folder = _student_folder(request.student)
    with mistakes.caught():
        paths = list_images(request.images)
    mistakes.raise_all()
    student = load_student(folder, request.device)
    if request.team:
        student.team  # noqa: B018  (loaded here, so that its errors come before anything is written)
    columns = _columns(len(student.classes), request.team)
    if request.output is None:
        tally = _Tally(columns)
        _predict(student, paths, request, tally.add)
        _check_any(tally.count)
        return tally.shown()
    kept = KeptRows(request.output, columns, _identity(folder, request.team))
    kept.open(request.resume)
    return _written(student, paths, request, kept)


def _written(
    student: ExportedStudent, paths: Sequence[str], request: Request, kept: KeptRows
) -> RenderableType:
    """Predict the images that have no row yet, and write the output."""
    earlier = kept.paths()
    left = [path for path in paths if path not in earlier]
    tally = _Tally(kept.columns)

    def keep(rows: list[Row]) -> None:
        kept.append(rows)
        tally.add(rows)

    try:
        _predict(student, left, request, keep)
    except BaseException as error:
        count = len(earlier) + tally.count
        if count:
            error.add_note(f"the answers to {plural(count, 'image')} are kept")
        else:
            kept.discard()
        raise
    if not earlier and not tally.count:
        kept.discard()
    _check_any(len(earlier) + tally.count)
    kept.finish()
    kept_too = f"; kept from before: {plural(len(earlier), 'row')}" if earlier else ""
    return escape(f"{tally.told()}\nwritten to {kept.output}{kept_too}")


def _predict(
    student: ExportedStudent,
    paths: Sequence[str],
    request: Request,
    on_rows: Callable[[list[Row]], None],
) -> None:
    """Pass the rows of each batch to `on_rows`, and log which images are broken."""
    broken: list[str] = []
    names = student.team.names if request.team else ()
    with progress("predicting", len(paths)) as advance:
        given = GivenImages(paths, files=True)
        for answers in student.answers(given, request.team, request.batch_size):
            on_rows(_rows([paths[place] for place in answers.places], answers, student, names))
            broken += answers.broken.values()
            advance(len(answers.places) + len(answers.broken))
    if broken:
        log_broken(broken, len(paths))


def _rows(
    paths: Sequence[str], answers: Answers, student: ExportedStudent, names: Sequence[str]
) -> list[Row]:
    """Return the rows of a batch; names: of the teachers, empty without a team."""
    best = answers.probs.topk(min(MOST_LABELS, len(student.classes)), 1)
    rows = []
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
        rows.append(row)
    return rows


def _columns(classes: int, team: bool) -> tuple[str, ...]:
    """Return the columns of the output; there are no more labels than classes."""
    ends = ["", *(f"_{number}" for number in range(2, min(MOST_LABELS, classes) + 1))]
    best = [f"{name}{end}" for end in ends for name in ("label", "probability")]
    return ("path", *best, *(["asked"] if team else []))


class _Tally:
    """Counts rows by label, and keeps the first ones to show."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self.first: list[Row] = []
        self.labels: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.labels.total()

    def add(self, rows: list[Row]) -> None:
        self.first += rows[: SHOWN - len(self.first)]
        self.labels.update(row["label"] for row in rows)

    def told(self) -> str:
        """Return how many images have each label, the most frequent first."""
        if not self.count:
            return "no new image"
        most = self.labels.most_common(SHOWN)
        others = self.count - sum(number for _, number in most)
        more = [f"others: {others}"] if others else []
        counts = ", ".join([*(f"{label}: {number}" for label, number in most), *more])
        return f"{plural(self.count, 'image')} by label: {counts}"

    def shown(self) -> RenderableType:
        """Return the first rows as a table, and the counts."""
        table = Table()
        for name in self.columns:
            right = name.startswith("probability")
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in self.first:
            cells = (row[name] for name in self.columns)
            table.add_row(*(f"{c:.3f}" if isinstance(c, float) else escape(c) for c in cells))
        more = self.count - len(self.first)
        note = f"and {more} more; -o FILE writes them all\n" if more else ""
        return Group(table, escape(note + self.told()))


def _check_any(count: int) -> None:
    """Raise `UserError` if there is no row, because every image is broken (the log names them)."""
    if not count:
        raise UserError("no image can be read")


def _check_output(request: Request) -> None:
    output = request.output
    if request.resume and request.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if output is None:
        if request.resume or request.overwrite:
            raise UserError("--resume and --overwrite need an output: -o FILE")
        return
    check_output(output, request.resume or request.overwrite)


def _student_folder(path: Path) -> Path:
    """Return the folder of a student: the path, or `student` in it if that is a run."""
    if not path.is_dir():
        raise UserError(
            "no folder {value}", value=str(path), allowed="a run directory or a student's folder"
        )
    if (path / SETTINGS).exists():
        return path
    inside = Layout(path).student
    if not inside.is_dir():
        raise UserError(
            "holds no student", value=str(path), allowed="a finished run, or a student's folder"
        )
    return inside


def _identity(folder: Path, team: bool) -> str:
    """Return a hash of a student, and of its team if that is asked."""
    files = [SETTINGS, HEAD, NETWORK, *([f"{TEAM}/team.json"] if team else [])]
    digest = hashlib.sha256()
    for path in (folder / name for name in files if (folder / name).exists()):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
