"""`cosup run`: prepare, rounds, controls, summary; each stage is recorded, so a run can resume."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cosup.analysis import load_run
from cosup.config import config_hash
from cosup.config.schema import Config
from cosup.data.section import SPLITS
from cosup.probabilities import ProbTable
from cosup.report.page import write_report
from cosup.runs.assemble import Prepared
from cosup.runs.backend import Backend, Local
from cosup.runs.choose_loss import STAGE as CHOICE
from cosup.runs.choose_loss import chosen_loss
from cosup.runs.directory import RunDirectory
from cosup.runs.environment import describe_environment
from cosup.runs.export import export_student
from cosup.runs.inputs import measured_on
from cosup.runs.paired import keep_correct
from cosup.runs.prepare import prepare
from cosup.runs.recorder import Recorder, open_recorder
from cosup.runs.reuse import take_over
from cosup.runs.sample_records import keep_samples, keep_thumbnails
from cosup.runs.stages import finish_controls, finish_rounds, test_probs
from cosup.runs.summary import (
    Numbers,
    control_numbers,
    peak_rss_mb,
    student_numbers,
    sum_seconds,
)
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
    """Run a config with its one seed; the content of `summary.json`.

    shared: the directory of a finished run that differs in its loss alone; what no loss changes is
    taken over from it. backend: who computes; None is this process.

    Raises `UserError` for what can be mended (nothing is half-written), and `RunError` for a
    failure on the way, after which `resume` goes on with the stage that was cut.
    """
    with (
        RunDirectory.open(directory, config, resume=resume, overwrite=overwrite) as run,
        open_recorder(run.path) as recorder,
    ):
        if run.is_done("summary"):
            log.info("%s is finished already", run.path)
            return run.load("summary")
        if shared is not None:
            take_over(shared, run)
        run.files.environment.write(describe_environment(config))
        summary = _run(config, run, recorder, backend or Local())
        run.files.summary.write(summary)
        _report(run.path)
        run.finish("summary", summary)
        return summary


def _run(config: Config, run: RunDirectory, recorder: Recorder, backend: Backend) -> dict[str, Any]:
    seed = config.run.seed
    prepared = prepare(config, run, recorder, backend)
    keep_samples(config, run, prepared)
    chosen, choice = chosen_loss(config, prepared, run, seed)
    rounds = finish_rounds(chosen, prepared, run, recorder, seed)
    keep_correct(run, prepared.test, test_probs(run, len(rounds), prepared.test.answers))
    controls = finish_controls(chosen, prepared, run, recorder, seed)
    summary = _summary(config, prepared, run, rounds, controls)
    if choice is not None:
        summary["loss_choice"] = choice
    for name in ("accuracy", "pgr"):
        if summary["student"][name] is not None:
            recorder.scalar(f"student/{name}", summary["student"][name], len(rounds))
    export_student(config, prepared.data.classes, run, summary)
    keep_thumbnails(run, prepared.data)
    return summary


def _report(path: Path) -> None:
    """Write a finished run's page; a failure is told, and costs the run nothing."""
    try:
        write_report(load_run(path))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        log.warning("no report: %s (try again with: cosup report %s)", reason, path)


def _summary(
    config: Config,
    prepared: Prepared,
    run: RunDirectory,
    rounds: list[Numbers],
    controls: dict[str, ProbTable],
) -> Numbers:
    test, data = prepared.test, prepared.data
    student = test_probs(run, len(rounds), test.answers)
    ceiling = controls.get("ceiling")
    parts = [(part, run.load(part)["seconds"]) for part in PARTS]
    parts += [("rounds", item["seconds"]) for item in rounds]
    parts += [("rounds", run.load(CHOICE)["seconds"])] if run.is_done(CHOICE) else []
    parts += [("controls", run.load(f"control-{name}")["seconds"]) for name in controls]
    seed = seed_for(config.run.seed, "bootstrap")
    return {
        "run": config.run.name,
        "status": "finished",
        "seed": config.run.seed,
        "config_hash": config_hash(config),
        "measured": measured_on(config),
        "floor": {
            "teacher": prepared.floor.name,
            "accuracy": prepared.floor.accuracy,
            "chosen_on": prepared.chosen_on,
        },
        "ceiling": {"accuracy": None if ceiling is None else test.accuracy(ceiling)},
        "student": student_numbers(test, student, prepared.floor_probs, ceiling, seed),
        "rounds": [{k: v for k, v in item.items() if k != "seconds"} for item in rounds],
        "controls": control_numbers(test, controls, prepared.floor_probs, seed),
        "teachers": [asdict(record) for record in prepared.teachers],
        "data": {
            "samples": {split: len(data.rows(split)) for split in SPLITS},
            "classes": len(data.classes),
            "domains": list(data.domains),
            "broken": list(data.broken),
        },
        "seconds": sum_seconds(parts),
        "peak_rss_mb": peak_rss_mb(),
    }
