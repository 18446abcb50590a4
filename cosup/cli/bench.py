"""The command that runs a bench: methods x data sets x seeds, and one table of all."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cosup.cli.app import Json, app, explained, say, show, show_json
from cosup.cli.experiments import Overrides


@app.command(
    examples=(
        "cosup bench configs/bench.yaml --plan",
        "cosup bench configs/bench.yaml",
        "cosup bench bench --only data=digits --only method=plain,product",
        "cosup bench my_bench.yaml execution.cache=/scratch/features",
    )
)
def bench(
    config: Annotated[
        Path,
        typer.Argument(metavar="BENCH", help="Bench file (YAML), or the name of a shipped one."),
    ],
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="KEY=NAMES",
            help="Run these alone: data=, method= or seed=, with commas between names.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Folder of the bench, instead of output/name.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show which runs are finished, and run none.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Run again what has another config than before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run every method on every data set with every seed, and compare.

    Runs that are finished are taken as they are, so that the same command resumes. A run that fails
    is reported, and the others go on; the exit status is then 1. Writes bench.html, bench.csv and
    bench.json into the folder of the bench.
    """
    with explained(shlex.join(["cosup", "bench", str(config), *(overrides or ())])):
        from cosup.config.bench import read_bench

        found = read_bench(config, overrides or (), output)
        from cosup.runs import bench_plan

        if plan:
            cells = bench_plan.plan_bench(found, only or ())
            show_json(cells) if as_json else show(bench_plan.plan_table(found, cells))
            return
        bench_plan.chosen(found, only or ())
        from cosup.runs.bench import report_bench, run_bench
        from cosup.runs.logs import log_to_console
        from cosup.stopping import stopped_by_signals

        with stopped_by_signals(), log_to_console():
            made = run_bench(found, only or (), overwrite)
            report = report_bench(found)
            page = report.write(found.directory) if report.has_results else None
        if as_json:
            show_json(report.document())
        elif page is not None:
            show(report.text())
            typer.echo(f"everything else: {page}")
        for name, why in made.failed.items():
            say(f"failed: {name}: {why}")
    if made.failed:
        raise typer.Exit(1)
