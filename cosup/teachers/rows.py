"""Rows of the sample table that teachers are trained on, and those held out to calibrate them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.seeds import numpy_generator
from cosup.teachers.hierarchy import TeacherSpec
from cosup.words import listed, noun, plural

__all__ = ["SampleRows", "calibration_rows", "drawn_rows", "training_rows"]

SampleRows = NDArray[np.int64]
"""[N] row numbers of the sample table."""

FEWEST = 20
"""A temperature is not fitted to fewer labels."""


def training_rows(
    spec: TeacherSpec, data: ImageData, among: SampleRows | None = None
) -> SampleRows:
    """Return the rows of teacher_train in a teacher's scope, judged by their given labels.

    among: rows of teacher_train to choose from; None: all. A bootstrap sample (`spec.bootstrap`)
    has some of them several times, in order. Those that its calibration holds out are not among
    them (`calibration_rows`). Raises `UserError` if there are none, or none of a
    class of the scope.
    """
    if among is None:
        check_classes(spec, data)
    rows = data.rows("teacher_train") if among is None else among
    own = _in_scope(spec, data, rows[~_held_out(spec, data, rows)])
    if not len(own):
        problem = "no sample of teacher_train is in its scope"
        raise UserError(problem, where=f"teacher '{spec.name}'")
    if spec.bootstrap is None:
        return own
    drawn = numpy_generator(spec.bootstrap, "bootstrap").integers(len(own), size=len(own))
    return own[np.sort(drawn)]


def drawn_rows(
    spec: TeacherSpec, data: ImageData, among: SampleRows | None = None
) -> tuple[SampleRows, NDArray[np.float64]]:
    """Return the rows of teacher_train that a teacher's training draws, and their chances.

    They are those of `training_rows`, which has the arguments and errors, with a chance of 1 each;
    with `other_classes` those of all other classes too, with that chance.
    """
    own = training_rows(spec, data, among)
    chance = spec.model.other_classes
    if spec.classes is None or not chance:
        return own, np.ones(len(own))
    everything = replace(spec, classes=None)
    rows = training_rows(everything, data, among)
    return rows, np.where(np.isin(rows, own), 1.0, chance)


def check_classes(spec: TeacherSpec, data: ImageData) -> None:
    """Raise `UserError` for a class of a teacher's scope without a sample in teacher_train."""
    lacking = data.lacking_classes("teacher_train")
    own = lacking if spec.classes is None else [c for c in lacking if c in spec.classes]
    if own:
        names = [f"'{data.classes[c]}'" for c in own]
        splits = data.table.loc[data.table["label"] == own[0], "split"].value_counts()
        where = [f"{count} in {split or 'no split'}" for split, count in splits.items()]
        raise UserError(
            f"it is trained on teacher_train, which has no sample of "
            f"{noun(len(names), 'class')} {listed(names)} (samples of {names[0]}: "
            f"{listed(where) if where else 'none'})",
            key="data.splits",
            where=f"teacher '{spec.name}'",
        )


def calibration_rows(
    spec: TeacherSpec, data: ImageData, among: SampleRows | None = None
) -> SampleRows:
    """Return the labelled rows in a teacher's scope by which it is calibrated.

    They are those of validation; where it has none, the part of teacher_train that is held out, or
    all of teacher_train if the teacher is not trained. among: rows of teacher_train to choose from;
    None: all. Raises `UserError` for fewer than `FEWEST`.
    """
    rows, split = _validation(data), "validation"
    if not len(rows):
        rows, split = data.rows("teacher_train") if among is None else among, "teacher_train"
        rows = rows[_held_out(spec, data, rows)] if spec.trained else rows
    own = _in_scope(spec, data, data.labelled(rows))
    if len(own) < FEWEST:
        raise UserError(
            f"only {plural(len(own), 'held-out sample')} of {split} in its scope; a temperature is "
            f"fitted to at least {FEWEST}",
            key="teachers.calibrate",
            value=spec.setup.calibrate,
            where=f"teacher '{spec.name}'",
        )
    return own


def _in_scope(spec: TeacherSpec, data: ImageData, rows: SampleRows) -> SampleRows:
    """Return the rows whose given label and domain are in a teacher's scope."""
    labels, domains = data.given(rows), data.truth(rows).domains
    inside = np.ones(len(rows), dtype=bool)
    for members, found in ((spec.classes, labels), (spec.domains, domains)):
        if members is not None:
            inside &= np.isin(found.numpy(), members)
    own: SampleRows = rows[inside]
    return own


def _validation(data: ImageData) -> SampleRows:
    return data.labelled(data.rows("validation"))


def _held_out(spec: TeacherSpec, data: ImageData, rows: SampleRows) -> NDArray[np.bool_]:
    """Return which of these rows of teacher_train are held out; groups are, or are not, as a whole.

    They are the same for all teachers.
    """
    whole = data.rows("teacher_train")
    if spec.setup.calibrate is None or not spec.trained or len(_validation(data)):
        return np.zeros(len(rows), dtype=bool)
    groups = data.groups(whole)
    known = np.unique(groups)
    count = max(1, round(spec.setup.calibration_share * len(known)))
    chosen = numpy_generator(0, "calibration").permutation(known)[:count]
    held: NDArray[np.bool_] = np.isin(rows, whole[np.isin(groups, chosen)])
    return held
