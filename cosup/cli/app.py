"""What all commands share: the app, errors as lines with an exit status, and printing."""

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer

from cosup.errors import RunError, UserError, in_short
from cosup.secrets import mask
from cosup.words import visible

PIPE_WIDTH = 160
"""The width of what is printed where there is no terminal."""

Function = TypeVar("Function", bound=Callable[..., Any])

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Log only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log details, and tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


class App(typer.Typer):
    """An app whose commands all have `-h`, `-q`, `-v` and examples in their help.

    The help is plain text, not typer's boxes, so that it reads equally well in a pipe.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
            **settings,
        )

    def command(
        self, name: str | None = None, *, examples: Sequence[str] = (), **settings: Any
    ) -> Callable[[Function], Function]:
        """Register a function as a command. examples: command lines, for the end of its help."""
        # \b: the lines of the paragraph that it begins are not joined.
        epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])
        register = super().command(name, epilog=epilog if examples else None, **settings)

        def registered(function: Function) -> Function:
            register(_with_flags(function))
            return function

        return registered


def _with_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--quiet` and `--verbose`."""

    @functools.wraps(function)
    def with_flags(*arguments: Any, quiet: bool, verbose: bool, **settings: Any) -> Any:
        with logging_as(quiet, verbose):
            return function(*arguments, **settings)

    flags = {"quiet": Quiet, "verbose": Verbose}
    signature = inspect.signature(function)
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, kind, default=False, annotation=flag)
        for name, flag in flags.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    # typer reads both.
    setattr(with_flags, "__signature__", signature.replace(parameters=parameters))  # noqa: B010
    with_flags.__annotations__ = {**function.__annotations__, **flags}
    return with_flags


app = App(help="Train an image classifier from several unreliable sources of labels.")
export_app = App(help="Write what a run has made for other tools.")
app.add_typer(export_app, name="export")


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train an image classifier from several unreliable sources of labels."""
    context.with_resource(logging_as(quiet, verbose))
    if version:
        import cosup

        typer.echo(f"cosup {cosup.__version__}")
        raise typer.Exit


@contextmanager
def logging_as(quiet: bool, verbose: bool) -> Iterator[None]:
    """Set `COSUP_LOG_LEVEL` while this is open, for this process and those that it starts."""
    if quiet and verbose:
        raise typer.BadParameter("give one of --quiet and --verbose")
    if not quiet and not verbose:
        yield
        return
    from cosup.runs.console import console_at

    with console_at("debug" if verbose else "warning"):
        yield


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
        say(f"{str(error) or 'interrupted'}{_resume(error, again)}")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise
    except Exception as error:
        known = isinstance(error, RunError | OSError)
        own = isinstance(error, RunError)
        what = " ".join(str(error).split()) if own else in_short(error, named=not known)
        say(f"failed: {what}{_resume(error, again)}")
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
    if os.environ.get("COSUP_LOG_LEVEL") == "debug":
        say(traceback.format_exc().rstrip())
    else:
        say("(use --verbose to see where)")


def say(line: str) -> None:
    """Print a line to stderr, without secrets and control characters."""
    typer.echo(visible(mask(line)), err=True)


def tell(text: str, end: str = "\n") -> None:
    """Print a text to stdout, without control characters."""
    typer.echo(visible(text) + end, nl=False)


def show(thing: object) -> None:
    """Print text or any renderable of rich.

    It is as wide as the terminal; elsewhere as `COLUMNS` says, or else 160 letters: lines of tables
    in a pipe or a log are to be found with grep, so they are not wrapped early.
    """
    from rich.console import Console

    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else PIPE_WIDTH
    if sys.stdout.isatty():
        console = Console(highlight=False)
        console.print(_Visible(thing, console))
        return
    console = Console(highlight=False, width=width)
    with console.capture() as captured:
        console.print(_Visible(thing, console))
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


@dataclass(frozen=True)
class _Visible:
    """A renderable whose text has no control characters; its styles stay."""

    thing: Any
    console: Any

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.segment import Segment

        thing = console.render_str(self.thing) if isinstance(self.thing, str) else self.thing
        for text, style, control in console.render(thing, options):
            yield Segment(text if control else visible(text), style, control)


def show_json(tree: object) -> None:
    """Print one JSON document; numbers that are not finite are null."""
    from cosup.files import to_json

    tell(to_json(tree))
