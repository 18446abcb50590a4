"""What to do next after a run: one to three steps, each for a number that was measured."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from cosup.analysis.alternatives import (
    Rows,
    best_single_source,
    how_to_use,
    is_table,
    overview_rows,
    phrase,
    to_use,
)
from cosup.analysis.arrays import Row, Tables, row_at
from cosup.analysis.filters import ALL_FILTERS
from cosup.analysis.limits import largest_limit
from cosup.analysis.records import Run
from cosup.analysis.results import is_significant
from cosup.analysis.unmeasured import best_source, student_is_best
from cosup.controls import LABELS, PAIR, TEAM
from cosup.remote import is_uri
from cosup.sources import STUDENT
from cosup.words import known, percent, plural, points, span

__all__ = ["Step", "next_steps"]

MOST_STEPS = 3
RUN = "RUN"
"""Stands for the run's directory in a command."""
CONFIG = f"{RUN}/config.yaml"
CHOOSE = "rounds={choose: auto}"
"""The override that has a run choose its recipe."""
OVERRIDES = {
    "no_filter": "rounds.consistency=[]",
    "plain_loss": "rounds.loss=cross_entropy",
    "mean_ensemble": "rounds.assignment=mean",
    "best_teacher": "rounds.assignment=single",
    "random_assignment": "rounds.assignment=random",
}
"""The override that makes a run of each control that is one."""
BAD = {
    "random": "is right no more often than chance",
    "constant": "always gives the same answer",
    "adversarial": "is right less often than chance",
}
"""Notes of sources that harm where nothing but the assigner weighs them."""
MOST_TIMES = 20
"""A test split this many times as large is not advised."""


@dataclass(frozen=True)
class Step:
    """A step. command: how to do it, with `RUN` for the run's directory; "" without a command."""

    text: str
    command: str = ""

    def command_for(self, place: object) -> str:
        """Return the command for a run in this directory, or at this URI.

        A config is read from a file: of a run at a URI it is `CONFIG`, to be filled in.
        """
        words = shlex.split(self.command)
        at_uri = is_uri(str(place))
        return shlex.join(
            "CONFIG" if at_uri and word == CONFIG else _at(str(place), word) for word in words
        )


def _at(place: str, word: str) -> str:
    """Return a word of a command, with a place for `RUN`; the options of a URI stay at its end."""
    if not word.startswith(RUN):
        return word
    body, mark, options = place.partition("?") if is_uri(place) else (place, "", "")
    return f"{body}{word.removeprefix(RUN)}{mark}{options}"


def next_steps(run: Run, tables: Tables) -> list[Step]:
    """Return one to three steps; [] for a run without a round.

    The first is what to use. The others are what the run measured to be worth changing: a filter
    that rejects more right annotations than wrong ones, a source to leave out, labels that teach
    more than the teachers, the largest limit, more test images where the result is within noise.
    """
    if not run.finished:
        return [Step("Finish the run.", f"cosup run {CONFIG} --output {RUN} --resume")]
    if run.rounds and not run.measured:
        return list(islice(_unmeasured(run), MOST_STEPS))
    rows = overview_rows(tables)
    if not rows:
        return []
    best = to_use(run, rows)
    return list(islice(_measured(run, tables, rows, best), MOST_STEPS))


def _measured(run: Run, tables: Tables, rows: Rows, best: Row) -> Iterator[Step]:
    yield _use(run, best)
    source = best_single_source(rows)
    if _is_only_a_control(best) and source is not None and _is_above(source):
        now = _use(run, source)
        yield replace(now, text=f"Until then {now.text[0].lower()}{now.text[1:]}")
    filters = _filters(run, tables, rows)
    yield from filters
    yield from _bad_sources(run)
    labels = rows.get(("control", LABELS))
    if labels is not None and best["who"] not in (LABELS, PAIR) and _is_above(labels):
        yield Step(
            f"Train on the labels instead of the teachers: {phrase(run, labels)} has "
            f"{points(-labels['gain'])} more than the student ({_reverse(labels)})."
        )
    limit = largest_limit(tables["limits"]) if "limits" in tables else None
    if limit is not None and not (filters and limit["limit"] == "filters"):
        yield from _lift(run, limit, best)
    yield from _stronger(run, rows)
    yield from _more_images(run, rows)


def _is_only_a_control(best: Row) -> bool:
    """Return whether a run has left nothing to use of what is best: a control keeps no student."""
    return best["kind"] == "control" and best["who"] not in (PAIR, TEAM)


def _is_above(row: Row) -> bool:
    """Return whether a row is above the student by more than noise."""
    return is_significant(row) and bool(row["gain"] < 0)


def _reverse(row: Row) -> str:
    """Return the interval of what a row has more than the student."""
    return f"95 % CI {span(-row['gain_high'], -row['gain_low'])}"


def _use(run: Run, best: Row) -> Step:
    """Return how to use what is best."""
    who = str(best["who"])
    if best["kind"] == "teacher" and is_table(run, best):
        return Step(f"Use {phrase(run, best)}; for new images, see the verdict.")
    if best["kind"] == "teacher":
        return Step(
            f"Use {phrase(run, best)} on new images, without the student.",
            f"cosup annotate {RUN} PHOTOS -o votes.parquet",
        )
    text = f"{how_to_use(run, best)}."
    if who in OVERRIDES:
        return Step(text, _run_again(who, OVERRIDES[who]))
    if who not in (STUDENT, PAIR, TEAM) or run.few_shot:
        return Step(text)
    team = "" if who == STUDENT else " --team"
    return Step(f"{text[:-1]} on new images.", f"cosup predict {RUN} PHOTOS{team} -o new.csv")


def _run_again(name: str, *overrides: str) -> str:
    """Return the command that runs a run's config with other settings, beside the run."""
    where = f"{RUN}-{name.replace('_', '-')}"
    return shlex.join(["cosup", "run", CONFIG, "--output", where, *overrides])


def _filters(run: Run, tables: Tables, rows: Rows) -> list[Step]:
    """Advise against filters that rejected more right annotations than wrong ones, unless the
    control without them shows that they help."""
    if "filters" not in tables or not run.config["rounds"].get("consistency"):
        return []
    without = rows.get(("control", "no_filter"))
    if without is not None and is_significant(without) and without["gain"] > 0:
        return []
    whole = row_at(tables["filters"][tables["filters"]["filter"] == ALL_FILTERS], -1)
    if not whole["rejected"] or not known(whole["precision"]) or whole["precision"] >= 0.5:
        return []
    wrong = round(float(whole["precision"]) * int(whole["rejected"]))
    gain = ""
    if without is not None and is_significant(without):
        gain = f", and without them the student has {points(-without['gain'])} more"
    text = (
        f"Turn the filters off: in the last round they rejected "
        f"{plural(int(whole['rejected']) - wrong, 'right annotation')} and {wrong:,} wrong{gain}."
    )
    return [Step(text, _run_again("no-filter", OVERRIDES["no_filter"]))]


def _bad_sources(run: Run) -> Iterator[Step]:
    """Advise to leave out sources that tell nothing, where the assigner does not weigh them."""
    sources = run.summary.get("sources") or {}
    asked = (run.summary.get("agreement") or {}).get("sources", {})
    if run.config["rounds"]["assignment"]["name"] == "fused":
        return
    for name, numbers in sources.items():
        share = asked.get(name, {}).get("asked") or 0.0
        if numbers["note"] in BAD and share > 0:
            yield Step(
                f"Leave {name} out of the teachers: it {BAD[numbers['note']]} and taught "
                f"{percent(share)} of the samples. Or have the sources weighed.",
                _run_again("fused", "rounds.assignment=fused"),
            )


def _lift(run: Run, limit: Row, best: Row) -> Iterator[Step]:
    """Advise what lifts the largest limit."""
    gain = f"{points(limit['gain'])} more (95 % CI {span(limit['low'], limit['high'])})"
    rounds, name = run.config["rounds"], str(limit["limit"])
    if name in ("filters", "loss"):
        control = str(limit["control"])
        if best["who"] != control:  # else it is the first step
            what = "filters" if name == "filters" else f"loss {rounds['loss']['name']}"
            yield Step(
                f"Leave out the {what}: without, the student has {gain}.",
                _run_again(control, OVERRIDES[control]),
            )
    elif name == "routing" and not rounds.get("choose"):
        yield Step(
            f"Have the recipe chosen by evidence: with perfect routing the student has {gain}.",
            _run_again("auto", CHOOSE),
        )
    elif name == "annotations":
        yield Step(
            f"Get better or more sources: wrong annotations limit the student most. With true "
            f"labels it has {gain}."
        )


def _stronger(run: Run, rows: Rows) -> Iterator[Step]:
    """Advise a stronger student where the labels themselves do not lift it above a source."""
    ceiling, source = rows.get(("control", "ceiling")), best_single_source(rows)
    if ceiling is None or source is None or ceiling["accuracy"] > source["accuracy"]:
        return
    yield Step(
        "Take a stronger student (student.backbone, student.training): trained on the true labels "
        f"it reaches {percent(ceiling['accuracy'])}, no more than {phrase(run, source)} "
        f"({percent(source['accuracy'])})."
    )


def _more_images(run: Run, rows: Rows) -> Iterator[Step]:
    """Say how many test images would tell a difference that is within noise."""
    source = best_single_source(rows)
    if source is None or is_significant(source) or not source["gain"]:
        return
    groups = len(np.unique(run.test["group"]))
    half = (float(source["gain_high"]) - float(source["gain_low"])) / 2
    times = (half / abs(float(source["gain"]))) ** 2
    if 1 < times <= MOST_TIMES:
        yield Step(
            "Label more test images: a difference to the best single source of "
            f"{points(source['gain'], signed=True)} would show on about "
            f"{round(times * groups, -1):,.0f}; there are {groups:,}."
        )


def _unmeasured(run: Run) -> Iterator[Step]:
    """Advise to label some images, and what to use until then."""
    review = run.files.review
    if not review.estimates.exists() and review.questions.exists():
        asked = f"{RUN}/{review.questions.relative_to(run.path)}"
        yield Step(
            "Fill in the labels of the review, and read them.", f"cosup review {RUN} --read {asked}"
        )
    elif not review.estimates.exists():
        yield Step(
            "Label 100 images. That measures the student and every source.",
            f"cosup review {RUN} --next 100",
        )
    else:
        yield Step(
            "Run again with the answers of the review: the student learns from some, and is "
            "measured on the others.",
            f"cosup run {CONFIG} --output {RUN} --resume",
        )
    sources = run.summary.get("sources")
    if not sources or sources[STUDENT]["reliability"] is None or best_source(sources) is None:
        return
    until = "Until then use" if not review.estimates.exists() else "Use"
    if student_is_best(sources):
        yield Step(f"{until} the student.", f"cosup predict {RUN} PHOTOS -o new.csv")
    yield from _bad_sources(run)
