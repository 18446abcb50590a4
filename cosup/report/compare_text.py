"""`cosup compare`: what it prints.

What a comparison of runs says, in sentences; the same on the page and on the terminal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.analysis import Run
from cosup.analysis.arrays import rows_of
from cosup.analysis.comparison import labels
from cosup.report.terminal import runs_by_domain

MOST_SETTINGS = 20
MOST_PAIRS = 20


def comparison_text(runs: Sequence[Run], tables: Mapping[str, pd.DataFrame]) -> RenderableType:
    """The runs, the settings that differ, and what the pairs say."""
    pairs = rows_of(tables["pairs"])
    samples = len(runs[0].test)
    lines = [pair_sentence(pair, len(pairs)) for pair in pairs[:MOST_PAIRS]]
    if len(pairs) == 1 and (said := pgr_sentence(pairs[0])):
        lines.append(said)
    if len(pairs) > MOST_PAIRS:
        lines.append(f"{len(pairs) - MOST_PAIRS} more pairs are on the page.")
    lines.append(flipped_sentence(tables["flipped"], samples, len(runs)))
    return Group(
        _runs(tables["runs"], runs[0].summary["measured"], samples),
        *_domains(tables["domains"], labels(runs)),
        *_settings(tables["config"], labels(runs)),
        *(Text(line) for line in lines),
        Text(SAMPLES_ALONE, style="dim"),
    )


def _runs(table: pd.DataFrame, measured: str, samples: int) -> Table:
    title = f"The students' accuracy {measured}, the same {samples:,} samples, in %"
    shown = Table(title=title, title_justify="left")
    shown.add_column("run", overflow="fold")
    for name in ("accuracy", "95 % interval", "floor", "ceiling", "PGR", "95 % interval"):
        shown.add_column(name, justify="right")
    shown.add_column("seconds", justify="right")
    for row in rows_of(table):
        shown.add_row(
            Text(row["run"]),
            words.in_percent(row["student"]),
            Text(words.interval(row["low"], row["high"])),
            words.in_percent(row["floor"]),
            words.in_percent(row["ceiling"]),
            words.in_percent(row["pgr"]),
            Text(words.interval(row["pgr_low"], row["pgr_high"])),
            f"{row['seconds']:,.1f}",
        )
    return shown


def _domains(table: pd.DataFrame, names: Sequence[str]) -> list[RenderableType]:
    """Nothing of one domain alone."""
    if len(table) < 2:
        return []
    return [runs_by_domain(table, names, "Their accuracy by domain, in %")]


def _settings(table: pd.DataFrame, names: Sequence[str]) -> list[RenderableType]:
    said = Text(config_sentence(table))
    if not len(table):
        return [said]
    more = len(table) - MOST_SETTINGS
    title = "What differs in config and environment"
    shown = Table(title=title + (f" ({more} more on the page)" if more > 0 else ""))
    shown.title_justify = "left"
    for name in ("setting", *names):
        shown.add_column(Text(name), overflow="fold")
    for row in table.head(MOST_SETTINGS).itertuples(index=False):
        shown.add_row(*(Text(str(value)) for value in row))
    return [shown, said]


ALPHA = 0.05
MOST_MEANS = 4
SAMPLES_ALONE = (
    "This weighs the luck of the test samples alone: with other seeds each run would give other "
    "numbers (run.seeds, and rounds.losses, repeat runs over seeds)."
)
NO_DIFFERENCE = "no difference that these test samples can show"


def differs(pair: Mapping[str, Any]) -> bool:
    """Is the difference more than noise of the test samples: by its interval, and by McNemar's test
    corrected for the number of pairs?"""
    return bool((pair["low"] > 0 or pair["high"] < 0) and pair["p_corrected"] < ALPHA)


def pair_sentence(pair: Mapping[str, Any], pairs: int) -> str:
    """Which of two runs is better, by how much, and whether that is more than noise; shorter where
    there are several pairs."""
    first, second = pair["first"], pair["second"]
    total = sum(int(pair[name]) for name in ("both_right", "both_wrong", "first_only"))
    total += int(pair["second_only"])
    if pair["agreement"] == 1:
        return f"{first} and {second} give the same answer to each of the {total:,} test samples."
    if differs(pair):
        won = pair["difference"] > 0
        better, worse = (first, second) if won else (second, first)
        bounds = (pair["low"], pair["high"]) if won else (-pair["high"], -pair["low"])
        gained = words.in_points(abs(pair["difference"])).lstrip("+")
        head = f"{better} is better than {worse} by {gained} points, more than noise"
    else:
        bounds = (pair["low"], pair["high"])
        head = (
            f"{first} less {second}: {words.in_points(pair['difference'])} points, {NO_DIFFERENCE}"
        )
    span = words.interval(*bounds, words.in_points)
    if pairs > 1:
        p = f"p {_p(pair['p_corrected'])} corrected for {pairs} pairs"
        return f"{head} (95 % interval {span}; {p})."
    return (
        f"{head} (95 % interval {span}; {first} alone is right on "
        f"{words.plural(int(pair['first_only']), 'sample')}, {second} alone on "
        f"{pair['second_only']:,} of {total:,}; exact McNemar test: p {_p(pair['p_value'])})."
    )


def pgr_sentence(pair: Mapping[str, Any]) -> str:
    """The difference of PGR, where both have one; else nothing."""
    if words.missing(pair["pgr_difference"]):
        return ""
    span = words.interval(pair["pgr_low"], pair["pgr_high"], words.in_points)
    said = f", 95 % interval {span}" if span else ""
    return (
        f"PGR of {pair['first']} less that of {pair['second']}: "
        f"{words.in_points(pair['pgr_difference'])} points{said}."
    )


def config_sentence(table: pd.DataFrame) -> str:
    """How many settings differ."""
    own = table[~table["key"].str.startswith("environment.")]
    around = len(table) - len(own)
    surroundings = (
        f"; of the environment, {words.plural(around, 'entry').replace('entrys', 'entries')}"
        if around
        else "; the environment is the same"
    )
    if not len(own):
        return f"No setting that decides numbers differs{surroundings}."
    named = words.listed(own["key"].tolist(), 6)
    verb = "differs" if len(own) == 1 else "differ"
    return f"{words.plural(len(own), 'setting')} {verb}: {named}{surroundings}."


def flipped_sentence(table: pd.DataFrame, total: int, runs: int) -> str:
    """How many samples some run gets right and another doesn't."""
    share = words.in_percent(len(table) / total) if total else words.NONE
    which = "One of the two runs alone is" if runs == 2 else "Some of the runs, and not all, are"
    return f"{which} right on {len(table):,} of {total:,} test samples ({share} %)."


def classes_sentence(table: pd.DataFrame, names: list[str], noun: str) -> str:
    """Where the runs are furthest apart."""
    spread = table[names].max(axis=1) - table[names].min(axis=1)
    if not len(table) or spread.max() == 0:
        return f"The runs reach the same accuracy on every {noun}."
    row = table.iloc[int(spread.to_numpy().argmax())]
    best, worst = (str(row[names].astype(float).agg(end)) for end in ("idxmax", "idxmin"))
    return (
        f"Furthest apart on {row[noun]}: {words.in_percent(row[best])} % by {best}, "
        f"{words.in_percent(row[worst])} % by {worst} ({row['samples']:,} test samples)."
    )


def means_sentence(table: pd.DataFrame, names: list[str]) -> str:
    """What each run reaches in the mean over domains; of many, the best and the worst."""
    means, domains = table[names].iloc[-1], words.plural(len(table) - 1, "domain")
    if len(names) > MOST_MEANS:
        best, worst = str(means.idxmax()), str(means.idxmin())
        return (
            f"Mean over the {domains}: from {words.in_percent(means[worst])} % by {worst} to "
            f"{words.in_percent(means[best])} % by {best}."
        )
    said = [f"{words.in_percent(means[name])} % by {name}" for name in names]
    return f"Mean over the {domains}: {words.listed(said)}."


def _p(value: float) -> str:
    text = words.p_value(value)
    return text if text.startswith("<") else f"= {text}"
