"""What an ablation over losses prints at the end: a row per loss, and what the pairs say."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.remote import Place
from cosup.runs.paired import more_than_noise
from cosup.runs.table import percent


def ablation_table(summary: Mapping[str, Any], directory: Path | Place) -> RenderableType:
    """Accuracies by loss; each loss against the first, with its intervals in a sentence."""
    seeds: Sequence[int] = summary["seed"]
    losses: Mapping[str, Mapping[str, Any]] = summary["losses"]
    over = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    measured = next(iter(losses.values())).get("measured", "on the test split")
    title = f"{summary['run']}: the student's accuracy {measured} by loss, in %, {over}"
    table = Table(title=title, title_justify="left")
    table.add_column("loss")
    table.add_column("accuracy", justify="right")
    if len(seeds) > 1:
        table.add_column("by seed", justify="right")
    table.add_column("PGR", justify="right")
    for name, one in losses.items():
        table.add_row(name, _mean(one), *_by_seed(one, seeds), percent(one["student"]["pgr"]))
    table.add_section()
    _add_bounds(table, next(iter(losses.values())), len(seeds))
    lines = [*_choices(losses), *_pairs(summary), *_next(losses, seeds, directory)]
    return Group(table, Text("\n".join(lines)))


def _mean(one: Mapping[str, Any]) -> str:
    over = one.get("over_seeds", {}).get("student.accuracy", {})
    deviation = over.get("deviation")
    more = "" if deviation is None else f" ± {percent(deviation)}"
    return percent(one["student"]["accuracy"]) + more


def _by_seed(one: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    if len(seeds) == 1:
        return []
    return ["  ".join(percent(value) for value in one["over_seeds"]["student.accuracy"]["values"])]


def _add_bounds(table: Table, one: Mapping[str, Any], seeds: int) -> None:
    """Floor and ceiling, which no loss changes."""
    more = [""] if seeds > 1 else []
    floor = one["floor"]
    table.add_row(f"teacher {floor['teacher']} alone (floor)", percent(floor["accuracy"]), *more)
    if one["ceiling"]["accuracy"] is not None:
        ceiling = percent(one["ceiling"]["accuracy"])
        table.add_row("student trained on the true labels (ceiling)", ceiling, *more)


def _choices(losses: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The constants that runs chose."""
    for name, one in losses.items():
        if "loss_choice" in one:
            chosen = [one["loss_choice"]["constant"]]
            over = one.get("over_seeds", {}).get("loss_choice.constant")
            values = ", ".join(f"{value:g}" for value in (over["values"] if over else chosen))
            yield f"{name}: constant {values}, chosen on the validation split"


def _pairs(summary: Mapping[str, Any]) -> Iterator[str]:
    first = next(iter(summary["losses"]))
    pairs = [pair for pair in summary["paired"] if pair["second"] == first]
    if pairs:
        yield (
            f"Against {first}, in points, on the same seeds and test samples (95 % intervals of "
            "each pair by itself):"
        )
    for pair in pairs:
        yield f"  {_sentence(pair)}"


def _sentence(pair: Mapping[str, Any]) -> str:
    seeds = len(pair["by_seed"])
    head = f"{pair['first']}: {_points(pair['difference'])}"
    samples = f"{_interval(pair['ci95_samples'])} over test samples"
    verdict = "more than noise" if more_than_noise(pair) else "not more than noise"
    if pair["ci95"] is None:
        return f"{head}, {samples}: {verdict} of the test samples; one seed says nothing of seeds"
    over = f"{_interval(pair['ci95'])} over seeds"
    return f"{head}, {over}, {samples}; better on {pair['better_on']} of {seeds} seeds: {verdict}"


def _points(value: float) -> str:
    """A fraction as percentage points with its sign; no sign where it rounds to 0."""
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text


def _interval(bounds: Sequence[float]) -> str:
    return f"[{_points(bounds[0])}, {_points(bounds[1])}]"


def _next(
    losses: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], directory: Path | Place
) -> Iterator[str]:
    first = next(iter(losses))
    several = isinstance(losses[first]["seed"], list)
    one = directory / first / (f"seed-{seeds[0]}" if several else "")
    yield "Where to look next:"
    yield f"  {'every number, all pairs':<24} {directory / 'summary.json'}"
    yield f"  {'one run':<24} {one}"
    yield f"  {'curves':<24} tensorboard --logdir {directory}"
