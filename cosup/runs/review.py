"""`cosup review`: ask a person about some images of a run, and read the answers.

The images and what the sources said of them are fixed by the first review (`review/pool.parquet`),
so that later ones continue its draw. `review/answers.parquet` accumulates the answers; a resumed
run uses them (`cosup.runs.answers`).
"""

import csv
import io
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table

from cosup import words
from cosup.analysis import Run, load_run
from cosup.analysis.arrays import Codes
from cosup.analysis.pool import Pool, pool_from_table, pool_of_run, pool_table
from cosup.analysis.review import Estimate, choose, estimates
from cosup.cells import as_cell
from cosup.data.answers import RANDOM, check_answers, read_answers
from cosup.data.images import BrokenImage
from cosup.data.table import ImageData
from cosup.errors import UserError, unknown_of_many
from cosup.files import write_atomic
from cosup.layout.folders import ReviewFiles
from cosup.layout.kinds import File
from cosup.links import check_inside
from cosup.remote_copy import alone, copy_of
from cosup.report.review import Question, picture_of, write_review
from cosup.runs.directory import locked_error, place_error
from cosup.runs.lock import Locked, locked
from cosup.runs.prepare import list_samples_of
from cosup.words import plural

__all__ = ["ask", "read", "to_fill_in"]

COLUMNS = ("sample_id", "path", "suggested", "reason", "label")


def ask(place: str, number: int, seed: int | None = None, page: bool = True) -> RenderableType:
    """Choose `number` images to review, write them to `review/next.csv`, and maybe show them.

    Those chosen earlier that have no answer yet come first. seed: of the first review; None takes
    the run's. Returns what to print. Raises `UserError` for what is not a run with a student, or
    for a run that another process is writing.
    """
    run = _opened(place)
    files, classes = run.files.review, run.classes
    with _writing(run):
        data = list_samples_of(run)
        if files.pool.exists():
            pool, reasons = _earlier(run)
            if seed is not None:
                problem = f"the first review drew the images; remove {files.folder} to draw anew"
                raise UserError(problem, key=("--seed",), value=seed)
        else:
            first = int(run.config["run"]["seed"]) if seed is None else seed
            pool = pool_of_run(run, first)
            reasons = [""] * len(pool)
        answered = _answered(files)
        waiting = sum(
            bool(reason) and name not in answered
            for name, reason in zip(pool.sample_ids, reasons, strict=True)
        )
        reasons = choose(pool, reasons, max(0, number - waiting))
        rows = _open_questions(pool, reasons, set(answered))[:number]
        if not len(rows):
            raise UserError("every image has an answer", where=place)
        questions = list(_questions(data, pool, rows, reasons, classes, page))
        files.pool.write(pool_table(pool, reasons, classes))
        _put_back(run)
        table, shown_on = to_fill_in(run)
        _write_questions(table, questions)
        if page:
            write_review(shown_on, run.name, questions, classes)
    reasons = [question.reason for question in questions]
    return _asked(run.place, table, reasons, shown_on.path if page else None)


def read(place: str, file: Path) -> RenderableType:
    """Check a file of answers and add them to `review/answers.parquet`.

    Returns what to print: how many there are, and what they tell of every source. Raises
    `UserError` for what `ask` does, for wrong answers (all at once), and without any answer.
    """
    run = _opened(place)
    files, classes = run.files.review, run.classes
    if not files.pool.exists():
        problem = (
            f"there is no review yet; begin with: cosup review {shlex.quote(place)} --next 100"
        )
        raise UserError(problem, where=place)
    with _writing(run):
        pool, reasons = _earlier(run)
        known = set(pool.sample_ids)

        def fault(name: str) -> UserError | None:
            if name in known:
                return None
            return unknown_of_many("sample", name, known, f"sample ids of {files.questions}")

        rows = read_answers(file)
        new = check_answers(rows, classes, fault, f"answers {file}")
        if not new:
            raise UserError("has no answer: every label is blank", where=f"answers {file}")
        before = _answered(files)
        replaced = [name for name in new if name in before and before[name] != classes[new[name]]]
        answers = before | {name: classes[index] for name, index in new.items()}
        _write_answers(files, pool, reasons, answers)
        found = estimates(pool, reasons, _truth(pool, answers, classes))
        files.estimates.write(
            {
                "answers": len(answers),
                "random": _count(pool, reasons, answers, RANDOM),
                "sources": [asdict(one) for one in found],
            }
        )
        _put_back(run)
    blank = len(rows) - len(new)
    return Group(
        *_read_lines(new, blank, replaced, answers, _count(pool, reasons, answers, RANDOM)),
        _table(found),
        f"Use them with: {_resume(run)}",
    )


def _opened(place: str) -> Run:
    run = load_run(place)
    run.check_listed("none of them can be chosen for a review")
    check_inside(run.path, run.files.review.page.path)
    if run.few_shot:
        raise UserError("the student of a few-shot run is for new classes", where=place)
    if not run.rounds or not (run.files.posterior.exists() and run.files.labels.exists()):
        raise UserError(
            "the run has no estimate of its sources yet; finish it, or run it again if it was made "
            "by an earlier version of cosup",
            where=place,
        )
    return run


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    """Hold the lock of the run."""
    try:
        with alone(run.path), locked(run.files.lock):
            yield
    except Locked as error:
        raise locked_error(run.path, error.process) from None
    except PermissionError as error:
        raise place_error(run.path, f"not writable ({error.strerror})") from None


def _put_back(run: Run) -> None:
    """Copy the review of a run at a URI there. Raises `RunError` if that is not possible."""
    copy = copy_of(run.path)
    if copy is not None:
        copy.put_back(run.files.review.folder)


def to_fill_in(run: Run) -> tuple[Path, File]:
    """Return the table that a person fills in, and the page that shows the images.

    For a run at a URI they are in the working directory. Raises `UserError` for another table.
    """
    files = run.files.review
    if copy_of(run.path) is None:
        return files.questions, files.page
    table = Path(f"{run.title}-review.csv")
    if table.exists() and not table.read_bytes().startswith(",".join(COLUMNS).encode()):
        raise UserError("exists and is no table of a review; move it away", where=str(table))
    return table, File(table.with_suffix(".html"))


def _earlier(run: Run) -> tuple[Pool, list[str]]:
    """Return the pool of the first review, and why each image was chosen."""
    files = run.files.review
    pool, reasons = pool_from_table(files.pool.read(), run.classes)
    other = set(run.train["sample_id"]) - set(pool.sample_ids)
    if other:
        problem = (
            f"{plural(len(other), 'sample')} of the run {'was' if len(other) == 1 else 'were'} not "
            f"there at its first review, such as '{min(other)}'; move {files.folder} away to begin "
            "a new one"
        )
        raise UserError(problem, where=str(run.path))
    return pool, reasons


def _open_questions(pool: Pool, reasons: Sequence[str], answered: set[str]) -> Codes:
    """Return the chosen rows without an answer, reasons mixed, in an order that does not change."""
    rows = [
        row
        for row, (name, reason) in enumerate(zip(pool.sample_ids, reasons, strict=True))
        if reason and name not in answered
    ]
    found: Codes = np.array(rows, dtype=np.int64)
    return found[np.argsort(pool.numbers[found].sum(1) % 1, kind="stable")]


def _questions(
    data: ImageData,
    pool: Pool,
    rows: Codes,
    reasons: Sequence[str],
    classes: Sequence[str],
    page: bool,
) -> Iterator[Question]:
    """Yield the questions about these rows of the pool; page: with their pictures."""
    places = data.find([pool.sample_ids[row] for row in rows])
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        suggested, picture = int(pool.label[row]), ""
        if page:
            with suppress(BrokenImage):
                picture = picture_of(data.read(place))
        yield Question(
            pool.sample_ids[row],
            data.where(place),
            classes[suggested] if suggested >= 0 else "",
            reasons[row],
            picture=picture,
        )


def _write_questions(path: Path, questions: Sequence[Question]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([as_cell(getattr(one, column)) for column in COLUMNS] for one in questions)
    write_atomic(path, text.getvalue().encode("utf-8"))


def _answered(files: ReviewFiles) -> dict[str, str]:
    """Return all answers so far: class names by sample."""
    if not files.answers.exists():
        return {}
    table = files.answers.read()
    return dict(zip(table["sample_id"].astype(str), table["label"].astype(str), strict=True))


def _write_answers(
    files: ReviewFiles, pool: Pool, reasons: Sequence[str], answers: dict[str, str]
) -> None:
    rows = [
        (name, answers[name], reason)
        for name, reason in zip(pool.sample_ids, reasons, strict=True)
        if name in answers
    ]
    files.answers.write(pd.DataFrame(rows, columns=["sample_id", "label", "reason"], dtype="str"))


def _truth(pool: Pool, answers: dict[str, str], classes: Sequence[str]) -> Codes:
    place = {name: index for index, name in enumerate(classes)}
    given = [place.get(answers.get(name, ""), -1) for name in pool.sample_ids]
    return np.array(given, dtype=np.int64)


def _count(pool: Pool, reasons: Sequence[str], answers: dict[str, str], reason: str) -> int:
    chosen = zip(pool.sample_ids, reasons, strict=True)
    return sum(name in answers and why == reason for name, why in chosen)


def _asked(place: str, questions: Path, reasons: Sequence[str], page: Path | None) -> str:
    random = sum(reason == RANDOM for reason in reasons)
    lines = [
        f"{plural(len(reasons), 'image')} to review: {random} drawn at random, which measure, and "
        f"{len(reasons) - random} contested ones, which tell whom to trust",
        f"  table to fill in (column label)  {questions}",
    ]
    lines += [f"  the same with pictures           {page}"] if page is not None else []
    again = f"cosup review {shlex.quote(place)} --read {shlex.quote(str(questions))}"
    return "\n".join([*lines, f"then: {again}"])


def _read_lines(
    new: dict[str, int], blank: int, replaced: Sequence[str], answers: dict[str, str], random: int
) -> Iterator[str]:
    left = f", {blank} left blank" if blank else ""
    yield (
        f"read {plural(len(new), 'answer')}{left}; {len(answers)} in all: {random} of images drawn "
        f"at random, {len(answers) - random} of others"
    )
    if replaced:
        again = words.listed([repr(name) for name in replaced], 3)
        yield f"{plural(len(replaced), 'earlier answer')} replaced: {again}"


def _table(found: Sequence[Estimate]) -> Table:
    """Return a table of what is known now of each source."""
    table = Table(title="Right where it answers, estimated from the answers, in %")
    table.add_column("source")
    for name in ("reviewed", "right", "the student is ahead by"):
        table.add_column(name, justify="right")
    for one in found:
        share = _with_interval(one.share, one.low, one.high, words.in_percent)
        lead = _with_interval(one.lead, one.lead_low, one.lead_high, words.in_points)
        table.add_row(one.name, str(one.samples), share, lead)
    return table


def _with_interval(
    value: float | None, low: float | None, high: float | None, write: Callable[[float], str]
) -> str:
    return "" if value is None else f"{write(value)} {words.interval(low, high, write)}"


def _resume(run: Run) -> str:
    config = shlex.quote("CONFIG" if copy_of(run.path) else str(run.files.config.path))
    return f"cosup run {config} --output {shlex.quote(run.place)} --resume"
