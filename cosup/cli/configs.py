"""Commands that list what there is, and give out the configs that come with cosup."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cosup.cli import complete
from cosup.cli.app import Json, app, explained, show, show_json

ShippedName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name of a config that `cosup ls configs` lists.",
        autocompletion=complete.shipped,
    ),
]


@app.command(
    "ls",
    examples=(
        "cosup ls",
        "cosup ls configs",
        "cosup ls assigners",
        "cosup ls keys rounds",
        "cosup ls keys rounds.assignment",
        "cosup ls runs --json",
        "cosup ls runs s3://bucket/runs",
    ),
)
def list_all(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="configs, assigners, consistency (its filters), losses, loggers, sources, "
            "teachers, controls, runs, or keys: every setting of a config.",
            autocompletion=complete.kinds,
        ),
    ] = "",
    section: Annotated[
        str,
        typer.Argument(
            metavar="SECTION",
            help="Of keys: a section or key of a config, such as rounds.loss. Of runs: the "
            "folder or URI that they are in, instead of outputs/.",
            autocompletion=complete.keys,
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """List configs, settings, assigners, losses, runs and the like."""
    with explained():
        from cosup.runs.listing import list_things, listing

        show_json(list_things(kind, section)) if as_json else show(listing(kind, section))


@app.command(examples=("cosup cat quickstart", "cosup cat quickstart > my.yaml"))
def cat(name: ShippedName) -> None:
    """Print a config that comes with cosup."""
    with explained():
        from cosup.config.files import read_shipped

        typer.echo(read_shipped(name), nl=False)


@app.command(examples=("cosup cp quickstart my.yaml",))
def cp(
    name: ShippedName,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="New file, or a folder.")],
) -> None:
    """Copy a config that comes with cosup, to change it."""
    with explained():
        from cosup.config.files import copy_shipped

        copy = copy_shipped(name, target)
        typer.echo(f"{copy}: a copy of {name}; run it with: cosup run {shlex.quote(str(copy))}")


@app.command(examples=("cosup init photos", "cosup init images.csv -o my.yaml"))
def init(
    path: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of images, or a table of images.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Config file to write.")
    ] = Path("my.yaml"),
) -> None:
    """Look at a folder or a table, and write a config for it."""
    with explained():
        from cosup.runs.init import init_config

        for line in init_config(path, output):
            typer.echo(line)


@app.command(examples=("cosup schema > cosup.schema.json",))
def schema() -> None:
    """Print the JSON schema of configs, with which editors complete.

    An editor with a YAML language server then completes and checks a config that has this as its
    first line:

    # yaml-language-server: $schema=cosup.schema.json
    """
    with explained():
        from cosup.config.json_schema import config_schema

        show_json(config_schema())


@app.command(examples=("cosup env", "cosup env --json"))
def env(as_json: Json = False) -> None:
    """Print what a bug report should tell: versions, devices, caches."""
    with explained():
        from cosup.runs.environment import describe_machine, machine_table

        machine = describe_machine()
        show_json(machine) if as_json else show(machine_table(machine))
