"""`rounds.losses`: the same config with several losses, and whether their difference is more than
noise.

Every loss is run on the same seeds, in `DIRECTORY/LOSS` (`DIRECTORY/LOSS/seed-K` with
`run.seeds`), each a complete run of its own. What no loss changes is made once per seed, by the
first loss, and taken over by the others (`cosup.runs.reuse`).

What an ablation over losses prints at the end: a row per loss, and what the pairs say.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.config import config_hash
from cosup.config.schema import Config
from cosup.data.table import load_data
from cosup.layout import Layout
from cosup.remote import Place
from cosup.runs.backend import Backend
from cosup.runs.check import check_task
from cosup.runs.directory import RunDirectory
from cosup.runs.losses import loss_names, with_loss
from cosup.runs.paired import compare_pairs, load_correct, more_than_noise
from cosup.runs.pipeline import run_one
from cosup.runs.prepare import make_compute
from cosup.runs.repeat import check_seeds, run_seeds
from cosup.seeds import seed_for
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.words import in_percent, in_points, interval, noun

log = logging.getLogger(__name__)


def run_ablation(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backend: Backend | None = None,
) -> dict[str, Any]:
    """Run every loss of `rounds.losses` on every seed; the content of `directory/summary.json`.

    `{"run", "status", "seed": [...], "config_hash", "losses": {name: summary of its run, over
    seeds where there are several}, "paired": [...]}`, pairs as in `cosup.runs.paired.compare`.
    Raises as `run_one`; what any of the losses gets wrong is raised before the first is run.
    """
    assert config.rounds.losses is not None
    names = loss_names(config.rounds.losses)
    seeds = config.run.seeds or [config.run.seed]
    check_seeds(seeds)
    with RunDirectory.open(directory, config, resume=resume, overwrite=overwrite) as run:
        if not run.resumed:
            _check(config)
        losses = {}
        for name, choice in zip(names, config.rounds.losses, strict=True):
            log.info("loss %s", name)
            first = run.files.of_loss(names[0]).path
            losses[name] = (run_one if config.run.seeds is None else run_seeds)(
                with_loss(config, choice),
                run.files.of_loss(name).path,
                resume=run.resumed,
                shared=None if name == names[0] else first,
                backend=backend,
            )
        correct = {
            name: [load_correct(path) for path in _folders(run.files.of_loss(name).path, config)]
            for name in names
        }
        summary = {
            "run": config.run.name,
            "status": "finished",
            "seed": list(seeds),
            "config_hash": config_hash(config),
            "losses": losses,
            "paired": compare_pairs(correct, seed_for(seeds[0], "bootstrap")),
        }
        run.files.summary.write(summary)
        return summary


def _check(config: Config) -> None:
    """What config, data and any of the losses get wrong together."""
    assert config.rounds.losses is not None
    compute = make_compute(config)
    section = config.data.model_copy(update={"check": "none"})
    data = load_data(section, config.run.seed, compute.workers, None)
    hierarchy = plan_hierarchy(config.teachers, data.classes, data.domains, config.run.seed)
    for choice in config.rounds.losses:
        check_task(with_loss(config, choice), hierarchy, data)


def _folders(directory: Path, config: Config) -> list[Path]:
    """The directories of a loss's runs, one per seed."""
    if config.run.seeds is None:
        return [directory]
    return [Layout(directory).of_seed(seed).path for seed in config.run.seeds]


def ablation_table(summary: Mapping[str, Any], directory: Path | Place) -> RenderableType:
    """Accuracies by loss; each loss against the first, with its intervals in a sentence."""
    seeds: Sequence[int] = summary["seed"]
    losses: Mapping[str, Mapping[str, Any]] = summary["losses"]
    over = f"{noun(len(seeds), 'seed')} {', '.join(map(str, seeds))}"
    measured = next(iter(losses.values())).get("measured", "on the test split")
    title = f"{summary['run']}: the student's accuracy {measured} by loss, in %, {over}"
    table = Table(title=title, title_justify="left")
    table.add_column("loss")
    table.add_column("accuracy", justify="right")
    if len(seeds) > 1:
        table.add_column("by seed", justify="right")
    table.add_column("PGR", justify="right")
    for name, one in losses.items():
        table.add_row(name, _mean(one), *_by_seed(one, seeds), in_percent(one["student"]["pgr"]))
    table.add_section()
    _add_bounds(table, next(iter(losses.values())), len(seeds))
    lines = [*_choices(losses), *_pairs(summary), *_next(losses, seeds, directory)]
    return Group(table, Text("\n".join(lines)))


def _mean(one: Mapping[str, Any]) -> str:
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


def _add_bounds(table: Table, one: Mapping[str, Any], seeds: int) -> None:
    """Floor and ceiling, which no loss changes."""
    more = [""] if seeds > 1 else []
    floor = one["floor"]
    table.add_row(f"teacher {floor['teacher']} alone (floor)", in_percent(floor["accuracy"]), *more)
    if one["ceiling"]["accuracy"] is not None:
        ceiling = in_percent(one["ceiling"]["accuracy"])
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
    head = f"{pair['first']}: {in_points(pair['difference'])}"
    samples = f"{_interval(pair['ci95_samples'])} over test samples"
    verdict = "more than noise" if more_than_noise(pair) else "not more than noise"
    if pair["ci95"] is None:
        return f"{head}, {samples}: {verdict} of the test samples; one seed says nothing of seeds"
    over = f"{_interval(pair['ci95'])} over seeds"
    return f"{head}, {over}, {samples}; better on {pair['better_on']} of {seeds} seeds: {verdict}"


def _interval(bounds: Sequence[float]) -> str:
    low, high = bounds
    return interval(low, high, in_points)


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
