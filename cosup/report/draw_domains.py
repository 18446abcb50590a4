"""Every supervision's accuracy by domain, and the mean over the domains: as papers print it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.analysis.student import MEAN
from cosup.report import words
from cosup.report.pick import ends, in_order, largest
from cosup.report.views import Cell, Matrix, View

MOST_ROWS, MOST_DOMAINS = 24, 23

Who = tuple[str, str]
"""(kind, who) of a supervision."""


def draw_supervision_domains(tables: dict[str, pd.DataFrame]) -> list[View]:
    """A row per supervision, a column per domain, the mean last."""
    table = tables["supervision_domains"]
    everybody, cut_rows = supervisions(table, MOST_ROWS)
    domains, cut_domains = domains_shown(table, MOST_DOMAINS)
    found = by_supervision(table)
    columns = [*domains, MEAN]
    cells = [[_cell(found[who][name], who, name) for name in columns] for who in everybody]
    return [
        Matrix(
            [_called(*who) for who in everybody],
            columns,
            cells,
            "supervision",
            "domain",
            cut=" ".join(filter(None, (cut_rows, cut_domains))),
            row_kinds=[kind for kind, _ in everybody],
            column_kinds=[*[""] * len(domains), "mean"],
            phrases=True,
        )
    ]


def supervisions(table: pd.DataFrame, most: int) -> tuple[list[Who], str]:
    """At most so many supervisions, in the table's order, and what was left out, in words: of many
    teachers, the highest and the lowest in the mean over domains are shown."""
    means = table.drop_duplicates(["kind", "who"], keep="last")
    means = means.rename(columns={"accuracy": "mean_over_domains"})
    teacher = means["kind"] == "teacher"
    others = means[~teacher]
    room = max(2, most - len(others))
    teachers, cut = ends(means[teacher], "mean_over_domains", room, "teacher")
    shown = pd.concat([others, teachers])
    return [(str(row["kind"]), str(row["who"])) for row in rows_of(shown)], cut


def domains_shown(table: pd.DataFrame, most: int) -> tuple[list[str], str]:
    """At most so many domains, those with the most samples, and how many are left out, in words."""
    part = table[table["domain"].astype(str) != MEAN].drop_duplicates("domain")
    names = in_order(part["domain"])
    if len(names) <= most:
        return names, ""
    samples = part.set_index(part["domain"].astype(str))["samples"].astype(float)
    cut = (
        f"Shown are {most} of {words.plural(len(names), 'domain')}, those with the most samples; "
        "the mean is over all."
    )
    return largest(names, samples, most), cut


def by_supervision(table: pd.DataFrame) -> Mapping[Who, Mapping[str, Any]]:
    """The rows of the table by supervision, then by domain."""
    found: dict[Who, dict[str, Any]] = {}
    for row in rows_of(table):
        found.setdefault((str(row["kind"]), str(row["who"])), {})[str(row["domain"])] = row
    return found


def _called(kind: str, who: str) -> str:
    return f"teacher {who}" if kind == "teacher" else words.who_words(kind, who)


def _cell(row: Mapping[str, Any], who: Sequence[str], name: str) -> Cell:
    accuracy, samples = words.percent(row["accuracy"]), words.plural(int(row["samples"]), "sample")
    where = "the mean over domains" if name == MEAN else f"{samples} of {name}"
    share = None if words.missing(row["accuracy"]) else float(row["accuracy"])
    return Cell(share, accuracy, f"{_called(*who)}: {accuracy} % of {where}")
