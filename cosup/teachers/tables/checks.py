"""What is wrong with annotation tables: everything at once, with or without the data."""

from collections.abc import Sequence

import numpy as np

from cosup.config.external import ExternalSection
from cosup.config.teachers import TeachersSection
from cosup.errors import UserError, about
from cosup.teachers.tables.answers import Answers, unknown_labels
from cosup.teachers.tables.matching import Matched, SampleIds
from cosup.teachers.tables.reading import open_table, pick_annotator, read_answers, table_key
from cosup.teachers.tables.teachers import expand_tables

__all__ = ["check_tables", "content_errors", "match_rows", "read_entry"]

Entry = tuple[ExternalSection, Sequence[int] | None]
"""An annotator of a table, and the classes of its scope (None: all)."""


def check_tables(
    section: TeachersSection,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> list[UserError]:
    """Return the errors in all tables of a config.

    classes: names of the task's classes, ids: of all samples; None if they are not known: what
    needs them is then not checked. Without them: existence, form, columns, annotators, answers
    given twice, confidences.
    """
    try:
        expanded = expand_tables(section.external, classes)
    except UserError as error:
        return [*_unreadable(section, classes), *error.errors]
    tables = [one for _, one in expanded if one.simulate is None]
    errors = content_errors([(one, _scope(one, classes)) for one in tables], classes)
    if ids is None or errors:
        return errors
    samples, told = SampleIds(ids), set[str]()
    for one in tables:
        try:
            match_rows(one, classes, samples)
        except UserError as error:
            errors += [single for single in error.errors if str(single) not in told]
            told |= {str(single) for single in error.errors}
    return errors


def content_errors(entries: Sequence[Entry], classes: Sequence[str] | None) -> list[UserError]:
    """Return the errors in the content of tables; those of a whole file once.

    With unknown labels in a file, its annotators' other rows are not checked.
    """
    files: dict[object, list[Entry]] = {}
    errors: list[UserError] = []
    for external, scope in entries:
        try:
            files.setdefault(table_key(external, classes), []).append((external, scope))
        except UserError as error:
            errors += error.errors
    for members in files.values():
        errors += _file_errors(members, classes)
    return errors


def read_entry(
    external: ExternalSection, classes: Sequence[str], scope: Sequence[int] | None
) -> Answers:
    """Return the answers of one annotator. Raises `UserError`."""
    return read_answers(external, classes, scope, external.missing == "abstain")


def match_rows(
    external: ExternalSection, classes: Sequence[str] | None, samples: SampleIds
) -> Matched:
    """Match the ids of a table; once for all annotators. Raises `UserError`."""
    opened = open_table(external, classes)
    if opened.votes is not None:
        ids, counted = opened.votes.ids, opened.votes.sample
        rows = np.bincount(counted, minlength=len(ids))
        if opened.votes.every_row:
            rows = np.ones(len(ids), dtype=np.int64)
    else:
        assert classes is not None
        ids = read_entry(external.model_copy(update={"missing": "abstain"}), classes, None).ids
        rows = np.ones(len(ids), dtype=np.int64)
    rule = None if external.match == "auto" else external.match
    ignore = external.unmatched == "ignore"
    with about(f"annotation table {external.annotations}"):
        return samples.match(table_key(external, classes), ids, rows, rule, ignore)


def _file_errors(members: Sequence[Entry], classes: Sequence[str] | None) -> list[UserError]:
    first = members[0][0]
    try:
        opened = open_table(first, classes)
    except UserError as error:
        return list(error.errors)
    if classes is None:
        return []
    if opened.votes is not None:
        try:
            names = [pick_annotator(external, opened) for external, _ in members]
        except UserError as error:
            return list(error.errors)
        unknown = unknown_labels(opened.votes, names, classes)
        if unknown:
            return unknown
    errors: list[UserError] = []
    for external, scope in members:
        try:
            read_entry(external, classes, scope)
        except UserError as error:
            errors += error.errors
    return errors


def _unreadable(section: TeachersSection, classes: Sequence[str] | None) -> list[UserError]:
    """Return the errors of files, where the teachers cannot be told apart."""
    errors: list[UserError] = []
    for external in section.external:
        if external.simulate is None:
            try:
                open_table(external, classes)
            except UserError as error:
                errors += error.errors
    return errors


def _scope(external: ExternalSection, classes: Sequence[str] | None) -> tuple[int, ...] | None:
    """Return the classes of an entry's scope; None for all, and for names that are no classes,
    which the hierarchy tells."""
    try:
        return external.scope.resolve(classes, None)[0]
    except UserError:
        return None
