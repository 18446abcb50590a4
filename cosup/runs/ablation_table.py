"""The table that an ablation over losses prints at its end."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.layout import Layout
from cosup.remote import Place
from cosup.runs.paired import is_significant_pair
from cosup.runs.tables import directory_name, file_list
from cosup.words import in_percent, in_points, interval, noun


def ablation_table(summary: Mapping[str, Any], directory: Path | Place) -> RenderableType:
    """Return what an ablation prints at its end: a row per loss, and comparisons of losses."""
    seeds: Sequence[int] = summary["seed"]
    losses: Mapping[str, Mapping[str, Any]] = summary["losses"]
    over = f"{noun(len(seeds), 'seed')} {', '.join(map(str, seeds))}"
    measured = next(iter(losses.values())).get("measured", "on the test split")
    title = f"{directory_name(directory)}: the student's accuracy {measured} by loss, in %, {over}"
    table = Table(title=title, title_justify="left")
    table.add_column("loss")
    table.add_column("accuracy", justify="right")
    if len(seeds) > 1:
        table.add_column("by seed", justify="right")
    table.add_column("ceiling", justify="right")
    table.add_column("PGR", justify="right")
    for name, one in losses.items():
        ceiling, gap = in_percent(one["ceiling"]["accuracy"]), in_percent(one["student"]["pgr"])
        table.add_row(name, _mean_accuracy(one), *_by_seed(one, seeds), ceiling, gap)
    table.add_section()
    floor = next(iter(losses.values()))["floor"]
    table.add_row(f"teacher {floor['teacher']} (floor)", in_percent(floor["accuracy"]))
    lines = [*_choices(losses), *_pairs(summary), _ablation_files(losses, seeds, directory)]
    return Group(table, Text("\n".join(lines)))


def _mean_accuracy(one: Mapping[str, Any]) -> str:
    over = one.get("over_seeds", {}).get("student.accuracy", {})
    deviation = over.get("deviation")
    more = "" if deviation is None else f" ± {in_percent(deviation)}"
    return in_percent(one["student"]["accuracy"]) + more


def _by_seed(one: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    if len(seeds) == 1:
        return []
    return [
        "  ".join(in_percent(value) for value in one["over_seeds"]["student.accuracy"]["values"])
    ]


def _choices(losses: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the constants that were chosen."""
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
            f"Difference to {first} in points, on the same seeds and test samples (95 % intervals, "
            "not corrected for the number of pairs):"
        )
    for pair in pairs:
        yield f"  {_sentence(pair)}"


def _sentence(pair: Mapping[str, Any]) -> str:
    seeds = len(pair["by_seed"])
    head = f"{pair['first']}: {in_points(pair['difference'])}"
    samples = f"{_interval(pair['ci95_samples'])} over test samples"
    verdict = "significant" if is_significant_pair(pair) else "not significant"
    if pair["ci95"] is None:
        return f"{head}, {samples}: {verdict} over test samples; one seed cannot show that of seeds"
    over = f"{_interval(pair['ci95'])} over seeds"
    return f"{head}, {over}, {samples}; better on {pair['better_on']} of {seeds} seeds: {verdict}"


def _interval(bounds: Sequence[float]) -> str:
    low, high = bounds
    return interval(low, high, in_points)


def _ablation_files(
    losses: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], directory: Path | Place
) -> str:
    root, first = Layout(Path()), next(iter(losses))
    several = isinstance(losses[first]["seed"], list)
    one = root.of_loss(first).of_seed(seeds[0]) if several else root.of_loss(first)
    return file_list({"all numbers and pairs": root.summary.path, "one run": one.path}, directory)
