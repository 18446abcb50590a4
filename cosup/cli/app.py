"""The command line: one short function per command, and its exit statuses.

A user error prints one line per error and exits with 2. A failure during a run prints one line with
the command that resumes the run, and exits with 1. Ctrl-C exits with 130. Each command imports what
it needs, so that `--help` and `--version` are fast.
"""

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cosup.errors import RunError, UserError

app = typer.Typer(
    add_completion=False,
    help="Train an image classifier from several unreliable sources of labels.",
    pretty_exceptions_enable=False,
)
export_app = typer.Typer(
    help="Write what a run has made for other tools.", pretty_exceptions_enable=False
)
app.add_typer(export_app, name="export")

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="Config file (YAML), or the name of a config that `cosup ls configs` lists.",
    ),
]
ShippedName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a config that `cosup ls configs` lists.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Override settings of the config: rounds.repeat=2"
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
COMPARISON = Path("comparison.html")
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `cosup` command and exit with its status."""
    # Must be set before torch is imported. Threads that spin while waiting slow down other
    # processes on a shared machine, and each other, by a factor of ten.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(call(list(sys.argv[1:] if arguments is None else arguments)))


def call(arguments: list[str]) -> int:
    """Run a command line and return its exit status."""
    try:
        code = app(args=arguments or ["--help"], prog_name="cosup", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # `cosup ls | head` closes the pipe early
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        say(f"error: {' '.join(error.format_message().split())} (see cosup --help)")
        return 2
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train an image classifier from several unreliable sources of labels."""
    if version:
        import cosup

        typer.echo(f"cosup {cosup.__version__}")
        raise typer.Exit


@app.command()
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
        from cosup.runs.checks import check_samples

        if draft.errors:  # together with all that is found in data and files
            check_samples(draft)
        loaded = draft.checked()
        from cosup.cluster import run_with_backend
        from cosup.runs import describe_run
        from cosup.runs.logs import log_to_console
        from cosup.runs.staging import run_place

        place = run_place(loaded, output)
        # Handle a stopped job or a shutdown of the machine like Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with log_to_console():
            summary = run_with_backend(loaded, place, resume, overwrite)
        show(describe_run(summary, place))


@app.command()
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


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config and list every error in it."""
    with explained():
        from cosup.config import read_config
        from cosup.runs.checks import check_config

        check_config(read_config(config, overrides or ()))
        typer.echo(f"{config}: valid")


@app.command()
def plan(config: ConfigFile, overrides: Overrides = None) -> None:
    """Show what a run would train, annotate and cache, without running it."""
    with explained():
        from cosup.config import read_config
        from cosup.runs import plan_config

        show(plan_config(read_config(config, overrides or ())))


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run directories, finished or not."),
    ],
    text: Annotated[
        bool, typer.Option("--text", help="Print the main tables instead of writing a page.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Page to write, instead of RUN/report/index.html."),
    ] = None,
) -> None:
    """Write a report page per run: who taught what, and whether it was right."""
    with explained():
        from cosup.report.page import report_runs

        for made in report_runs(runs, text, output):
            typer.echo(made) if isinstance(made, str) else show(made)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Directories of finished runs, or one directory that contains several.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Page to write.")] = COMPARISON,
) -> None:
    """Compare runs: their configs, accuracies and predictions."""
    with explained():
        from cosup.report.compare import compare_runs

        text, page = compare_runs(runs, output)
        show(text)
        typer.echo(f"everything else: {page}")


@app.command()
def review(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory.")],
    number: Annotated[
        int | None,
        typer.Option("--next", metavar="N", min=1, help="Choose N images for a person to label."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option("--read", metavar="FILE", help="Read the answers (CSV or Parquet)."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first draw, instead of run.seed.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html/--no-html", help="Write a page with the images.")
    ] = True,
) -> None:
    """Ask a person about the images whose true label would tell most, and read the answers."""
    with explained():
        if (number is None) == (answers is None):
            raise UserError("give either --next N or --read FILE")
        from cosup.runs import review_run

        show(review_run(run, number, answers, seed, html))


@export_app.command("labels")
def labels_to_file(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory.")],
    form: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="csv, label-studio, cleanlab or long."),
    ] = "csv",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write, instead of one in RUN."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Write the final labels of a run for another tool.

    csv: sample_id, label, probability. label-studio: tasks with the label as a prediction, the
    least sure first. cleanlab: labels and pred_probs, as .npz. long: what every source said, as
    task, worker, label, probability.
    """
    with explained():
        from cosup.runs.export_labels import export_labels

        for line in export_labels(run, form, output, overwrite):
            typer.echo(line)


@app.command()
def predict(
    student: Annotated[
        Path,
        typer.Argument(metavar="STUDENT_OR_RUN", help="Run directory, or a student's folder."),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Image files, folders, globs, or tables with a column path."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write .csv, .jsonl or .parquet."),
    ] = None,
    team: Annotated[
        bool, typer.Option("--team", help="Answer together with the teachers, and tell who.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the rows that are written.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images predicted at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Predict the labels of images: cosup predict RUN photos -o labels.csv"""
    flags = [*(["--team"] if team else []), f"--batch-size={batch_size}", f"--device={device}"]
    where = ["-o", str(output), "--resume"]
    with explained(shlex.join(["cosup", "predict", str(student), *images, *flags, *where])):
        from cosup.runs.logs import log_to_console
        from cosup.runs.predict import Request, predict_images

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with log_to_console():
            made = predict_images(
                Request(student, images, output, team, resume, overwrite, batch_size, device)
            )
        show(made)


@app.command("ls")
def list_things(
    what: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="configs, assigners, filters, losses, sources, teachers, controls, runs",
        ),
    ] = "",
) -> None:
    """List configs, assigners, filters, losses, sources, teachers, controls or runs."""
    with explained():
        from cosup.runs.listing import list_kinds

        show(list_kinds(what or None))


@app.command()
def cat(name: ShippedName) -> None:
    """Print a config that comes with cosup."""
    with explained():
        from cosup.config.files import read_shipped

        typer.echo(read_shipped(name), nl=False)


@app.command()
def cp(
    name: ShippedName,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="New file, or a folder.")],
) -> None:
    """Copy a config that comes with cosup, to change it."""
    with explained():
        from cosup.config.files import copy_shipped

        copy = copy_shipped(name, target)
        typer.echo(f"{copy}: a copy of {name}; run it with: cosup run {shlex.quote(str(copy))}")


@contextmanager
def explained(again: str = "") -> Iterator[None]:
    """Turn exceptions into lines on stderr and an exit status.

    again: the command that resumes the run; it is printed if a run directory was open.
    """
    try:
        yield
    except UserError as error:
        for mistake in error.errors:
            say(f"error: {mistake}")
        for note in _notes(error):
            say(note)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as error:
        say(f"interrupted{_resume(error, again)}")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise
    except Exception as error:
        known = isinstance(error, RunError | OSError)
        what = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error}"
        say(f"failed: {' '.join(what.split())}{_resume(error, again)}")
        if not known and not _notes(error):
            _keep_traceback()
        raise typer.Exit(1) from None


def _again(config: Path, overrides: list[str] | None, output: str | None) -> str:
    # In a job: the command to run on the machine that submitted it.
    if again := os.environ.get("COSUP_AGAIN"):
        return again
    where = ["--output", output] if output else []
    return shlex.join(["cosup", "run", str(config), *(overrides or ()), *where, "--resume"])


def _resume(error: BaseException, again: str) -> str:
    """Return how to resume, if a run directory was open (it adds a note to the exception)."""
    notes = _notes(error)
    return f"; {notes[-1]}; resume with: {again}" if notes and again else ""


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def _keep_traceback() -> None:
    """Print the traceback on request, if no run directory has recorded it."""
    if os.environ.get("COSUP_TRACEBACK"):
        traceback.print_exc()
    else:
        say("(set COSUP_TRACEBACK=1 to see where)")


def say(line: str) -> None:
    """Print a line to stderr."""
    typer.echo(line, err=True)


def show(thing: object) -> None:
    """Print text or any renderable of rich."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(thing)
