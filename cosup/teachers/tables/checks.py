"""What is wrong with annotation tables: everything at once, with or without the data."""

from collections.abc import Sequence

from cosup.config.external import ExternalSection
from cosup.config.teachers import TeachersSection
from cosup.errors import Mistakes, UserError, about
from cosup.teachers.tables.answers import Answers
from cosup.teachers.tables.matching import Matched, SampleIds
from cosup.teachers.tables.reading import open_table, read_answers, table_key
from cosup.teachers.tables.teachers import expand_tables

__all__ = ["check_tables", "match_rows", "read_entry"]


def check_tables(
    section: TeachersSection,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> list[UserError]:
    """Return the errors in all tables of a config; those of a whole file once.

    classes: names of the task's classes, ids: of all samples; None if they are not known: what
    needs them is then not checked. Without them: existence, form, columns, annotators, answers
    given twice, confidences.
    """
    mistakes, samples = Mistakes(), None if ids is None else SampleIds(ids)
    annotators: list[ExternalSection] = []
    with mistakes.caught():
        annotators = [one for _, one in expand_tables(section.external, classes)]
    for external in annotators or section.external:
        if external.simulate is None:
            with mistakes.caught():
                open_table(external, classes)
                if annotators and classes is not None:
                    answers = read_entry(external, classes, _scope(external, classes))
                    if samples is not None:
                        match_rows(external, answers, samples)
    return mistakes.errors


def read_entry(
    external: ExternalSection, classes: Sequence[str], scope: Sequence[int] | None
) -> Answers:
    """Return the answers of one annotator. Raises `UserError`."""
    return read_answers(external, classes, scope, external.missing == "abstain")


def match_rows(external: ExternalSection, answers: Answers, samples: SampleIds) -> Matched:
    """Match the ids of a table; once for all of its annotators. Raises `UserError`."""
    rule = None if external.match == "auto" else external.match
    ignore = external.unmatched == "ignore"
    key = table_key(external, None)
    with about(f"annotation table {external.annotations}"):
        return samples.match(key, answers.ids, answers.rows_of_ids, rule, ignore)


def _scope(external: ExternalSection, classes: Sequence[str]) -> tuple[int, ...] | None:
    """Return the classes of an entry's scope; None for all, and for names that are no classes,
    which the hierarchy tells."""
    try:
        return external.scope.resolve(classes, None)[0]
    except UserError:
        return None
