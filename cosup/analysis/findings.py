"""What to read from the tables by class and by domain.

For every table, a sentence or two that say what to read from it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from cosup.analysis.base import least, most, row_of, rows_of
from cosup.analysis.filtering import WHOLE
from cosup.analysis.phrases import known, listed, percent, plural, points
from cosup.analysis.records import Run
from cosup.analysis.verdict import more_than_noise

__all__ = [
    "by_name",
    "findings",
    "supervision_domains",
]


Tables = Mapping[str, pd.DataFrame]


def by_name(name: str) -> Callable[[Run, Tables], str]:
    """Tells of `classes` or `domains`: where the student gains, loses, and is below the ceiling."""

    def tell(run: Run, tables: Tables) -> str:
        table = tables[name]
        table = table[table["gained"].notna()]
        if not len(table):
            return ""
        best = most(table, "gained")
        text = (
            f"The student gains most over the floor in {best['name']} "
            f"({points(best['gained'], signed=True)}, to {percent(best['student'])})"
        )
        worse = table[table["gained"] < 0]
        if len(worse):
            low = least(worse, "gained")
            text += (
                f" and loses in {len(worse)} of {len(table)}, most in {low['name']} "
                f"({points(low['gained'], signed=True)})"
            )
        left = table[table["to_ceiling"] > 0]
        if len(left):
            far = most(left, "to_ceiling")
            text += f"; {far['name']} is farthest below the ceiling ({points(far['to_ceiling'])})"
        return f"{text}."

    return tell


def supervision_domains(run: Run, tables: Tables) -> str:
    """The means over the domains, and where the student gains most and least: over its zero-shot
    start where that was measured, else over the floor."""
    table = tables["supervision_domains"]
    shown = [("student", "student", "the student")]
    for kind, who, words in (
        ("control", "zero_shot", "zero-shot"),
        ("teacher", run.prepared["floor"]["teacher"], "the floor"),
    ):
        if len(_of(table, kind, who)):
            shown.append((kind, who, words))
    means = [
        f"{words} {percent(row_of(_of(table, kind, who), -1)['accuracy'])}"
        for kind, who, words in shown
    ]
    student = _of(table, "student", "student").iloc[:-1]
    text = f"Mean over the {plural(len(student), 'domain')}: {listed(means)}."
    if len(shown) == 1:
        return text
    kind, who, words = shown[1]
    gained = student["accuracy"].to_numpy() - _of(table, kind, who)["accuracy"].to_numpy()[:-1]
    student = student.assign(gained=gained)
    best, worst = most(student, "gained"), least(student, "gained")
    if best["gained"] == worst["gained"]:
        return f"{text} Over {words} it gains {points(best['gained'], signed=True)} in each."
    return (
        f"{text} Over {words} the student gains most in {best['domain']} "
        f"({points(best['gained'], signed=True)}, to {percent(best['accuracy'])}), least in "
        f"{worst['domain']} ({points(worst['gained'], signed=True)}, to "
        f"{percent(worst['accuracy'])})."
    )


def _of(table: pd.DataFrame, kind: str, who: str) -> pd.DataFrame:
    """The rows of one supervision, by domain and then the mean."""
    return table[(table["kind"] == kind) & (table["who"] == who)]


ENOUGH = 10
"""Samples below which a share is not singled out, where others have more."""


def findings(run: Run, tables: Tables) -> dict[str, str]:
    """What to read from each table, by its name, in sentences made of its numbers."""
    said = {name: tell(run, tables) for name, tell in TELLING.items() if name in tables}
    return {name: text for name, text in said.items() if text}


def _overview(run: Run, tables: Tables) -> str:
    table = tables["overview"]
    student = row_of(table, 0)
    others = table[table["kind"] == "control"]
    if not len(others):
        return f"The student gets {percent(student['accuracy'])} right; the run has no controls."
    rows = rows_of(others)
    above = [row for row in rows if more_than_noise(row) and row["gain"] > 0]
    below = [
        str(row["who"]).replace("_", " ")
        for row in rows
        if more_than_noise(row) and row["gain"] < 0
    ]
    text = (
        f"With {percent(student['accuracy'])} the student is above {len(above)} of "
        f"{plural(len(rows), 'control')} by more than noise"
    )
    return f"{text}, and below {listed(below)}." if below else f"{text}, and below none."


def _teachers(run: Run, tables: Tables) -> str:
    table = tables["teachers"]
    special = table[table["samples_outside"].fillna(0) > 0]
    if not len(special):
        best = most(table, "accuracy")
        return f"The best teacher is {best['teacher']} with {percent(best['accuracy'])}."
    inside, outside = special["accuracy_inside"].dropna(), special["accuracy_outside"].dropna()
    text = (
        f"Specialists get {_range(inside)} right inside their scope and {_range(outside)} outside"
    )
    whole = table[table["scope"] == "all"]
    if len(whole):
        best = most(whole, "accuracy")
        text += f"; generalist {best['teacher']} gets {percent(best['accuracy'])} of everything"
    return f"{text}."


def _rounds(run: Run, tables: Tables) -> str:
    table = tables["rounds"]
    first, last = row_of(table, 0), row_of(table, -1)
    if len(table) == 1:
        return f"After its one round the student gets {percent(last['student_accuracy'])} right."
    text = (
        f"From round {first['round']} to round {last['round']} the student goes from "
        f"{percent(first['student_accuracy'])} to {percent(last['student_accuracy'])}"
    )
    if known(first["annotation_accuracy"], last["annotation_accuracy"]):
        text += (
            f", its annotations from {percent(first['annotation_accuracy'])} right to "
            f"{percent(last['annotation_accuracy'])}"
        )
    return f"{text}; in the last round {percent(last['kept'])} of them are kept."


def _load(run: Run, tables: Tables) -> str:
    table = tables["load"]
    part = table[table["round"] == table["round"].max()]
    full, scant = most(part, "share"), least(part, "share")
    if len(part) == 1:
        return f"In the last round {full['teacher']} supervises every sample."
    idle = int((part["samples"] == 0).sum())
    text = (
        f"In the last round {full['teacher']} gets the most samples ({percent(full['share'])}), "
        f"{scant['teacher']} the fewest ({percent(scant['share'])})"
    )
    return f"{text}; {plural(idle, 'teacher')} of {len(part)} got none." if idle else f"{text}."


def _assignment(run: Run, tables: Tables) -> str:
    table = tables["assignment"]
    part = table[table["round"] == table["round"].max()]
    by = "domain" if (part["by"] == "domain").any() else "class"
    part = part[part["by"] == by]
    if part["teacher"].nunique() < 2:
        return "In the last round one teacher gets everything."
    first = part.sort_values("share", ascending=False, kind="stable").drop_duplicates("name")
    spread = least(first, "share")
    whole = int((first["share"] > 0.99).sum())
    return (
        f"In the last round {whole} of {plural(len(first), by)} go to one teacher nearly whole "
        f"(over 99 %); the most divided is {spread['name']}, of which "
        f"{percent(spread['share'])} go to {spread['teacher']}."
    )


def _flow(run: Run, tables: Tables) -> str:
    table = tables["flow"]
    part = table[table["round"] == table["round"].max()]
    main = most(part, "samples")
    text = (
        f"The largest stream into round {main['next_round']} is {main['teacher']} to "
        f"{main['next_teacher']}: {plural(int(main['samples']), 'sample')}"
    )
    before, after = part["teacher"].astype(str), part["next_teacher"].astype(str)
    if not set(before) & set(after):
        return f"{text}."
    share = part["samples"][before == after].sum() / part["samples"].sum()
    return f"{text}; {percent(share)} of all keep their teacher."


def _annotation_accuracy(run: Run, tables: Tables) -> str:
    table = tables["annotation_accuracy"]
    last = run.stages[f"round-{run.rounds[-1]}"]["teachers"] if run.rounds else []
    used = table[(table["assigned_samples"] > 0) & table["teacher"].isin(last)]
    if not len(used):
        return "None of these annotations has been assigned yet."
    enough = used[used["assigned_samples"] >= ENOUGH]
    part = enough if len(enough) else used
    worst = least(part, "assigned_accuracy")
    return (
        f"In the last round the weakest annotations are those of {worst['teacher']} for "
        f"{worst['class']}: "
        f"{percent(worst['assigned_accuracy'])} of {int(worst['assigned_samples']):,} right."
    )


def _filters(run: Run, tables: Tables) -> str:
    table = tables["filters"]
    part = table[table["round"] == table["round"].max()]
    whole = row_of(part[part["filter"] == WHOLE], -1)
    if not whole["rejected"]:
        return "In the last round nothing was rejected."
    text = f"In the last round {percent(whole['share'])} were rejected"
    if known(whole["precision"], whole["recall"]):
        text += (
            f"; {percent(whole['precision'])} of those were wrong (precision), "
            f"{percent(whole['recall'])} of all wrong ones were caught (recall)"
        )
    if known(whole["noise_caught"]):
        text += f", and {percent(whole['noise_caught'])} of the wrong given labels"
    wasteful = part[(part["filter"] != WHOLE) & (part["precision"] < 0.5)]["filter"]
    if len(wasteful):
        text += f". More right than wrong ones were rejected by {listed(list(wasteful))}"
    return f"{text}."


def _student_teachers(run: Run, tables: Tables) -> str:
    table = tables["student_teachers"]
    inside = table[table["where"] == "inside"]
    part = inside if len(inside) else table[table["where"] == "all"]
    where = " inside their scopes" if len(inside) else ""
    weight = part["samples"] / part["samples"].sum()
    won, lost = (part["student_only"] * weight).sum(), (part["teacher_only"] * weight).sum()
    copied = (part["same_error"] * weight).sum()
    return (
        f"Beside its teachers{where} the student alone is right on {percent(won)} of the samples, "
        f"the teacher alone on {percent(lost)}; on {percent(copied)} both make the same error."
    )


def _confusion(run: Run, tables: Tables) -> str:
    table = tables["confusion"]
    wrong = table[table["true"].astype(str) != table["predicted"].astype(str)]
    if not len(wrong):
        return "The student confuses nothing."
    main = most(wrong, "samples")
    total = table["samples"][table["true"] == main["true"]].sum()
    return (
        f"The most frequent error: {main['true']} taken for {main['predicted']}, "
        f"{percent(main['samples'] / total)} of its {int(total):,} samples."
    )


def _calibration(run: Run, tables: Tables) -> str:
    table = tables["calibration"]
    part = table[table["who"] == "student"]
    weight = part["samples"] / part["samples"].sum()
    sure, right = (part["confidence"] * weight).sum(), (part["accuracy"] * weight).sum()
    error = ((part["confidence"] - part["accuracy"]).abs() * weight).sum()
    how = "too sure of itself" if sure > right else "less sure than it could be"
    return (
        f"The student is {how}: its mean confidence is {percent(sure)}, its accuracy "
        f"{percent(right)}; bin by bin they are {points(error)} apart (ECE)."
    )


def _weights(run: Run, tables: Tables) -> str:
    table = tables["weights"]
    last = table[table["round"] == table["round"].max()]
    for name, words in (
        ("adaptive_weight", "the weight of the student's own class"),
        ("loss", "the loss"),
    ):
        part = last[(last["name"] == name) & last["value"].notna()]
        if len(part):
            first, end = row_of(part, 0), row_of(part, -1)
            if len(part) == 1:
                return f"In the last round {words} is {end['value']:.3f} at step {end['step']}."
            return (
                f"In the last round {words} goes from {first['value']:.3f} at step "
                f"{first['step']} to {end['value']:.3f} at step {end['step']}."
            )
    return ""


def _examples(run: Run, tables: Tables) -> str:
    last = run.round(run.rounds[-1])
    known_ones = last[last["true_label"].notna()]
    if not len(known_ones):
        return "Without true labels of student_train, only contested samples and test errors show."
    right = known_ones["annotation"].astype(str) == known_ones["true_label"].astype(str)
    lost = int((right & ~known_ones["kept"]).sum())
    passed = int((~right & known_ones["kept"]).sum())
    return (
        f"In the last round {plural(lost, 'annotation')} {_was(lost)} rejected though right, and "
        f"{passed:,} kept though wrong; the surest of them, and the samples teachers most disagree "
        "on, are shown."
    )


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _cost(run: Run, tables: Tables) -> str:
    table = tables["cost"]
    by = table.groupby("part", observed=True)["seconds"].sum()
    total = float(by.sum())
    text = (
        f"{_time(total)} of work in all; most of it in {by.idxmax()} ({percent(by.max() / total)})"
    )
    peak: Any = run.summary.get("peak_rss_mb")
    return f"{text}; at most {peak:,.0f} MiB of memory." if known(peak) else f"{text}."


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _range(values: "pd.Series[Any]") -> str:
    low, high = float(values.min()), float(values.max())
    return percent(low) if high - low < 0.0005 else f"{100 * low:.1f} to {percent(high)}"


TELLING: dict[str, Callable[[Run, Tables], str]] = {
    "overview": _overview,
    "teachers": _teachers,
    "rounds": _rounds,
    "load": _load,
    "assignment": _assignment,
    "flow": _flow,
    "annotation_accuracy": _annotation_accuracy,
    "filters": _filters,
    "student_teachers": _student_teachers,
    "classes": by_name("classes"),
    "domains": by_name("domains"),
    "supervision_domains": supervision_domains,
    "confusion": _confusion,
    "calibration": _calibration,
    "weights": _weights,
    "examples": _examples,
    "cost": _cost,
}
