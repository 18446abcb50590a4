"""Commands that report, compare and review runs."""

from pathlib import Path
from typing import Annotated

import typer

from cosup.cli.app import app, explained, show
from cosup.errors import UserError

COMPARISON = Path("comparison.html")


@app.command(examples=("cosup report outputs/my_project", "cosup report outputs/my_project --text"))
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run directories, finished or not."),
    ],
    text: Annotated[
        bool, typer.Option("--text", help="Print the main tables instead of writing a page.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Page to write, instead of RUN/report/index.html."),
    ] = None,
) -> None:
    """Write a page per run: who taught what, and was it right?"""
    with explained():
        from cosup.report.page import report_runs

        for made in report_runs(runs, text, output):
            typer.echo(made) if isinstance(made, str) else show(made)


@app.command(
    examples=(
        "cosup compare outputs/quickstart outputs/quickstart_ce",
        "cosup compare outputs/seeds --output seeds.html",
    )
)
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
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


@app.command(
    examples=(
        "cosup review outputs/my_project --next 100",
        "cosup review outputs/my_project --read outputs/my_project/review/next.csv",
    )
)
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
    """Choose images for a person to label, and read the answers.

    The images are those whose true labels would tell most.
    """
    with explained():
        if (number is None) == (answers is None):
            raise UserError("give either --next N or --read FILE")
        from cosup.runs import review_run

        show(review_run(run, number, answers, seed, html))
