"""The student's agreement with its teachers, its confusions and its calibration."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cosup import words
from cosup.analysis.arrays import (
    Bools,
    Codes,
    Row,
    codes,
    count_groups,
    highest_and_lowest,
    highest_row,
    mean,
    names_in_order,
    ratio,
    rows_of,
)
from cosup.analysis.drawing import (
    Axis,
    BarRow,
    Bars,
    Cell,
    Curve,
    Lines,
    Matrix,
    Panel,
    Segment,
    View,
)
from cosup.analysis.figure import Excerpt, Figure, Unavailable, require_rounds, require_test
from cosup.analysis.records import Run
from cosup.words import percent, points

__all__ = ["CALIBRATION_FIGURE", "CONFUSION_FIGURE", "STUDENT_TEACHERS_FIGURE"]

BINS = 15
PLACES = ("all", "inside", "outside")
MOST_TEACHERS, MOST_CLASSES, MOST_ERRORS, MOST_PANELS = 16, 20, 20, 4
FEWEST = 5
"""Samples that a bin must have for its accuracy to be drawn."""
AXIS = Axis([(0.0, "0"), (0.5, "50"), (1.0, "100")], "confidence, %")


def student_teachers_table(run: Run) -> pd.DataFrame:
    """Make the table that compares the student with each teacher on test samples.

    Columns: teacher, where ("all", "inside" or "outside" its scope), samples (that the teacher
    answers), agreement (share with the same answer), and shares that sum to 1: both_right,
    student_only, teacher_only, same_error, other_error. Rows without samples are left out.
    """
    require_rounds(run)
    require_test(run)
    student = run.answered("student", "student").label
    known = None if run.few_shot else run.holds(run.test)
    rows = []
    for place, teacher in enumerate(run.teachers):
        answers = run.answered("teacher", teacher.name).label
        spoken = answers >= 0
        chosen: list[Bools] = [spoken]
        if known is not None:
            chosen += [spoken & known[:, place], spoken & ~known[:, place]]
        for where, part in zip(PLACES, chosen, strict=False):
            if part.any():
                shares = _shares(student[part], answers[part], run.truth[part])
                rows.append({"teacher": teacher.name, "where": where, **shares})
    if not rows:
        raise Unavailable("no teacher answers a test sample")
    table = pd.DataFrame(rows)
    table["teacher"] = pd.Categorical(table["teacher"], categories=run.teacher_names)
    table["where"] = pd.Categorical(table["where"], categories=list(PLACES))
    return table


def _shares(student: Codes, teacher: Codes, truth: Codes) -> dict[str, float]:
    own, theirs, same = student == truth, teacher == truth, student == teacher
    return {
        "samples": len(truth),
        "agreement": mean(same & (student >= 0)),
        "both_right": mean(own & theirs),
        "student_only": mean(own & ~theirs),
        "teacher_only": mean(theirs & ~own),
        "same_error": mean(~own & ~theirs & same),
        "other_error": mean(~own & ~theirs & ~same),
    }


def student_teachers_sentence(run: Run, table: pd.DataFrame) -> str:
    """State how often only the student or only the teacher is correct, and how often both err."""
    inside = table[table["where"] == "inside"]
    part = inside if len(inside) else table[table["where"] == "all"]
    where = "inside their scopes" if len(inside) else "on all test samples"
    weight = part["samples"] / part["samples"].sum()
    won, lost = (part["student_only"] * weight).sum(), (part["teacher_only"] * weight).sum()
    copied = (part["same_error"] * weight).sum()
    return (
        f"Compared with its teachers {where}, only the student is correct on {percent(won)} of "
        f"the samples and only the teacher on {percent(lost)}; both make the same error on "
        f"{percent(copied)}."
    )


_PARTS = (
    ("both_right", "both", "both correct"),
    ("student_only", "gain", "only the student correct"),
    ("teacher_only", "loss", "only the teacher correct"),
    ("same_error", "same", "both wrong, same answer"),
    ("other_error", "other", "both wrong, different answers"),
)
_HEADINGS = {
    "inside": "Inside the teacher's scope",
    "outside": "Outside the teacher's scope",
    "all": "All test samples",
}


def draw_student_teachers(table: pd.DataFrame) -> list[View]:
    """Draw which of student and teacher is correct on the same samples."""
    rows: list[BarRow] = []
    left_out = ""
    for where in ("inside", "outside") if (table["where"] == "inside").any() else ("all",):
        part = table[(table["where"] == where) & (table["samples"] > 0)]
        part, text = highest_and_lowest(part, "agreement", MOST_TEACHERS, "teacher")
        left_out = text or left_out
        for index, row in enumerate(rows_of(part)):
            rows.append(_teacher_row(row, _HEADINGS[where] if index == 0 else ""))
    legend = [(kind, text) for _, kind, text in _PARTS]
    return [Bars(rows, "same answer, %", "samples", legend, left_out)]


def _teacher_row(row: Row, heading: str) -> BarRow:
    segments = [
        Segment(float(row[name]), kind, f"{text}: {words.in_percent(row[name])} %")
        for name, kind, text in _PARTS
    ]
    agreement, samples = words.in_percent(row["agreement"]), words.count(row["samples"])
    return BarRow(str(row["teacher"]), segments, agreement, samples, heading=heading)


STUDENT_TEACHERS_FIGURE = Figure(
    "student_teachers",
    "Student and teachers on the same samples",
    student_teachers_table,
    student_teachers_sentence,
    draw_student_teachers,
    excerpt=Excerpt(
        (
            "teacher",
            "where",
            "samples",
            "agreement",
            "both_right",
            "student_only",
            "teacher_only",
            "same_error",
        )
    ),
)


def confusion_table(run: Run) -> pd.DataFrame:
    """Make the confusion matrix of the student on test samples, a row per pair that occurs.

    Columns: true, predicted, samples. The ways of an episode are replaced by their classes.
    """
    require_rounds(run)
    require_test(run)
    names = list(run.prepared["measured_classes"])
    truth, label = codes(run.test["true_label"], names), run.answered("student", "student").label
    if run.few_shot:
        group = run.test["group"].to_numpy()
        ways = np.full((int(group.max()) + 1, len(run.answers)), -1)
        ways[group, run.truth] = truth
        label = np.where(label >= 0, ways[group, label], -1)
    return count_groups({"true": (truth, names), "predicted": (label, names)})


def confusion_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name the most frequent error."""
    wrong = table[table["true"].astype(str) != table["predicted"].astype(str)]
    if not len(wrong):
        return "The student makes no error."
    main = highest_row(wrong, "samples")
    total = table["samples"][table["true"] == main["true"]].sum()
    return (
        f"The most frequent error is {main['true']} predicted as {main['predicted']}: "
        f"{percent(main['samples'] / total)} of the {int(total):,} samples of {main['true']}."
    )


def draw_confusion(table: pd.DataFrame) -> list[View]:
    """Draw the confusion matrix, or for many classes the most frequent errors."""
    classes = names_in_order(pd.Series(pd.concat([table["true"], table["predicted"]]).astype(str)))
    if isinstance(table["true"].dtype, pd.CategoricalDtype):
        order = [str(name) for name in table["true"].cat.categories]
        classes = [name for name in order if name in set(classes)]
    totals = table["samples"].groupby(table["true"].astype(str)).sum()
    if len(classes) > MOST_CLASSES:
        return [_most_confused(table, totals)]
    found = {(str(r["true"]), str(r["predicted"])): int(r["samples"]) for r in rows_of(table)}
    rows = [name for name in classes if name in totals.index]
    cells = [[_confusion_cell(found, int(totals[t]), t, p) for p in classes] for t in rows]
    return [Matrix(rows, classes, cells, "true class", "predicted class")]


def _confusion_cell(
    found: Mapping[tuple[str, str], int], total: int, true: str, predicted: str
) -> Cell:
    samples = found.get((true, predicted), 0)
    share = samples / float(total)
    tooltip = (
        f"{words.count(samples)} of {words.plural(total, 'sample')} of {true} "
        f"({words.in_percent(share)} %) predicted as {predicted}"
    )
    return Cell(share, words.in_percent(share, 0) if share >= 0.005 else "", tooltip)


def _most_confused(table: pd.DataFrame, totals: "pd.Series[int]") -> Bars:
    errors = table[table["true"].astype(str) != table["predicted"].astype(str)]
    worst = errors.nlargest(MOST_ERRORS, "samples")
    widest = float(worst["samples"].max()) if len(worst) else 1.0
    rows = []
    for row in rows_of(worst):
        share = row["samples"] / float(totals[str(row["true"])])
        tooltip = f"{words.count(row['samples'])} samples"
        rows.append(
            BarRow(
                f"{row['true']} → {row['predicted']}",
                [Segment(row["samples"] / widest, "loss", tooltip)],
                words.count(row["samples"]),
                words.in_percent(share),
            )
        )
    text = f"Shown are the {len(rows)} most frequent of {len(errors):,} kinds of error."
    return Bars(rows, "samples", "of the true class, %", left_out=f"{text} The table lists all.")


CONFUSION_FIGURE = Figure(
    "confusion",
    "Confusion matrix of the student, %",
    confusion_table,
    confusion_sentence,
    draw_confusion,
    "The share of each true class that the student predicts as each class.",
)


def calibration_table(run: Run) -> pd.DataFrame:
    """Make a row per bin of confidence for the student, each round and each control.

    Columns: who ("student", "round 1", "control ceiling"), low, high (the bin is (low, high]),
    samples, confidence, accuracy (means). Bins without samples are left out. The weighted gaps of
    a `who` sum to its expected calibration error (`cosup.metrics`).
    """
    require_rounds(run)
    require_test(run)
    parts = []
    for kind, who in run.predictors():
        if kind == "teacher":
            continue
        found = run.answered(kind, who)
        confidence = found.confidence.astype(np.float64)
        place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        samples = np.bincount(place, minlength=BINS)
        right = run.correct(kind, who)
        table = pd.DataFrame(
            {
                "who": f"control {who}" if kind == "control" else who,
                "low": np.arange(BINS) / BINS,
                "high": np.arange(1, BINS + 1) / BINS,
                "samples": samples,
                "confidence": ratio(np.bincount(place, confidence, BINS), samples),
                "accuracy": ratio(np.bincount(place, right, BINS), samples),
            }
        )
        parts.append(table[samples > 0])
    table = pd.concat(parts, ignore_index=True)
    table["who"] = pd.Categorical(table["who"], categories=list(table["who"].unique()))
    return table


def calibration_sentence(run: Run, table: pd.DataFrame) -> str:
    """Compare the student's mean confidence with its accuracy."""
    part = table[table["who"] == "student"]
    confidence, accuracy, error = _calibration(part)
    verb = "overconfident" if confidence > accuracy else "underconfident"
    return (
        f"The student is {verb}: its mean confidence is {percent(confidence)} and its accuracy "
        f"{percent(accuracy)}. The expected calibration error (ECE) is {points(error)}."
    )


def _calibration(part: pd.DataFrame) -> tuple[float, float, float]:
    """Return the mean confidence, the accuracy and the expected calibration error of bins."""
    weight = part["samples"] / (part["samples"].sum() or 1.0)
    gaps = (part["confidence"] - part["accuracy"]).abs()
    return (
        float((part["confidence"] * weight).sum()),
        float((part["accuracy"] * weight).sum()),
        float((gaps * weight).sum()),
    )


def draw_calibration(table: pd.DataFrame) -> list[View]:
    """Draw the accuracy at each confidence for the student and some others."""
    everyone = [str(name) for name in table["who"].unique()]
    order = ["student", *[n for n in everyone if "ceiling" in n or "mean_ensemble" in n]]
    names = [n for n in dict.fromkeys([*order, *everyone]) if n in everyone][:MOST_PANELS]
    panels = [
        _reliability(name, table[(table["who"].astype(str) == name) & (table["samples"] > 0)])
        for name in names
    ]
    others = len(everyone) - len(names)
    left_out = f"The table lists {words.plural(others, 'other')}." if others else ""
    legend = [("c0", "accuracy at this confidence"), ("other square", "share of the samples")]
    return [Lines(panels, legend, square=True, left_out=left_out)]


def _reliability(name: str, part: pd.DataFrame) -> Panel:
    total = float(part["samples"].sum()) or 1.0
    confidence, accuracy, error = _calibration(part)
    known = part[part["samples"] >= FEWEST]
    curve = [(float(r["confidence"]), float(r["accuracy"])) for r in rows_of(known)]
    bars = [
        (float(r["low"]), float(r["high"] - r["low"]), r["samples"] / total) for r in rows_of(part)
    ]
    note = (
        f"confidence {words.in_percent(confidence)} %, accuracy {words.in_percent(accuracy)} %, "
        f"ECE {words.in_percent(error)} %"
    )
    title = "the co-supervised student" if name == "student" else name.replace("_", " ")
    vertical = Axis(AXIS.ticks, "accuracy, %")
    diagonal = Curve("", "diagonal", [(0.0, 0.0), (1.0, 1.0)])
    return Panel(title, AXIS, vertical, [diagonal, Curve(name, "student", curve)], bars, note)


CALIBRATION_FIGURE = Figure(
    "calibration",
    "Calibration",
    calibration_table,
    calibration_sentence,
    draw_calibration,
    f"On the dashed line the accuracy equals the confidence. Bins with fewer than {FEWEST} samples "
    "have no point.",
)
