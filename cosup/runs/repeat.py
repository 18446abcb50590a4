"""Repeat a run with several seeds (`run.seeds`), and aggregate its numbers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cosup.analysis.outcome import outcome_over_seeds
from cosup.config.schema import Config
from cosup.layout import Layout
from cosup.metrics import spread
from cosup.runs.backend import Backend, Local
from cosup.runs.directory import RunDirectory
from cosup.runs.side_by_side import SeedRun, after_first, run_side_by_side
from cosup.runs.single import run_single

log = logging.getLogger(__name__)


def run_seeds(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    shared: Path | None = None,
    backend: Backend | None = None,
) -> dict[str, Any]:
    """Run each seed in `directory/seed-K`, then write their means to `directory/summary.json`.

    Seeds run side by side (`cosup.runs.side_by_side`), where the backend has room for several.

    shared: the finished directory of these seeds with another loss, as in `run_one`. backend: who
    computes, as in `run_one`.
    """
    seeds = config.run.seeds
    assert seeds is not None
    with RunDirectory.open(directory, config, resume=resume, overwrite=overwrite) as run:
        runs = {}
        folders = [run.files.of_seed(seed).path for seed in seeds]
        for seed in seeds:
            one = config.model_copy(
                update={"run": config.run.model_copy(update={"seed": seed, "seeds": None})}
            )
            other = None if shared is None else Layout(shared).of_seed(seed).path
            directory = run.files.of_seed(seed).path
            others = tuple(folder for folder in folders if folder != directory)
            runs[f"seed {seed}"] = SeedRun(one, directory, run.resumed, other, others=others)
        own, places = (backend or Local()).side_by_side(config, runs)
        if len(places) > 1:
            log.info("%d seeds, %d at once", len(seeds), len(places))
            run_side_by_side(own, places, ready=after_first(own))
        summaries = []
        for name, one_run in runs.items():
            if len(places) == 1:
                log.info("%s", name)
            summaries.append(_summary_of(one_run, len(places) > 1, backend))
        summary = aggregate(summaries)
        run.files.summary.write(summary)
        return summary


def _summary_of(run: SeedRun, finished: bool, backend: Backend | None) -> dict[str, Any]:
    """Return the summary of a seed, after running it if it is not finished."""
    if finished:
        return Layout(run.directory).summary.read()
    config, resume = run.config, run.resume
    return run_single(
        config,
        run.directory,
        resume=resume,
        shared=run.shared,
        backend=backend,
        others=run.others,
    )


def aggregate(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean, sample deviation and 95 % interval (Student's t over seeds) of each number.

    The shape of a single summary is kept: a number becomes its mean; `over_seeds` holds, by its
    path (`student.accuracy`), mean, deviation, interval and the values themselves. The interval
    of PGR is the one over seeds; a PGR that a seed does not have has no mean. Seeds whose chosen
    recipes differ are averaged over what they share: the controls that all have, and the last round
    if their rounds are of different levels. `choice.chosen` is then a list, by seed.
    """
    chosen = [summary["choice"]["chosen"] for summary in summaries if "choice" in summary]
    summaries = _shared(summaries)
    tables = [dict(_numbers(summary)) for summary in summaries]
    paths = dict.fromkeys(path for table in tables for path in table)
    over = {path: spread([table.get(path) for table in tables]) for path in paths}
    mean = _replace(dict(summaries[0]), {path: item["mean"] for path, item in over.items()}, "")
    mean["seed"] = [summary["seed"] for summary in summaries]
    _recovered(mean["student"], [summary["student"] for summary in summaries], over)
    if len(set(chosen)) > 1:
        mean["choice"]["chosen"] = chosen
    for name, numbers in mean.get("controls", {}).items():
        if any(summary["controls"][name]["pgr"] is None for summary in summaries):
            numbers["pgr"] = None
    if len(summaries) > 1 and "verdict" in mean:  # sentences have no mean: what to use, by seed
        found = [one for one in summaries if one.get("verdict")]
        mean["verdict"] = [f"Seed {one['seed']}: {one['verdict'][0]}" for one in found]
        told = [one["outcome"] for one in found if one.get("outcome")]
        mean["outcome"] = asdict(outcome_over_seeds(told)) if told else None
    return {**mean, "over_seeds": over}


def _shared(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the summaries with the controls that all of them have, and rounds of the same levels.

    Why a control is left out is reported as in a single summary.
    """
    made = [dict(summary) for summary in summaries]
    if len({tuple(item.get("level") for item in one["rounds"]) for one in made}) > 1:
        for one in made:
            one["rounds"] = one["rounds"][-1:]
    names = dict.fromkeys(name for one in made for name in one.get("controls", {}))
    absent = [one.get("controls_absent", {}) for one in made]
    for name in names:
        reasons = [
            part.get(name)
            for one, part in zip(made, absent, strict=True)
            if name not in one["controls"]
        ]
        if not reasons:
            continue
        for one in made:
            one["controls"] = {key: item for key, item in one["controls"].items() if key != name}
            one["controls_absent"] = {
                **one.get("controls_absent", {}),
                name: f"{len(reasons)} of {len(made)} seeds have none: {reasons[0]}",
            }
    return made


def _recovered(
    mean: dict[str, Any], seeds: Sequence[Mapping[str, Any]], over: Mapping[str, Any]
) -> None:
    """Set the PGR over seeds, against the best teacher and against the team, or why it has none."""
    lacking = [one.get("pgr_reason") for one in seeds if one["pgr"] is None]
    if lacking:
        mean |= {"pgr": None, "pgr_ci95": None, "pgr_reason": _reason(lacking, len(seeds))}
    elif len(seeds) > 1:
        mean["pgr_ci95"] = over["student.pgr"]["ci95"]
    if not all("pgr_team" in one for one in seeds):
        return
    lacking = [one["pgr_team"]["reason"] for one in seeds if one["pgr_team"]["value"] is None]
    if lacking:
        reason = _reason(lacking, len(seeds))
        mean["pgr_team"] = {"value": None, "ci95": None, "reason": reason}
    elif len(seeds) > 1:
        mean["pgr_team"] |= {"ci95": over["student.pgr_team.value"]["ci95"]}


def _reason(reasons: Sequence[str | None], seeds: int) -> str:
    """Return why there is no mean: the first reason, and for how many seeds there is one."""
    first = reasons[0] or "its interval is not defined"
    return first if seeds == 1 else f"{len(reasons)} of {seeds} seeds have none: {first}"


def _numbers(node: Any, path: str = "") -> list[tuple[str, float]]:
    if isinstance(node, Mapping):
        parts = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        parts = [(str(key), value) for key, value in enumerate(node)]
    elif isinstance(node, int | float) and not isinstance(node, bool):
        return [(path, float(node))]
    else:
        return []
    return [pair for key, value in parts for pair in _numbers(value, f"{path}.{key}".lstrip("."))]


def _replace(node: Any, means: Mapping[str, float | None], path: str) -> Any:
    if isinstance(node, Mapping):
        return {k: _replace(v, means, f"{path}.{k}".lstrip(".")) for k, v in node.items()}
    if isinstance(node, list):
        return [_replace(v, means, f"{path}.{k}".lstrip(".")) for k, v in enumerate(node)]
    return node if isinstance(node, int) else means.get(path, node)
