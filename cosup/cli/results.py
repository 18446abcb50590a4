"""Commands that report, compare and review runs."""

import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

from cosup.cli.app import Json, app, explained, show, show_json, tell
from cosup.errors import UserError


@app.command(
    examples=(
        "cosup report outputs/my_project",
        "cosup report outputs/my_project --text",
        "cosup report s3://bucket/runs/my_project",
        "cosup report outputs/my_project --json > report.json",
    )
)
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run directories or URIs, finished or not."),
    ],
    text: Annotated[
        bool, typer.Option("--text", help="Print the main tables instead of writing a page.")
    ] = False,
    as_json: Json = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Page to write, instead of RUN/report/index.html.",
        ),
    ] = None,
) -> None:
    """Write a page per run: did it help, and who taught what?"""
    with explained():
        if text and as_json:
            raise UserError("give either --text or --json")
        from cosup.report.command import report_page, report_tree, runs_to_report
        from cosup.report.terminal import report_text

        found = runs_to_report(runs, output, text)
        if as_json:
            show_json(report_tree(found, output))
            return
        for run in found:
            show(report_text(run)) if text else tell(report_page(run, output))


@app.command(
    examples=(
        "cosup compare outputs/quickstart outputs/quickstart_ce",
        "cosup compare outputs/a outputs/b outputs/c --format latex -o table.tex",
    )
)
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Directories or URIs of finished runs, the baseline first; a run over seeds is "
            "one of them, and a single directory may contain several.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="File to write."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Print one table: markdown, latex, csv or json.",
        ),
    ] = None,
    as_json: Json = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Compare runs, seed with seed.

    It shows what differs in their configs, accuracies and predictions.

    Every difference is that of a run minus an earlier one of the list. Writes a page
    (comparison.html), unless a format is given.
    """
    with explained():
        if as_json and form not in (None, "json"):
            raise UserError("give one of --json and --format", key=("--format",), value=form)
        from cosup.report.compare import compare_runs

        text, made = compare_runs(runs, output, "json" if as_json else form, overwrite)
        tell(text, end="") if isinstance(text, str) else show(text)
        if made is not None:
            tell(f"everything else: {made}" if text else f"comparison: {made}")


@app.command(
    examples=(
        "cosup verify outputs/my_project",
        "cosup verify outputs/my_project --repair",
    )
)
def verify(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Directory or URI of a run, or of an exported student."),
    ],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Resume the run, which makes again what is damaged or gone."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell of every file of a run if it is what was written.

    Exits with 1 unless all are known to be whole.
    """
    with explained(f"cosup verify {shlex.quote(run)} --repair" if repair else ""):
        from cosup.runs.logs import log_to_console
        from cosup.runs.verify import own_config
        from cosup.runs.verify import verify as check

        found = check(run)
        if repair and not found.is_whole:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            from cosup.cluster import run_with_backend

            config = own_config(found)
            with log_to_console():
                run_with_backend(config, found.place, resume=True)
            found = check(run)
        if as_json:
            show_json(found.tree())
        else:
            typer.echo("\n".join(found.lines()))
    if not found.is_whole:
        raise typer.Exit(1)


@app.command(
    examples=(
        "cosup review outputs/my_project --next 100",
        "cosup review outputs/my_project --read outputs/my_project/review/next.csv",
    )
)
def review(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory or URI.")],
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
    """Choose images for a person to label, and read the answers.

    The images are those whose true labels would tell most.
    """
    with explained():
        if (number is None) == (answers is None):
            raise UserError("give either --next N or --read FILE")
        from cosup.runs import review_run

        show(review_run(run, number, answers, seed, html))
