"""Commands that check, plan, run and submit an experiment."""

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cosup.cli import complete
from cosup.cli.app import Json, app, explained, say, show, show_json

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="Config file (YAML), or the name of a config that `cosup ls configs` lists.",
        autocompletion=complete.configs,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Override settings of the config: rounds.repeat=2",
        autocompletion=complete.overrides,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")]


@app.command(
    examples=(
        "cosup run quickstart",
        "cosup run my.yaml rounds.assignment=gate run.seeds=[0,1,2]",
        "cosup run my.yaml --output outputs/second_try",
        "cosup run my.yaml --resume",
        "cosup run my.yaml run.seed=1 --print-config",
    )
)
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option(help="Run directory or URI, instead of run.output/run.name."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved config and exit.")
    ] = False,
) -> None:
    """Run an experiment."""
    with explained(_again(config, overrides, output)):
        from cosup.config import dump_config, read_config

        draft = read_config(config, overrides or ())
        if print_config:
            typer.echo(dump_config(draft.checked()), nl=False)
            return
        from cosup.cluster import run_with_backend
        from cosup.runs import describe_run, ready
        from cosup.runs.logs import log_to_console
        from cosup.stopping import stopped_by_signals

        loaded, place = ready(draft, output)
        with stopped_by_signals(loaded.execution.stop_signal), log_to_console():
            summary = run_with_backend(loaded, place, resume, overwrite)
        show(describe_run(summary, place))


@app.command(
    examples=(
        "cosup submit quickstart --address http://127.0.0.1:8265",
        "cosup submit my.yaml --address http://head:8265 --working-dir . --no-wait",
    )
)
def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="Address of the cluster's dashboard, such as http://127.0.0.1:8265.",
        ),
    ] = ...,  # type: ignore[assignment]
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Show the log until the job ends, or return at once."
        ),
    ] = True,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder to upload as the job's working directory (without what its "
            ".gitignore lists)."
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Run an experiment as a job on a Ray cluster."""
    with explained():
        from cosup.cluster.submit import Flags, job_config, submit_job

        loaded = job_config(config, overrides or (), working_dir)
        shipped = ["--working-dir", str(working_dir)] if working_dir else []
        again = ["cosup", "submit", str(config), *(overrides or ()), "--address", address, *shipped]
        flags = Flags(resume, overwrite)
        job = submit_job(loaded, address, flags, working_dir, shlex.join([*again, "--resume"]))
        say(f"job {job.id} is submitted")
        say(f"follow it with: {job.follow_command}")
        say(f"stop it with: {job.stop_command}")
        if not wait:
            typer.echo(job.id)
            return
        try:
            status, ending = job.follow(lambda text: typer.echo(text, nl=False))
        except KeyboardInterrupt:
            status, ending = 130, f"job {job.id} is still running; stop it with: {job.stop_command}"
        say(ending)
    raise typer.Exit(status)


@app.command(examples=("cosup validate my.yaml", "cosup validate quickstart rounds.repeat=2"))
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config and list every error in it."""
    with explained():
        from cosup.config import read_config
        from cosup.runs.checks import check_config

        check_config(read_config(config, overrides or ()))
        typer.echo(f"{config}: valid")


@app.command(examples=("cosup plan my.yaml", "cosup plan quickstart data.limit=1000 --json"))
def plan(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show what a run would train, annotate and cache."""
    with explained():
        from cosup.config import read_config
        from cosup.runs import plan_config

        made = plan_config(read_config(config, overrides or ()))
        show_json(asdict(made)) if as_json else show(made)


def _again(config: Path, overrides: list[str] | None, output: str | None) -> str:
    # In a job: the command to run on the machine that submitted it.
    if again := os.environ.get("COSUP_AGAIN"):
        return again
    where = ["--output", output] if output else []
    return shlex.join(["cosup", "run", str(config), *(overrides or ()), *where, "--resume"])
