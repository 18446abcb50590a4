"""Commands that use what a run made: its student and its labels."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cosup.cli.app import app, explained, export_app, show, tell

Packages = Annotated[
    list[str] | None,
    typer.Option(
        "--package", metavar="MODULE", help="Let it import this module, whose code you trust."
    ),
]


@export_app.command(
    "labels",
    examples=(
        "cosup export labels outputs/my_project",
        "cosup export labels outputs/my_project --format label-studio -o tasks.json",
    ),
)
def labels_to_file(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory or URI.")],
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
            tell(line)


@export_app.command(
    "student",
    examples=(
        "cosup export student outputs/my_project --format onnx",
        "cosup export student outputs/my_project --push owner/name --private",
    ),
)
def student_to_file(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Directory or URI of a run or a student, or hf-hub:owner/name."
        ),
    ],
    form: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="onnx or torch_export.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write, instead of one in RUN."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Push the folder to Hugging Face's hub."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push: make a new repository private.")
    ] = False,
    package: Packages = None,
) -> None:
    """Write the student for another runtime, or push it to the Hugging Face hub.

    The network in the file takes images that are prepared and normalised, as its metadata says, and
    returns probabilities. It is read back and compared with the student.
    """
    with explained():
        from cosup.runs.export_student import Request, export_student_as

        request = Request(run, form, output, overwrite, push, private, package or ())
        for line in export_student_as(request):
            tell(line)


Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES", help="Image files, folders, globs, or tables with a column path."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write .csv, .jsonl or .parquet."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after the rows that are written.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images that a network sees at once.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]


@app.command(
    examples=(
        "cosup predict outputs/my_project photos/",
        "cosup predict outputs/my_project 'photos/*.jpg' --team -o new.parquet",
        "cosup predict outputs/my_project/student photos/ -o labels.csv --resume",
    )
)
def predict(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT_OR_RUN",
            help="Directory or URI of a run or a student, or hf-hub:owner/name.",
        ),
    ],
    images: Images,
    output: Output = None,
    team: Annotated[
        bool, typer.Option("--team", help="Answer together with the teachers, and tell who.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    package: Packages = None,
) -> None:
    """Predict the labels of images."""
    flags = [*(["--team"] if team else []), f"--batch-size={batch_size}", f"--device={device}"]
    flags += [f"--package={name}" for name in package or ()]
    where = ["-o", str(output), "--resume"]
    with explained(shlex.join(["cosup", "predict", student, *images, *flags, *where])):
        from cosup.runs.logs import log_to_console
        from cosup.runs.predict import Request, predict_images
        from cosup.stopping import stopped_by_signals

        request = Request(
            student=student,
            team=team,
            packages=package or (),
            images=images,
            output=output,
            resume=resume,
            overwrite=overwrite,
            batch_size=batch_size,
            device=device,
        )
        with stopped_by_signals(), log_to_console():
            made = predict_images(request)
        show(made)


@app.command(
    examples=(
        "cosup annotate outputs/my_project photos/ -o votes.parquet",
        "cosup annotate my.yaml photos/ -o votes.csv --set run.seed=1 --resume",
        "cosup annotate quickstart photos/ --probabilities -o votes.jsonl",
    )
)
def annotate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_OR_RUN",
            help="Run directory or URI, or a config (a file or a shipped name).",
        ),
    ],
    images: Images,
    output: Output = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the config."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write a column for each class, too.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    package: Packages = None,
) -> None:
    """Write what every teacher says of images.

    The table has a row per answer: task (the path), worker (the teacher), label, probability.
    The teachers of a config are trained first, if they need it.
    """
    sets = [f"--set={setting}" for setting in settings or ()]
    flags = [*sets, *(["--probabilities"] if probabilities else [])]
    flags += [f"--batch-size={batch_size}", f"--device={device}"]
    flags += [f"--package={name}" for name in package or ()]
    where = ["-o", str(output), "--resume"]
    with explained(shlex.join(["cosup", "annotate", source, *images, *flags, *where])):
        from cosup.runs.annotate import Request, annotate_images
        from cosup.runs.logs import log_to_console
        from cosup.stopping import stopped_by_signals

        request = Request(
            source=source,
            settings=settings or (),
            probabilities=probabilities,
            packages=package or (),
            images=images,
            output=output,
            resume=resume,
            overwrite=overwrite,
            batch_size=batch_size,
            device=device,
        )
        with stopped_by_signals(), log_to_console():
            made = annotate_images(request)
        show(made)
