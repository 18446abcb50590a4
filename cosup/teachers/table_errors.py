"""What can be wrong with the answers of an annotator beside the samples of a run."""

from collections.abc import Callable
from pathlib import Path

from cosup.config.external import ExternalSection
from cosup.errors import UserError
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["check_rows", "external_of", "no_sample", "two_answers"]


def external_of(spec: TeacherSpec) -> ExternalSection:
    """Return the entry of a teacher that is an annotator of a table."""
    assert spec.external is not None
    return spec.external


def two_answers(spec: TeacherSpec, sample: str, one: str, other: str) -> UserError:
    """Return the error for a sample that is answered under two ids."""
    problem = f"answers sample '{sample}' twice: as '{one}' and as '{other}'"
    return UserError(problem, where=_where(spec))


def no_sample(spec: TeacherSpec, first: str) -> UserError:
    """Return the error for an annotator who answers no sample. first: its first id."""
    return UserError(f"none of its ids, such as '{first}', is a sample's", where=_where(spec))


def check_rows(
    spec: TeacherSpec,
    split: str,
    absent: int,
    samples: int,
    name: Callable[[], str],
    first: str,
) -> None:
    """Raise `UserError` if samples of a split have no row, unless that is allowed.

    absent: how many. name: finds the first of them. first: the first id of the annotator.
    """
    if not absent:
        return
    external = external_of(spec)
    may_abstain = external.missing == "abstain"
    # An annotator of a crowd may have answered other samples, as with `data.limit`.
    alone = external.annotator is None
    if absent == samples and split == "student_train" and (alone or not may_abstain):
        problem = (
            f"none of its sample ids (the first is '{first}') is in {split}, whose first is "
            f"'{name()}'"
        )
        raise UserError(problem, where=_where(spec))
    if may_abstain:
        return
    problem = f"has no row for {absent} of {samples} samples of {split}; the first is '{name()}'"
    allowed = f"a row for every sample, or `missing: abstain` for '{spec.name}'"
    raise UserError(problem, where=_where(spec), allowed=allowed)


def _where(spec: TeacherSpec) -> str:
    external = external_of(spec)
    who = "" if external.annotator is None else f", annotator '{external.annotator}'"
    return f"annotation table {Path(str(external.annotations))}{who}"
