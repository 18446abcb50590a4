"""Use the answers of a review in its run: what depends on the data is run again with them."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosup.config.schema import Config
from cosup.data.answers import read_answers
from cosup.errors import within
from cosup.layout import Layout
from cosup.runs.directory import RunDirectory
from cosup.runs.prepare import list_samples

__all__ = ["same_answers", "with_answers"]

log = logging.getLogger(__name__)

STAGE = "answers"


@contextmanager
def with_answers(run: RunDirectory, config: Config) -> Iterator[Config]:
    """Yield the config with the answers of the run's review as `data.answers`.

    If they are not those with which its stages were finished, these are discarded first; teachers,
    annotations and features that are still valid stay. Raises `UserError` for answers that cannot
    be used.
    """
    reviewed = run.files.review.answers
    path = str(reviewed.path) if reviewed.exists() else config.data.answers
    digest, before = _digest(path), ""
    if run.is_done(STAGE):
        before = str(run.load(STAGE)["digest"])
    section = config.data.model_copy(update={"answers": path})
    answered = config.model_copy(update={"data": section})
    if digest != before:
        if run.resumed and run.is_started():
            list_samples(answered)  # raises what is wrong with the answers while nothing is lost
            log.info("the answers of the review are new: running again what depends on them")
            run.discard_results()
        run.finish(STAGE, {"digest": digest})
    yield answered


def same_answers(run: RunDirectory, other: Path) -> bool:
    """Return whether a run and another one use the same answers, or both none."""
    mine, theirs = run.files.stage(STAGE), Layout(other).stage(STAGE)
    found = [file.read()["digest"] if file.exists() else "" for file in (mine, theirs)]
    return bool(found[0] == found[1])


def _digest(path: str | None) -> str:
    """Return a hash of the answers in a file, whatever its form; "" without a file."""
    if path is None:
        return ""
    with within("data.answers"):
        rows = read_answers(Path(path))
    lines = sorted("\x1f".join((one.sample_id, one.label, one.reason)) for one in rows if one.label)
    return hashlib.sha256("\x1e".join(lines).encode(errors="surrogateescape")).hexdigest()
