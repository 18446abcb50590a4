"""One entry of `teachers.external` may be many teachers: one per annotator of its table."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cosup.config.external import ExternalSection
from cosup.errors import Mistakes, UserError, raise_all, within
from cosup.teachers.names import file_name
from cosup.teachers.tables.reading import Opened, open_table, unknown_annotator
from cosup.teachers.tables.votes import ALONE

__all__ = ["Opener", "expand_tables"]


Opener = Callable[[ExternalSection, Sequence[str] | None], Opened]
"""Opens the table of an entry; the task's classes are None if they are not known."""


def expand_tables(
    externals: Sequence[ExternalSection],
    classes: Sequence[str] | None,
    opener: Opener = open_table,
) -> list[tuple[int, ExternalSection]]:
    """Return the external teachers, each with its position in the config.

    A table of several annotators becomes a teacher of each, with its `name`, `annotator` and
    `missing` filled in. A table that cannot be read is one teacher; whoever reads it says what is
    wrong. opener: finds the annotators of a table. Raises `UserError` for an annotator that a table
    does not name, one that two teachers claim, and names that are equal once they are file names.
    """
    found: list[tuple[int, ExternalSection]] = []
    mistakes = Mistakes()
    for position, external in enumerate(externals):
        if external.simulate is not None:
            found.append((position, external))
            continue
        with mistakes.caught(), within(f"teachers.external.{position}"):
            found += [(position, one) for one in _teachers(external, classes, opener)]
    mistakes.add([*_claimed_twice(found), *_named_alike(found)])
    mistakes.raise_all()
    return found


def _teachers(
    external: ExternalSection, classes: Sequence[str] | None, opener: Opener
) -> list[ExternalSection]:
    assert external.annotations is not None
    asked, key = external.annotators, "annotators"
    if external.annotator is not None:
        asked, key = [external.annotator], "annotator"
    try:
        opened = opener(external, classes)
    except UserError:
        several, names = asked is not None, asked or [ALONE]
    else:
        several, names = opened.several, _chosen(external, opened, asked, key)
    missing = external.missing or ("abstain" if several else "error")
    one = len(names) == 1 and external.annotators is None
    return [
        external.model_copy(
            update={
                "name": _name(external, name, one),
                "annotator": name if several else None,
                "annotators": None,
                "missing": missing,
            }
        )
        for name in names
    ]


def _chosen(
    external: ExternalSection, opened: Opened, asked: Sequence[str] | None, key: str
) -> list[str]:
    if asked is None:
        return list(opened.annotators)
    errors = [
        unknown_annotator(external, name, opened, key)
        for name in asked
        if not opened.several or name not in opened.annotators
    ]
    raise_all(errors)
    return list(asked)


def _name(external: ExternalSection, annotator: str, one: bool) -> str:
    """Return a teacher's name: the entry's, with the annotator's unless it is the only one."""
    if external.name is not None:
        return external.name if one else f"{external.name}_{file_name(annotator)}"
    if annotator == ALONE:
        assert external.annotations is not None
        annotator = Path(external.annotations).name.partition(".")[0]
    return file_name(annotator).lstrip(".-") or "_"


def _claimed_twice(found: Sequence[tuple[int, ExternalSection]]) -> list[UserError]:
    """Return an error for each annotator of a table that is two teachers."""
    first: dict[tuple[Path, str | None], tuple[int, ExternalSection]] = {}
    errors = []
    for position, one in found:
        if one.annotations is None:
            continue
        claim = (Path(one.annotations).resolve(), one.annotator)
        other, held = first.setdefault(claim, (position, one))
        if held is not one:
            who = "" if one.annotator is None else f", annotator '{one.annotator}',"
            same = f"teacher '{held.name}' (teachers.external.{other})"
            problem = f"the table '{one.annotations}'{who} is already {same}"
            key = f"teachers.external.{position}"
            errors.append(UserError(problem, key=key, allowed="one teacher of each annotator"))
    return errors


def _named_alike(found: Sequence[tuple[int, ExternalSection]]) -> list[UserError]:
    """Return an error for annotators of one table whose names are equal as file names."""
    first: dict[tuple[int, str | None], str | None] = {}
    errors = []
    for position, one in found:
        held = first.setdefault((position, one.name), one.annotator)
        if held != one.annotator:
            problem = f"annotators '{held}' and '{one.annotator}' would both be named '{one.name}'"
            allowed = "entries with a `name` and an `annotator`"
            key = f"teachers.external.{position}"
            errors.append(UserError(problem, key=key, allowed=allowed))
    return errors
