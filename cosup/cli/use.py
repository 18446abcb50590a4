"""Commands that use what a run made: its student and its labels."""

import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

from cosup.cli.app import app, explained, export_app, show


@export_app.command(
    "labels",
    examples=(
        "cosup export labels outputs/my_project",
        "cosup export labels outputs/my_project --format label-studio -o tasks.json",
    ),
)
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


@app.command(
    examples=(
        "cosup predict outputs/my_project photos/",
        "cosup predict outputs/my_project 'photos/*.jpg' --team -o new.parquet",
        "cosup predict outputs/my_project/student photos/ -o labels.csv --resume",
    )
)
def predict(
    student: Annotated[
        Path,
        typer.Argument(metavar="STUDENT_OR_RUN", help="Run directory, or a student's folder."),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES", help="Image files, folders, globs, or tables with a column path."
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
    """Predict the labels of images."""
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
