"""The sentences of a comparison, and its report on the terminal (`cosup compare`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.analysis.arrays import rows_of
from cosup.analysis.comparable import Paired
from cosup.analysis.compared import Compared
from cosup.report.terminal import runs_by_domain

MOST_SETTINGS = 20
MOST_PRINTED = 20


def comparison_text(found: Compared, tables: Mapping[str, pd.DataFrame]) -> RenderableType:
    """Return the runs, the settings that differ, and a sentence for each pair."""
    pairs = rows_of(tables["pairs"])
    lines = [pair_sentence(pair, found, len(pairs)) for pair in pairs[:MOST_PRINTED]]
    if len(pairs) == 1 and (sentence := pgr_sentence(pairs[0])):
        lines.append(sentence)
    if len(pairs) > MOST_PRINTED:
        lines.append(f"The page lists {len(pairs) - MOST_PRINTED} more pairs.")
    lines.append(flipped_sentence(tables["flipped"], found))
    return Group(
        _runs(found, tables),
        *_domains(tables["domains"], found.names),
        *_settings(tables["config"], found.names),
        *(Text(line) for line in lines),
        Text(chance_note(found), style="dim"),
    )


def _runs(found: Compared, tables: Mapping[str, pd.DataFrame]) -> Table:
    measured = found.paired.runs[0][0].summary["measured"]
    title = f"Accuracy of the students {measured} ({samples_text(found)}), %"
    shown = Table(title=title, title_justify="left")
    shown.add_column("run", overflow="fold")
    by_seed = ("by seed",) if found.several else ()
    for name in ("accuracy", *by_seed, "95 % CI", "floor", "ceiling", "PGR", "95 % CI", "seconds"):
        shown.add_column(name, justify="right")
    for row in rows_of(tables["runs"]):
        own = tables["seeds"][tables["seeds"]["run"] == row["run"]]["student"]
        shown.add_row(
            Text(row["run"]),
            with_deviation(row["student"], row["deviation"]),
            *(["  ".join(map(words.in_percent, own))] if found.several else []),
            Text(words.interval(row["low"], row["high"])),
            words.in_percent(row["floor"]),
            words.in_percent(row["ceiling"]),
            with_deviation(row["pgr"], row["pgr_deviation"]),
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
    table = table[table["origin"] != "follows"].drop(columns="origin")
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
    "measure that, repeat the runs over seeds (run.seeds)."
)


def is_different(pair: Mapping[str, Any]) -> bool:
    """Return whether the difference of a pair is significant, by its interval and its test.

    The test is corrected for the number of pairs.
    """
    return bool((pair["low"] > 0 or pair["high"] < 0) and pair["p_corrected"] < ALPHA)


def with_deviation(value: Any, deviation: Any, digits: int = 1) -> str:
    """Return a fraction in percent, with its deviation over seeds if it has one: `88.6 ± 0.8`."""
    text = words.in_percent(value, digits)
    return text if words.missing(deviation) else f"{text} ± {words.in_percent(deviation, digits)}"


def samples_text(found: Compared) -> str:
    """Say on how many test samples, and over which seeds, runs are compared."""
    counts = found.samples
    if not found.several:
        return f"the same {counts[0]:,} samples"
    seeds = f"mean over the seeds {words.listed(found.paired.seeds or (), 20)}"
    if found.same_test:
        return f"{seeds}; the same {counts[0]:,} samples"
    numbers = " and ".join(dict.fromkeys(f"{end:,}" for end in (min(counts), max(counts))))
    return f"{seeds}; {numbers} samples, for each seed its own"


def chance_note(found: Compared) -> str:
    """State what the intervals cover, and which seeds are left out."""
    lines = list(filter(None, [left_out_sentence(found.paired)]))
    if not found.several:
        return " ".join([*lines, SEED_NOTE])
    cover = (
        "The intervals cover the choice of seeds (Student's t) and of test samples (bootstrap)."
        if found.same_test
        else "The intervals are Student's t over seeds, each of which has its own test samples; "
        "they are no narrower than the bootstrap over these."
    )
    lines.append(f"± is the sample deviation over seeds. {cover}")
    if len(found.parts) == 2:
        lines.append("Over two seeds they are very wide; a third seed helps most.")
    return " ".join(lines)


def left_out_sentence(paired: Paired) -> str:
    """Name the seeds that not all runs have; "" if all have the same."""
    seeds = [f"{words.listed(seeds, 20)} of {name}" for name, seeds in paired.left_out.items()]
    return f"Left out are the seeds that not all runs have: {'; '.join(seeds)}." if seeds else ""


def pair_sentence(pair: Mapping[str, Any], found: Compared, pairs: int) -> str:
    """State whether a run is better than its baseline, and the difference, run minus baseline.

    pairs: the number of pairs compared. The sentence is shorter for several pairs.
    """
    run, baseline = pair["run"], pair["baseline"]
    if pair["agreement"] == 1:
        return f"{run} and {baseline} give the same answer to each of the {_answers(found)}."
    head = f"{run} and {baseline} do not differ significantly"
    if is_different(pair):
        head = f"{run} is {'better' if pair['difference'] > 0 else 'worse'} than {baseline}"
    over = f", mean over {words.plural(len(found.parts), 'seed')}" if found.several else ""
    difference = words.points(pair["difference"], signed=True)
    span = words.interval(pair["low"], pair["high"], words.in_points)
    test = "" if found.several else "exact McNemar test "
    p_value = f"{test}p {_p(pair['p_value'])}"
    if pairs > 1:
        p_value = f"p {_p(pair['p_corrected'])}, corrected for {pairs} pairs"
    text = f"{head}: {difference} ({run} minus {baseline}{over}; 95 % CI {span}; {p_value})."
    if found.several:
        return f"{text} {run} is better on {pair['better_on']} of {len(found.parts)} seeds."
    if pairs > 1:
        return text
    return (
        f"{text} Of {_answers(found)} only {run} is correct on {pair['run_only']:,} and only "
        f"{baseline} on {pair['baseline_only']:,}."
    )


def _answers(found: Compared) -> str:
    if not found.several:
        return words.plural(found.samples[0], "test sample")
    return f"{sum(found.samples):,} test samples of {words.plural(len(found.parts), 'seed')}"


def pgr_sentence(pair: Mapping[str, Any]) -> str:
    """State the difference of the PGR, or return "" if one of the runs has none."""
    if words.missing(pair["pgr_difference"]):
        return ""
    span = words.interval(pair["pgr_low"], pair["pgr_high"], words.in_points)
    interval = f" (95 % CI {span})" if span else ""
    return (
        f"The difference in performance gap recovered (PGR), {pair['run']} minus "
        f"{pair['baseline']}, is {words.points(pair['pgr_difference'], signed=True)}{interval}."
    )


def config_sentence(table: pd.DataFrame) -> str:
    """State which settings differ: those that were set, chosen by a run, or follow from these."""
    by_origin = {origin: part["key"].tolist() for origin, part in table.groupby("origin")}
    own, chosen = by_origin.get("set", []), by_origin.get("chosen", [])
    text = "No setting that affects the results differs."
    if own:
        text = f"{words.plural(len(own), 'setting')} {_differ(own)}: {words.listed(own, 6)}."
    if chosen:
        text += f" What the runs chose differs (rounds.choose): {words.listed(chosen, 6)}."
    if follows := len(by_origin.get("follows", [])):
        verb = "follows" if follows == 1 else "follow"
        text += f" {words.plural(follows, 'default')} {verb} from that."
    around = by_origin.get("environment", [])
    if not around:
        return f"{text} The environment is the same."
    return f"{text} {words.plural(len(around), 'entry')} of the environment {_differ(around)}."


def _differ(names: Sequence[str]) -> str:
    return "differs" if len(names) == 1 else "differ"


def flipped_sentence(table: pd.DataFrame, found: Compared) -> str:
    """State on how many samples some runs are correct and others wrong."""
    total = sum(found.samples)
    share = words.percent(len(table) / total) if total else words.NONE
    two = len(found.names) == 2
    which = "Exactly one of the two runs is" if two else "Some but not all of the runs are"
    return f"{which} correct on {len(table):,} of {_answers(found)} ({share})."


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
