"""Ask about new images, and write the answers: what `cosup predict` and `cosup annotate` share."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from cosup.data.broken import log_broken
from cosup.data.images import unprintable
from cosup.data.listing import list_images
from cosup.errors import Mistakes, UserError
from cosup.progress import working_on
from cosup.runs.kept_rows import KeptRows, Row, check_output
from cosup.words import plural

__all__ = ["ImagesRequest", "Said", "Speakers", "ask_about", "check_request"]

SHOWN = 20
"""Rows that are printed where there is no output, and labels that are counted."""


@dataclass(frozen=True, kw_only=True)
class ImagesRequest:
    """Images, and what is to be done with them.

    images: as for `list_images`. output: the file to write; None only shows some rows. resume: go
    on after the rows of an interrupted command, or of a finished one for images that are new.
    overwrite: replace the output. batch_size: images that a network sees at once. device: as
    `execution.device`.
    """

    images: Sequence[str]
    output: Path | None = None
    resume: bool = False
    overwrite: bool = False
    batch_size: int = 64
    device: str = "auto"

    @property
    def may_exist(self) -> bool:
        """Whether there may be an output already."""
        return self.resume or self.overwrite


@dataclass(frozen=True)
class Said:
    """What is said of some images.

    rows: of each image that could be read, by its path; none where all abstain. broken: why the
    others could not.
    """

    rows: dict[str, list[Row]]
    broken: Sequence[str]


@dataclass(frozen=True)
class Speakers:
    """Who is asked.

    columns: of the rows. image: the column with the path of the image. speaker: the column of who
    says it; None where it is only one. origin: a hash of who they are. doing: for the progress bar.
    say: paths -> what is said of them, in parts and in order.
    """

    columns: tuple[str, ...]
    origin: str
    doing: str
    say: Callable[[Sequence[str]], Iterator[Said]]
    image: str = "path"
    speaker: str | None = None


def check_request(request: ImagesRequest, mistakes: Mistakes) -> list[str]:
    """Return the paths of the images, and keep every mistake in the request."""
    with mistakes.caught():
        _check_output(request)
    with mistakes.caught():
        return list_images(request.images)
    return []


def ask_about(paths: Sequence[str], speakers: Speakers, request: ImagesRequest) -> RenderableType:
    """Ask about images, write the output, and return what to print.

    Broken images are left out, and named in the log. Raise `UserError` if all are broken, and for
    rows that cannot be continued.
    """
    tally = _Tally(speakers)
    if request.output is None:
        _ask(paths, speakers, tally.add)
        _check_any(tally.images)
        return tally.shown()
    kept = KeptRows(request.output, speakers.columns, speakers.origin, speakers.image)
    kept.open(request.resume)
    earlier = kept.images()

    def keep(rows: dict[str, list[Row]]) -> None:
        kept.append(rows)
        tally.add(rows)

    try:
        _ask([path for path in paths if path not in earlier], speakers, keep)
    except BaseException as error:
        count = len(earlier) + tally.images
        if count:
            error.add_note(f"the answers to {plural(count, 'image')} are kept")
        else:
            kept.discard()
        raise
    if not earlier and not tally.images:
        kept.discard()
    _check_any(len(earlier) + tally.images)
    kept.finish()
    kept_too = f"; kept from before: {plural(len(earlier), 'image')}" if earlier else ""
    return escape(f"{tally.told()}\nwritten to {kept.output}{kept_too}")


def _ask(
    paths: Sequence[str], speakers: Speakers, on_rows: Callable[[dict[str, list[Row]]], None]
) -> None:
    """Pass the rows of each part to `on_rows`, and log which images are broken."""
    broken = [unprintable(path) for path in paths if not path.isprintable()]
    with working_on(f"{speakers.doing}: image", len(paths)) as advance:
        advance(len(broken))
        for said in speakers.say([path for path in paths if path.isprintable()]):
            on_rows(said.rows)
            broken += said.broken
            advance(len(said.rows) + len(said.broken))
    if broken:
        log_broken(broken, len(paths))


class _Tally:
    """Counts rows by who says them and by label, and keeps the first ones to show."""

    def __init__(self, speakers: Speakers) -> None:
        self.speakers = speakers
        self.images = 0
        self.rows = 0
        self.first: list[Row] = []
        self.labels: dict[str, Counter[str]] = {}

    def add(self, rows: dict[str, list[Row]]) -> None:
        self.images += len(rows)
        for row in (row for of_image in rows.values() for row in of_image):
            self.rows += 1
            if len(self.first) < SHOWN:
                self.first.append(row)
            name = row[self.speakers.speaker] if self.speakers.speaker else ""
            self.labels.setdefault(name, Counter())[row["label"]] += 1

    def told(self) -> str:
        """Return how many images have each label, the most frequent first, by who says so."""
        if not self.images:
            return "no new image"
        images = plural(self.images, "image")
        if self.speakers.speaker is None:
            return f"{images} by label: {_counted(self.labels[''])}"
        lines = [
            f"{name}: {plural(counts.total(), 'answer')}: {_counted(counts)}"
            for name, counts in self.labels.items()
        ]
        return "\n".join([images, *lines])

    def shown(self) -> RenderableType:
        """Return the first rows as a table, and the counts."""
        table = Table()
        for name in self.speakers.columns:
            right = name.startswith("probability")
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in self.first:
            cells = (row[name] for name in self.speakers.columns)
            table.add_row(*(f"{c:.3f}" if isinstance(c, float) else escape(c) for c in cells))
        more = self.rows - len(self.first)
        note = f"and {more} more; -o FILE writes them all\n" if more else ""
        return Group(table, escape(note + self.told()))


def _counted(labels: Counter[str]) -> str:
    most = labels.most_common(SHOWN)
    others = labels.total() - sum(number for _, number in most)
    more = [f"others: {others}"] if others else []
    return ", ".join([*(f"{label}: {number}" for label, number in most), *more])


def _check_any(count: int) -> None:
    """Raise `UserError` if no image was read, because all are broken (the log names them)."""
    if not count:
        raise UserError("no image can be read")


def _check_output(request: ImagesRequest) -> None:
    if request.resume and request.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if request.output is None:
        if request.may_exist:
            raise UserError("--resume and --overwrite need an output: -o FILE")
        return
    check_output(request.output, request.may_exist)
