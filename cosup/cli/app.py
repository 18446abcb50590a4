"""What all commands share: the app, errors as lines with an exit status, and printing."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train an image classifier from several unreliable sources of labels."""
    if version:
        import cosup

        typer.echo(f"cosup {cosup.__version__}")
        raise typer.Exit


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
