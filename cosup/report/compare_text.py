"""The sentences of a comparison, and its report on the terminal (`cosup compare`)."""

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
MOST_PRINTED = 20


def comparison_text(runs: Sequence[Run], tables: Mapping[str, pd.DataFrame]) -> RenderableType:
    """Return the runs, the settings that differ, and a sentence for each pair."""
    pairs = rows_of(tables["pairs"])
    samples = len(runs[0].test)
    lines = [pair_sentence(pair, len(pairs)) for pair in pairs[:MOST_PRINTED]]
    if len(pairs) == 1 and (sentence := pgr_sentence(pairs[0])):
        lines.append(sentence)
    if len(pairs) > MOST_PRINTED:
        lines.append(f"The page lists {len(pairs) - MOST_PRINTED} more pairs.")
    lines.append(flipped_sentence(tables["flipped"], samples, len(runs)))
    return Group(
        _runs(tables["runs"], runs[0].summary["measured"], samples),
        *_domains(tables["domains"], labels(runs)),
        *_settings(tables["config"], labels(runs)),
        *(Text(line) for line in lines),
        Text(SEED_NOTE, style="dim"),
    )


def _runs(table: pd.DataFrame, measured: str, samples: int) -> Table:
    title = f"Accuracy of the students {measured} (the same {samples:,} samples), %"
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
    """Return the accuracy by domain, or nothing for a single domain."""
    if len(table) < 2:
        return []
    return [runs_by_domain(table, names, "Accuracy by domain, %")]


def _settings(table: pd.DataFrame, names: Sequence[str]) -> list[RenderableType]:
    sentence = Text(config_sentence(table))
    if not len(table):
        return [sentence]
    more = len(table) - MOST_SETTINGS
    title = "Differences in config and environment"
    shown = Table(title=title + (f" ({more} more on the page)" if more > 0 else ""))
    shown.title_justify = "left"
    for name in ("setting", *names):
        shown.add_column(Text(name), overflow="fold")
    for row in table.head(MOST_SETTINGS).itertuples(index=False):
        shown.add_row(*(Text(str(value)) for value in row))
    return [shown, sentence]


ALPHA = 0.05
MOST_MEANS = 4
SEED_NOTE = (
    "The intervals cover the choice of test samples only, not the variation between seeds. To "
    "measure that, repeat the runs over seeds (run.seeds or rounds.losses)."
)


def is_different(pair: Mapping[str, Any]) -> bool:
    """Return whether the difference of a pair is significant, by its interval and its test.

    The test is McNemar's, corrected for the number of pairs.
    """
    return bool((pair["low"] > 0 or pair["high"] < 0) and pair["p_corrected"] < ALPHA)


def pair_sentence(pair: Mapping[str, Any], pairs: int) -> str:
    """State which of two runs is better and by how much, or that they do not differ.

    pairs: the number of pairs compared. The sentence is shorter for several pairs.
    """
    first, second = pair["first"], pair["second"]
    counts = ("both_right", "both_wrong", "first_only", "second_only")
    total = sum(int(pair[name]) for name in counts)
    if pair["agreement"] == 1:
        return f"{first} and {second} give the same answer to each of the {total:,} test samples."
    sign = 1
    if is_different(pair):
        sign = 1 if pair["difference"] > 0 else -1
        better, worse = (first, second)[::sign]
        head = f"{better} outperforms {worse} by {words.points(abs(pair['difference']))} ("
    else:
        difference = words.points(pair["difference"], signed=True)
        head = (
            f"{first} and {second} do not differ significantly ({first} minus {second}: "
            f"{difference}, "
        )
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    interval = f"95 % CI {words.interval(low, high, words.in_points)}"
    if pairs > 1:
        return f"{head}{interval}; p {_p(pair['p_corrected'])}, corrected for {pairs} pairs)."
    return (
        f"{head}{interval}; exact McNemar test p {_p(pair['p_value'])}). Of {total:,} test samples "
        f"only {first} is correct on {pair['first_only']:,} and only {second} on "
        f"{pair['second_only']:,}."
    )


def pgr_sentence(pair: Mapping[str, Any]) -> str:
    """State the difference of the PGR, or return "" if one of the runs has none."""
    if words.missing(pair["pgr_difference"]):
        return ""
    span = words.interval(pair["pgr_low"], pair["pgr_high"], words.in_points)
    interval = f" (95 % CI {span})" if span else ""
    return (
        f"The difference in performance gap recovered (PGR), {pair['first']} minus "
        f"{pair['second']}, is {words.points(pair['pgr_difference'], signed=True)}{interval}."
    )


def config_sentence(table: pd.DataFrame) -> str:
    """State which settings differ."""
    own = table[~table["key"].str.startswith("environment.")]
    around = len(table) - len(own)
    environment = "The environment is the same."
    if around:
        verb = "differs" if around == 1 else "differ"
        environment = f"{words.plural(around, 'entry')} of the environment {verb}."
    if not len(own):
        return f"No setting that affects the results differs. {environment}"
    verb = "differs" if len(own) == 1 else "differ"
    named = words.listed(own["key"].tolist(), 6)
    return f"{words.plural(len(own), 'setting')} {verb}: {named}. {environment}"


def flipped_sentence(table: pd.DataFrame, total: int, runs: int) -> str:
    """State on how many samples some runs are correct and others wrong."""
    share = words.percent(len(table) / total) if total else words.NONE
    which = "Exactly one of the two runs is" if runs == 2 else "Some but not all of the runs are"
    return f"{which} correct on {len(table):,} of {total:,} test samples ({share})."


def classes_sentence(table: pd.DataFrame, names: list[str], noun: str) -> str:
    """Name the class or domain on which the runs differ most."""
    spread = table[names].max(axis=1) - table[names].min(axis=1)
    if not len(table) or spread.max() == 0:
        return f"The runs have the same accuracy on every {noun}."
    row = table.iloc[int(spread.to_numpy().argmax())]
    best, worst = (str(row[names].astype(float).agg(end)) for end in ("idxmax", "idxmin"))
    return (
        f"The runs differ most on {row[noun]}: {words.percent(row[best])} by {best} and "
        f"{words.percent(row[worst])} by {worst} ({row['samples']:,} test samples)."
    )


def means_sentence(table: pd.DataFrame, names: list[str]) -> str:
    """State the mean over domains of each run, or of the best and the worst of many."""
    means, domains = table[names].iloc[-1], words.plural(len(table) - 1, "domain")
    if len(names) > MOST_MEANS:
        best, worst = str(means.idxmax()), str(means.idxmin())
        return (
            f"Mean over the {domains}: from {words.percent(means[worst])} by {worst} to "
            f"{words.percent(means[best])} by {best}."
        )
    texts = [f"{words.percent(means[name])} by {name}" for name in names]
    return f"Mean over the {domains}: {words.listed(texts)}."


def _p(value: float) -> str:
    text = words.p_value(value)
    return text if text.startswith("<") else f"= {text}"
