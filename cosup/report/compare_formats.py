"""A comparison as one table for papers and programs: `cosup compare --format`.

`FORMATS` is the only list of formats.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cosup import words
from cosup.analysis.arrays import Tables, rows_of
from cosup.analysis.comparable import Paired
from cosup.analysis.compared import Compared
from cosup.analysis.compared_settings import differing
from cosup.cells import to_csv
from cosup.errors import UserError, unknown_name
from cosup.files import to_json, write_atomic
from cosup.report.compare_text import chance_note, samples_text, with_deviation

__all__ = ["FORMATS", "Sheet", "check_form", "settings_of", "sheet_of", "write_sheet"]


@dataclass(frozen=True)
class Sheet:
    """A comparison as a table with a row per run.

    headings, rows: the table as text; the first column has the names of the runs. note: what the
    numbers are. numbers: the same as numbers, in percent and points, rounded as in the text.
    document: all numbers, as fractions.
    """

    headings: list[str]
    rows: list[list[str]]
    note: str
    numbers: pd.DataFrame
    document: dict[str, Any]


def check_form(form: str | None, output: Path | None, overwrite: bool) -> None:
    """Raise `UserError` for an unknown format, and for a file that its table may not replace."""
    if form is None:
        return
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS, key=("--format",))
    if output is None:
        return
    if output.is_dir():
        raise UserError("is a directory; give a file", key=("--output",), value=str(output))
    if output.exists() and not overwrite:
        raise UserError("the file exists; --overwrite replaces it", where=str(output))
    folder = next(one for one in output.absolute().parents if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError("is not a folder to write to", key=("--output",), value=str(folder))


def write_sheet(sheet: Sheet, form: str, output: Path | None) -> tuple[str, Path | None]:
    """Return a table in one of the `FORMATS`, and no file; or write it to a file."""
    text = FORMATS[form](sheet)
    if output is None:
        return text, None
    write_atomic(output, text.encode("utf-8", errors="replace"))
    return "", output


def sheet_of(found: Compared, tables: Tables) -> Sheet:
    """Return the table of a comparison: accuracy and PGR of each run, and its difference to the
    first run. Columns without any number are left out."""
    digits = _digits(tables["runs"])
    baseline, pairs = found.names[0], len(tables["pairs"])
    leads = {row["run"]: row for row in rows_of(tables["pairs"]) if row["baseline"] == baseline}
    rows = [(row, leads.get(row["run"], {})) for row in rows_of(tables["runs"])]

    def percent(value: Any) -> str:
        return words.in_percent(value, digits)

    def points(value: Any) -> str:
        return words.in_points(value, digits)

    columns = {
        "run": [row["run"] for row, _ in rows],
        "accuracy, %": [with_deviation(r["student"], r["deviation"], digits) for r, _ in rows],
        "95 % CI": [words.interval(r["low"], r["high"], percent) for r, _ in rows],
        "floor, %": [percent(row["floor"]) for row, _ in rows],
        "ceiling, %": [percent(row["ceiling"]) for row, _ in rows],
        "PGR, %": [with_deviation(r["pgr"], r["pgr_deviation"], digits) for r, _ in rows],
        f"minus {baseline}, points": [points(lead.get("difference")) for _, lead in rows],
        "95 % CI of the difference": [
            words.interval(lead.get("low"), lead.get("high"), points) for _, lead in rows
        ],
        "p": [words.p_value(lead.get("p_corrected")) for _, lead in rows],
    }
    shown = {name: texts for name, texts in columns.items() if set(texts) - {words.NONE, ""}}
    measured = found.paired.runs[0][0].summary["measured"]
    corrected = f" p is corrected for {pairs} pairs." if pairs > 1 else ""
    note = f"Accuracy of the students {measured} ({samples_text(found)}). "
    return Sheet(
        list(shown),
        [list(row) for row in zip(*shown.values(), strict=True)],
        note + chance_note(found) + corrected,
        _numbers(rows, digits),
        _document(found, tables),
    )


def _digits(runs: pd.DataFrame) -> int:
    """Return the digits that the uncertainty of the accuracies warrants: none if it is above ten
    points in all rows, two if it is below a tenth of a point in one."""
    error = runs["deviation"].fillna((runs["high"] - runs["low"]) / 2).min()
    return 0 if error >= 0.1 else 2 if 0 < error < 0.001 else 1


_NUMBERS = {
    "accuracy_percent": "student",
    "accuracy_deviation": "deviation",
    "accuracy_low": "low",
    "accuracy_high": "high",
    "floor_percent": "floor",
    "ceiling_percent": "ceiling",
    "pgr_percent": "pgr",
    "pgr_deviation": "pgr_deviation",
    "pgr_low": "pgr_low",
    "pgr_high": "pgr_high",
}
_LEADS = {
    "difference_points": "difference",
    "difference_deviation": "deviation",
    "difference_low": "low",
    "difference_high": "high",
}


def _numbers(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], digits: int
) -> pd.DataFrame:
    table = pd.DataFrame(
        [
            {
                "run": row["run"],
                "seeds": row["seeds"],
                **{name: row[own] for name, own in _NUMBERS.items()},
                **{name: lead.get(own) for name, own in _LEADS.items()},
                "p": lead.get("p_corrected"),
            }
            for row, lead in rows
        ]
    )
    shares = [*_NUMBERS, *_LEADS]
    table[shares] = (100 * table[shares].astype("float64")).round(digits)
    return table.assign(p=table["p"].astype("float64").map(lambda p: float(f"{p:.3g}")))


def _document(found: Compared, tables: Tables) -> dict[str, Any]:
    return {
        "baseline": found.names[0],
        "seeds": found.paired.seeds,
        "left_out": dict(found.paired.left_out),
        "samples": found.samples,
        "same_samples": found.same_test,
        "runs": rows_of(tables["runs"]),
        "by_seed": rows_of(tables["seeds"]),
        "pairs": rows_of(tables["pairs"]),
        "domains": rows_of(tables["domains"].astype({"domain": str})),
        "classes": rows_of(tables["classes"].astype({"class": str})),
        "settings": settings_of(found.paired, found.names),
        "shifted": _shifted(found),
        "note": chance_note(found),
    }


def _shifted(found: Compared) -> list[dict[str, Any]]:
    """Return the numbers of each run on its shifted sets, by run and seed."""
    seeds: list[int | None] = [*found.paired.seeds] if found.paired.seeds else [None]
    return [
        {
            "run": name,
            "seed": seed,
            "set": set_name,
            "samples": numbers["samples"],
            "student": numbers["student"]["accuracy"],
            "floor": numbers["floor"]["accuracy"],
            "ceiling": numbers["ceiling"]["accuracy"],
            "pgr": numbers["student"]["pgr"],
        }
        for place, name in enumerate(found.names)
        for seed, run in zip(seeds, found.runs_of(place), strict=True)
        for set_name, numbers in run.summary.get("shifted", {}).items()
    ]


def settings_of(paired: Paired, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the settings that differ, with the values of the runs of these names that have one."""
    seeds = paired.seeds or [0]
    return [
        {
            "key": one.key,
            "origin": one.origin,
            "values": {
                name: one.value(place, seeds)
                for place, name in enumerate(names)
                if one.values[place]
            },
            "chosen_by": [name for name, yes in zip(names, one.chosen, strict=True) if yes],
        }
        for one in differing(paired)
    ]


def _markdown(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [[_in_markdown(cell) for cell in row] for row in (sheet.headings, *sheet.rows)]
    rule = ["---", *["---:"] * (len(sheet.headings) - 1)]
    table = [line(rows[0]), line(rule), *map(line, rows[1:])]
    return "\n".join([*table, "", _in_markdown(sheet.note), ""])


def _in_markdown(text: str) -> str:
    """Escape what Markdown would take for markup; an underscore within a word is none."""
    escaped = re.sub(r"([\\`*<>|])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)


def _latex(sheet: Sheet) -> str:
    rows = [f"{' & '.join(map(_in_latex, cells))} \\\\" for cells in (sheet.headings, *sheet.rows)]
    return "\n".join(
        [
            f"% {' '.join(sheet.note.split())}",
            "% needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{l{'r' * (len(sheet.headings) - 1)}}}",
            "\\toprule",
            rows[0],
            "\\midrule",
            *rows[1:],
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    words.MINUS: "$-$",
    words.NONE: "--",
    "±": r"$\pm$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def _in_latex(text: str) -> str:
    """Escape what LaTeX would take for commands. A cell that starts with [ is put in braces: after
    the end of a row it would be an argument."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped


def _csv(sheet: Sheet) -> str:
    return to_csv(sheet.numbers)


def _json(sheet: Sheet) -> str:
    return to_json(sheet.document) + "\n"


FORMATS: dict[str, Callable[[Sheet], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
"""Name -> the table as text: Markdown, LaTeX with booktabs, CSV in percent, JSON in fractions."""
