"""Run one experiment: prepare, rounds, controls, summary. Finished stages are not repeated."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cosup.analysis import Run, load_run, tables, verdict
from cosup.analysis.next_steps import next_steps
from cosup.analysis.outcome import outcome
from cosup.analysis.review import review_sentences
from cosup.analysis.sources import source_sentences
from cosup.config.schema import Config
from cosup.controls import NO_TEST
from cosup.data.section import SPLITS
from cosup.data.table import ImageData
from cosup.errors import in_short
from cosup.layout import Layout
from cosup.models.compute import ComputedOn, device_name
from cosup.report.page import write_report
from cosup.runs.announce import announce_in_log
from cosup.runs.answers import same_answers, with_answers
from cosup.runs.assemble import Prepared
from cosup.runs.backend import Backend, Local
from cosup.runs.choose import STAGE as RECIPE
from cosup.runs.choose import choose_recipe
from cosup.runs.choose_loss import STAGE as LOSS
from cosup.runs.choose_loss import choose_loss
from cosup.runs.choose_weight import STAGE as WEIGHT
from cosup.runs.choose_weight import choose_weight
from cosup.runs.context import RunContext
from cosup.runs.control_stages import Controls, finish_controls
from cosup.runs.directory import RunDirectory
from cosup.runs.environment import describe_environment
from cosup.runs.export import export_student
from cosup.runs.inputs import measured_on
from cosup.runs.labels import STAGE as LABELS
from cosup.runs.labels import finish_labels
from cosup.runs.losses import take_over
from cosup.runs.measure import COMPARED
from cosup.runs.paired import save_correct
from cosup.runs.prepare import prepare
from cosup.runs.published import published_numbers
from cosup.runs.recorder import open_recorder
from cosup.runs.records import write_samples, write_thumbnails
from cosup.runs.shifted import log_shifted, shifted_numbers
from cosup.runs.sources import STAGE as SOURCES
from cosup.runs.sources import finish_sources
from cosup.runs.stages import finish_rounds
from cosup.runs.summary import (
    Numbers,
    control_numbers,
    peak_rss_mb,
    student_numbers,
    sum_seconds,
)
from cosup.runs.team import STAGE as TEAM
from cosup.runs.team import finish_team
from cosup.seeds import seed_for

log = logging.getLogger(__name__)

PARTS = ("data", "features", "teachers", "annotate")


def run_one(
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    shared: Path | None = None,
    backend: Backend | None = None,
) -> dict[str, Any]:
    """Run a config with its one seed. Return the content of `summary.json`.

    shared: the directory of a run that differs in `rounds` alone; what does not depend on them is
    taken over from it, if it is finished. backend: what computes; None is this process.

    Raises `UserError` for an error in the config or the data (no incomplete run is left behind),
    and `RunError` for a failure while running, after which `resume` continues the stage that was
    interrupted.
    """
    with (
        RunDirectory.open(directory, config, resume=resume, overwrite=overwrite) as run,
        with_answers(run, config) as answered,
        open_recorder(run.path, config.run.loggers) as recorder,
    ):
        if run.is_done("summary"):
            log.info("%s is finished already", run.path)
            return run.load("summary")
        if shared is not None and _is_finished(shared) and same_answers(run, shared):
            take_over(shared, run)
        announce_in_log(config, run.path)
        context = RunContext(answered, run, recorder, backend or Local())
        environment = describe_environment(answered)
        log.debug("environment: %s", environment)
        run.files.environment.write(environment)

        prepared = prepare(context)
        environment["computed"] = computed_on(context, prepared)
        run.files.environment.write(environment)
        write_samples(context, prepared)
        chosen, prepared, recipe_choice = choose_recipe(context, prepared)
        chosen, loss_choice = choose_loss(chosen, prepared)
        chosen, weight_choice = choose_weight(chosen, prepared)
        rounds = finish_rounds(chosen, prepared)
        team = finish_team(chosen, prepared)
        controls = finish_controls(chosen, prepared, team)
        sources = finish_sources(chosen, prepared, rounds)
        labels = finish_labels(chosen, prepared, rounds)

        summary = summarise(context, prepared, rounds, controls)
        published = published_numbers(rounds, summary["ceiling"]["accuracy"])
        if published is not None:
            summary["published"] = published
        summary |= {"team": team, "sources": sources, **labels}
        if recipe_choice is not None:
            summary["choice"] = recipe_choice
        if loss_choice is not None:
            summary["loss_choice"] = loss_choice
        if weight_choice is not None:
            summary["labelled_weight"] = weight_choice
        environment["computed"] = computed_on(context, prepared)
        run.files.environment.write(environment)
        finish(chosen, prepared, summary)
        run.finish("summary", summary)
        return summary


def _is_finished(directory: Path) -> bool:
    return Layout(directory).stage("summary").exists()


def computed_on(context: RunContext, prepared: Prepared) -> dict[str, list[str]]:
    """Return what this process and those of the backend compute on, for `environment.json`."""
    compute = prepared.compute
    here = ComputedOn(device_name(compute.device), compute.precision, torch.get_num_threads())
    return {"here": [str(here)], **context.backend.computed_on()}


def _episodes(config: Config) -> Numbers:
    """Return the number of episodes that the student is evaluated on, if it is."""
    section = config.data.few_shot
    return {} if section is None else {"episodes": section.episodes}


def summarise(
    context: RunContext, prepared: Prepared, rounds: list[Numbers], controls: Controls
) -> Numbers:
    config, run, data = context.config, context.run, prepared.data
    test, teachers = prepared.test.split, prepared.teachers
    student = run.files.round(len(rounds)).test.read(test.answers)
    save_correct(run, test, student)
    ceiling = controls.found.get("ceiling")
    seed = seed_for(context.seed, "bootstrap")
    summary = {
        "run": config.run.name,
        "status": "finished",
        "seed": config.run.seed,
        "config_hash": run.files.marker.read()["config_hash"],
        "measured": measured_on(config, data),
        "measured_reason": None if len(test) else NO_TEST,
        "floor": {
            "teacher": teachers.floor.name,
            "accuracy": teachers.floor.accuracy,
            "coverage": teachers.floor.coverage,
            "compared": COMPARED,
            "chosen_on": teachers.chosen_on,
        },
        "ceiling": {"accuracy": None if ceiling is None else test.accuracy(ceiling)},
        "student": student_numbers(
            test,
            student,
            teachers.floor_answers,
            ceiling,
            seed,
            controls.found.get("team"),
            controls.absent,
        ),
        "rounds": [{k: v for k, v in item.items() if k != "seconds"} for item in rounds],
        "controls": control_numbers(test, controls.found, teachers.floor_answers, seed),
        "controls_absent": controls.absent,
        "teachers": [asdict(record) for record in teachers.records],
        "data": {
            "samples": {split: len(data.rows(split)) for split in SPLITS},
            "classes": len(data.classes),
            "domains": list(data.domains),
            "broken": list(data.broken),
            **_episodes(config),
        },
        "review": {"answers": data.applied.total, **asdict(data.applied)},
        "seconds": sum_seconds(_seconds(run, rounds, controls.found)),
        "peak_rss_mb": peak_rss_mb(),
    }
    if prepared.inputs.shifted:
        summary["shifted"] = shifted_numbers(context, prepared, len(rounds), controls)
        log_shifted(summary["shifted"])
    return summary


def _seconds(
    run: RunDirectory, rounds: list[Numbers], controls: Iterable[str]
) -> list[tuple[str, float]]:
    """Return the part of each finished stage and the seconds that it took."""
    parts = [(part, run.load(part)["seconds"]) for part in PARTS]
    parts += [("rounds", item["seconds"]) for item in rounds]
    choices = [stage for stage in (RECIPE, LOSS, WEIGHT) if run.is_done(stage)]
    parts += [("rounds", run.load(stage)["seconds"]) for stage in choices]
    parts.append(("controls", run.load(TEAM)["seconds"]))
    parts += [("rounds", run.load(stage)["seconds"]) for stage in (SOURCES, LABELS)]
    return [
        *parts,
        *(("controls", run.load(f"control-{name}")["seconds"]) for name in controls),
    ]


def finish(
    context: RunContext, prepared: Prepared, summary: Numbers, shown: Iterable[ImageData] = ()
) -> None:
    """Export the student, write the summary, and write the report.

    shown: samples that are not listed, and that the report shows.
    """
    run = context.run
    for name in ("accuracy", "pgr"):
        if summary["student"][name] is not None:
            number = len(summary["rounds"])
            context.recorder.scalar(f"student/{name}", summary["student"][name], number)
    export_student(context.config, prepared.data.classes, run, summary)
    write_thumbnails(run, prepared.data, shown)
    run.files.summary.write(summary)
    try:
        found = load_run(run.path)
        made = tables(found)
        summary |= _told(found, made)
        run.files.summary.write(summary)
        write_report(found, made=made)
    except Exception as error:  # the run is finished: a failure of its report must not fail it
        reason = in_short(error)
        log.warning("no report: %s (try again with: cosup report %s)", reason, run.path)


def _told(run: Run, made: Mapping[str, pd.DataFrame]) -> Numbers:
    """Return what the summary tells in words: what to use, whether it helped, what to do next."""
    result = outcome(run, made)
    return {
        "verdict": [*verdict(run, made)[:2], *source_sentences(run), *review_sentences(run)],
        "outcome": None if result is None else asdict(result),
        "next": [asdict(step) for step in next_steps(run, made)],
    }
