"""What is wrong with annotation tables: everything at once, with or without the data."""

from collections.abc import Sequence

from cosup.config.external import ExternalSection
from cosup.config.teachers import TeachersSection
from cosup.errors import Mistakes, UserError, about, raise_all
from cosup.teachers.tables.answers import Answers, no_answers
from cosup.teachers.tables.matching import Matched, SampleIds
from cosup.teachers.tables.reading import (
    open_table,
    probability_reader,
    read_answers,
    table_key,
)
from cosup.teachers.tables.scan import open_scanned, scan_errors, scan_table
from cosup.teachers.tables.teachers import expand_tables

__all__ = ["check_stream", "check_tables", "match_rows", "read_entry"]


def check_tables(
    section: TeachersSection,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    streamed: bool = False,
) -> list[UserError]:
    """Return the errors in all tables of a config; those of a whole file once.

    classes: names of the task's classes, ids: of all samples; None if they are not known: what
    needs them is then not checked. Without them: existence, form, columns, annotators, answers
    given twice, confidences. streamed: hold no answers in memory, and do not look for those that
    are given twice.
    """
    mistakes, samples = Mistakes(), None if ids is None else SampleIds(ids)
    annotators: list[ExternalSection] = []
    opener = open_scanned if streamed else open_table
    with mistakes.caught():
        annotators = [one for _, one in expand_tables(section.external, classes, opener)]
    for external in annotators or section.external:
        if external.simulate is None:
            with mistakes.caught():
                opener(external, classes)
                if annotators and classes is not None and streamed:
                    check_stream(external, classes, _scope(external, classes))
                elif annotators and classes is not None:
                    answers = read_entry(external, classes, _scope(external, classes))
                    if samples is not None:
                        match_rows(external, answers, samples)
    return mistakes.errors


def read_entry(
    external: ExternalSection, classes: Sequence[str], scope: Sequence[int] | None
) -> Answers:
    """Return the answers of one annotator. Raises `UserError`."""
    return read_answers(external, classes, scope, external.missing == "abstain")


def check_stream(
    external: ExternalSection, classes: Sequence[str], scope: Sequence[int] | None
) -> None:
    """Check the answers of one annotator as `read_entry`, without holding them.

    Raises `UserError`.
    """
    scan, may_abstain = scan_table(external, classes), external.missing == "abstain"
    if scan.form != "probabilities":
        raise_all(scan_errors(scan, external, classes, scope, may_abstain))
        return
    reader, chunks = probability_reader(external, classes, scope, may_abstain)
    answered = [bool((probs.top()[1] > 0).any()) for _, probs in reader.each(chunks)]
    if not any(answered):
        raise no_answers(reader.path)


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
