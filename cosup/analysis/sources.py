"""Whom to trust: the reliability of each source, estimated without labels and measured beside."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cosup import words
from cosup.analysis.arrays import Row, highest_and_lowest, names_in_order, rows_of
from cosup.analysis.drawing import (
    Cell,
    DotRow,
    Dots,
    Mark,
    Matrix,
    Scale,
    View,
)
from cosup.analysis.figure import Excerpt, Figure, Unavailable
from cosup.analysis.records import Run
from cosup.words import listed, percent, plural

__all__ = ["PARTS_FIGURE", "SOURCES_FIGURE", "source_sentences"]

FEW = 20
"""Samples below which an estimate is greyed."""
MOST_SOURCES, MOST_COLUMNS = 24, 24
NOTES = {
    "random": "no better than chance",
    "constant": "always the same",
    "adversarial": "worse than chance",
    "copy": "a copy",
}
"""The notes of `cosup.sources` as the figure shows them."""
NO_SOURCES = "the run has no estimates of its sources: it is not finished, or of an earlier version"


def _recorded(run: Run) -> Mapping[str, Mapping[str, Any]]:
    """Return the sources of the summary; raise `Unavailable` for a run without them."""
    found: Mapping[str, Mapping[str, Any]] | None = run.summary.get("sources")
    if not found:
        raise Unavailable(NO_SOURCES)
    return found


def source_sentences(run: Run) -> list[str]:
    """Return a sentence for each source that is not to be trusted as it is, with what becomes of
    it; [] for runs without estimates."""
    sources = run.summary.get("sources") or {}
    fuses = run.config["rounds"]["assignment"]["name"] == "fused"
    found, told = [], set()
    for name, numbers in sources.items():
        note = numbers["note"]
        if note is None or name in told:
            continue
        if note == "copy":
            others = _copies(sources, name)
            told |= {name, *others}
            count = f" ({plural(len(others) + 1, 'source')} count as one)" if fuses else ""
            found.append(f"{listed([name, *others])} give the same answers{count}.")
        else:
            found.append(f"{name} {_bad(note, numbers)}{_weight(numbers, note, fuses)}.")
    return found


def _copies(sources: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    group = sources[name]["group"]
    return [other for other in group if sources.get(other, {}).get("note") == "copy"]


def _bad(note: str, numbers: Mapping[str, Any]) -> str:
    share = percent(numbers["reliability"])
    if note == "random":
        return f"is right no more often than chance (about {share})"
    if note == "constant":
        return "always gives the same answer"
    return f"is right less often than chance (about {share})"


def _weight(numbers: Mapping[str, Any], note: str, fuses: bool) -> str:
    """Say what becomes of the answers of a bad source."""
    if not fuses or numbers["share"] is None:
        return ""
    if note == "adversarial":
        return "; its errors are learnt, and its answers are read by them"
    if numbers["share"] < 0.001:
        return " and gets no weight"
    return f" and gets {percent(numbers['share'])} of the weight"


def sources_table(run: Run) -> pd.DataFrame:
    """Make the table of sources: a row per teacher, and the student last.

    Columns: source, kind (soft: read by its probabilities; hard: by its class), coverage (of
    student_train), samples (on which another source speaks too, so that it can be judged),
    reliability (share of its answers that are right, estimated without labels), low, high (95 %
    interval over groups of samples), accuracy (measured where it answers; null without true
    labels), accuracy_low, accuracy_high, share (its part of the evidence for the labels; null if
    the assigner gives none), group (the sources that err together with it), note ("random",
    "constant", "adversarial", "copy" or null).
    """
    rows = []
    for name, numbers in _recorded(run).items():
        low, high = numbers["reliability_ci95"] or (None, None)
        own_low, own_high = numbers["accuracy_ci95"] or (None, None)
        rows.append(
            {
                "source": name,
                "kind": numbers["kind"],
                "coverage": numbers["coverage"],
                "samples": int(numbers["samples"]),
                "reliability": numbers["reliability"],
                "low": low,
                "high": high,
                "accuracy": numbers["accuracy_where_answered"],
                "accuracy_low": own_low,
                "accuracy_high": own_high,
                "share": numbers["share"],
                "group": ", ".join(numbers["group"]) or None,
                "note": numbers["note"],
            }
        )
    numeric = ("reliability", "low", "high", "accuracy", "accuracy_low", "accuracy_high", "share")
    return pd.DataFrame(rows).astype(dict.fromkeys(numeric, "float64"))


def sources_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name the most and least reliable teachers, and compare estimates with true labels."""
    part = table[(table["source"] != "student") & (table["samples"] >= FEW)]
    part = part[part["reliability"].notna()]
    if not len(part):
        return "No source can be judged: nobody else speaks of its samples."
    rows = sorted(rows_of(part), key=lambda row: float(row["reliability"]))
    best, worst = rows[-1], rows[0]
    text = f"By estimate {best['source']} is right most often ({percent(best['reliability'])})"
    if len(rows) > 1:
        text += f" and {worst['source']} least often ({percent(worst['reliability'])})"
    known = table[table["accuracy"].notna() & table["reliability"].notna()]
    if len(known):
        error = float((known["reliability"] - known["accuracy"]).abs().mean())
        text += f"; estimates differ from the true labels by {words.points(error)} on average"
    return f"{text}."


def draw_sources(table: pd.DataFrame) -> list[View]:
    """Draw estimated reliability with its interval, and the measured accuracy, per source."""
    shown, left_out = highest_and_lowest(table, "reliability", MOST_SOURCES, "source")
    numbers = ("reliability", "low", "high", "accuracy")
    scale = Scale.of_shares([value for name in numbers for value in shown[name]], zero=True)
    legend, measured = [("student", "estimated without labels, 95 % interval")], ""
    if shown["accuracy"].notna().any():
        legend.append(("ring", "measured by true labels"))
        measured = "measured, %"
    return [
        Dots(
            [_source_row(row, scale) for row in rows_of(shown)],
            scale.axis("right, %"),
            "estimated, %",
            measured,
            legend=legend,
            left_out=left_out,
        )
    ]


def _source_row(row: Row, scale: Scale) -> DotRow:
    name, marks = str(row["source"]), []
    for value, kind, how in (
        (row["accuracy"], "ring", "measured"),
        (row["reliability"], "student", "estimated"),
    ):
        if not words.missing(value):
            marks.append(
                Mark(scale.at(value), kind, f"{name}, {how}: {words.in_percent(value)} % right")
            )
    measured = ""
    if not words.missing(row["accuracy"]):
        span = words.interval(row["accuracy_low"], row["accuracy_high"])
        measured = f"{words.in_percent(row['accuracy'])} {span}"
    return DotRow(
        name,
        marks,
        words.in_percent(row["reliability"]),
        measured,
        note=_remark(row),
        span=scale.span(row["low"], row["high"]),
    )


def _remark(row: Row) -> str:
    """Return coverage, share of the evidence and note of a source in a few words."""
    parts = []
    if row["coverage"] < 1:
        parts.append(f"answers {percent(row['coverage'])}")
    if not words.missing(row["share"]):
        parts.append(f"evidence {percent(row['share'])}")
    if not words.missing(row["note"]):
        parts.append(NOTES.get(str(row["note"]), str(row["note"])))
    if row["samples"] < FEW:
        parts.append(f"{plural(int(row['samples']), 'sample')} alone")
    return ", ".join(parts)


SOURCES_FIGURE = Figure(
    "sources",
    "How often each source is right",
    sources_table,
    sources_sentence,
    draw_sources,
    "Estimated on student_train from all sources together, where another source speaks too; a "
    "source is measured where it answers. Evidence: its part of what speaks for the labels. "
    "Intervals are over samples; they do not cover sources that all err alike.",
    Excerpt(
        (
            *("source", "kind", "coverage", "reliability", "low", "high", "accuracy"),
            *("share", "group", "note"),
        ),
        ends="reliability",
    ),
    optional=True,
)


def parts_table(run: Run) -> pd.DataFrame:
    """Make the table of reliability by region and class: a row per source, kind and name.

    Columns: source, by ("region" or "class"), name, samples (expected; 0: none), reliability
    (estimated), accuracy (measured). Regions are the domains, or those of the assigner.
    """
    rows = [
        {"source": source, "by": by, "name": name, **numbers}
        for source, found in _recorded(run).items()
        for by in ("region", "class")
        for name, numbers in found[f"by_{by}"].items()
        if by == "class" or len(found["by_region"]) > 1
    ]
    table = pd.DataFrame(rows, columns=["source", "by", "name", "samples", *_SHARES])
    return table.astype(dict.fromkeys(("samples", *_SHARES), "float64"))


_SHARES = ("reliability", "accuracy")


def parts_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name the source whose reliability varies most between regions, or else between classes."""
    enough = table[(table["samples"] >= FEW) & (table["source"] != "student")]
    for by, noun in (("region", "regions"), ("class", "classes")):
        part = enough[(enough["by"] == by) & enough["reliability"].notna()]
        spread = part.groupby("source", sort=False)["reliability"].agg(["min", "max", "count"])
        spread = spread[spread["count"] > 1]
        if len(spread):
            wide = spread["max"] - spread["min"]
            name = str(wide.idxmax())
            own = part[part["source"] == name].set_index("name")["reliability"]
            return (
                f"Between {noun}, {name} varies most: {percent(own.max())} right on "
                f"{own.idxmax()}, {percent(own.min())} on {own.idxmin()}."
            )
    return ""


def draw_parts(table: pd.DataFrame) -> list[View]:
    """Draw a heat map by region and one by class: estimated, and measured after a stroke."""
    views: list[View] = []
    for by in ("region", "class"):
        part = table[table["by"] == by]
        if not len(part):
            continue
        sources, columns = names_in_order(part["source"]), names_in_order(part["name"])
        left_out = []
        if len(columns) > MOST_COLUMNS:
            size = part.groupby("name")["samples"].sum()
            kept = set(size.nlargest(MOST_COLUMNS).index)
            left_out.append(f"Shown are the {MOST_COLUMNS} largest of {len(columns)}.")
            columns = [name for name in columns if name in kept]
        if len(sources) > MOST_SOURCES:
            left_out.append(f"Shown are the first {MOST_SOURCES} of {len(sources)} sources.")
            sources = sources[:MOST_SOURCES]
        shown = part["source"].astype(str).isin(sources) & part["name"].astype(str).isin(columns)
        found = {(str(row["source"]), str(row["name"])): row for row in rows_of(part[shown])}
        cells = [[_part_cell(found[s, c]) for c in columns] for s in sources]
        caption = f"Right by {by}, %: estimated without labels | measured"
        text = " ".join(left_out)
        views.append(Matrix(sources, columns, cells, "source", by, left_out=text, caption=caption))
    return views


def _part_cell(row: Row) -> Cell:
    """Return a cell; it is not shaded if it rests on fewer than `FEW` samples."""
    place, count = f"{row['source']}, {row['name']}", f"{row['samples']:,.0f}"
    if words.missing(row["reliability"]):
        return Cell(None, "", f"{place}: no sample on which another source speaks")
    text = words.in_percent(row["reliability"], 0)
    tooltip = f"{place}: {words.in_percent(row['reliability'])} % right by estimate"
    if not words.missing(row["accuracy"]):
        text += f" | {words.in_percent(row['accuracy'], 0)}"
        tooltip += f", {words.in_percent(row['accuracy'])} % measured"
    tooltip += f"; about {count} samples"
    if row["samples"] < FEW:
        return Cell(None, f"({text})", f"{tooltip}, too few to rely on")
    return Cell(float(row["reliability"]), text, tooltip)


PARTS_FIGURE = Figure(
    "source_parts",
    "Where each source can be trusted",
    parts_table,
    parts_sentence,
    draw_parts,
    f"In brackets and not shaded: estimates from fewer than {FEW} samples. The classes are the "
    "true ones, by estimate or as measured.",
    optional=True,
)
