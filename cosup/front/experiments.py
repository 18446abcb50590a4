"""Run, plan and check an experiment from Python, as `cosup run`, `plan` and `validate` do."""

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from cosup.config import Config, read_config
from cosup.config.load import Given
from cosup.errors import UserError

if TYPE_CHECKING:
    from cosup.front.result import Run
    from cosup.runs.plan import Plan

__all__ = ["plan", "run", "validate"]

IN_PYTHON = {"--resume": "resume=True", "--overwrite": "overwrite=True", "--output": "output=..."}
"""How the options that errors speak of are written in Python."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _in_python(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let the errors of a function speak of arguments, not of the command line's options.

    The traceback of a user's mistake ends here: where in cosup it was found helps nobody.
    """

    @functools.wraps(function)
    def explained(*args: Arguments.args, **settings: Arguments.kwargs) -> Result:
        try:
            return function(*args, **settings)
        except UserError as error:
            for mistake in error.errors:
                mistake.problem = _reworded(mistake.problem)
            _reword_notes(error)
            raise error.with_traceback(None) from None
        except BaseException as error:
            _reword_notes(error)
            if getattr(error, "__notes__", None):  # a run directory was open
                error.add_note("continue with the same call and resume=True")
            raise

    return explained


def _reword_notes(error: BaseException) -> None:
    if notes := getattr(error, "__notes__", None):
        error.__notes__ = [_reworded(note) for note in notes]


def _reworded(text: str) -> str:
    return re.sub("|".join(IN_PYTHON), lambda found: IN_PYTHON[found[0]], text)


@_in_python
def run(
    config: Given,
    *overrides: str,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> "Run":
    """Run an experiment and return its result; the numbers are those of `cosup run`.

        run = cosup.run("quickstart", "data.limit=400", "run.seed=1")
        print(run)                                  # what to use, and how good it is
        run.accuracy, run.summary                   # all numbers
        run.student().predict(["a.jpg", "b.jpg"])   # class probabilities [2, C]
        run.labels()                                # a final label for every unlabelled image

    A config can be written in Python, and extend another:

        mine = {"base": "quickstart", "run": {"name": "mine"}, "data": {"limit": 400}}
        run = cosup.run(mine, "rounds.assignment=gate", resume=True)

    config: the name of a config that comes with cosup (`cosup ls configs`), the path of a YAML
    file, a nested mapping of settings, in which paths, tuples and NumPy's numbers are allowed, or a
    `cosup.Config`.

    overrides: settings to change, each as "section.key=value", with the value as in YAML.

    output: the run's directory, or a URI such as s3://bucket/run; None is the folder `run.name` in
    `run.output`, such as outputs/quickstart.

    resume: go on with the run that is there, start it if there is none, and return it if it is
    finished. So a notebook can be executed again. overwrite: replace the run that is there.

    quiet: show only warnings. The log is shown below the cell of a notebook, and on stderr
    elsewhere, unless handlers of `logging` are configured: then these get it (logger `cosup`).

    Returns the run. With `run.seeds` or `rounds.losses` it has the means over seeds in `summary`,
    and the single runs in `runs`.

    Raises `cosup.UserError` for mistakes in the config, the data or the arguments, before anything
    is written; its message has a line for each mistake, and `errors` holds them one by one. Raises
    `cosup.RunError` for a failure that no check could foresee, such as a full disk. What is
    finished is kept then, and after a `KeyboardInterrupt`, and `resume=True` goes on from there.
    """
    # As in the command line: before torch is imported, where it is not yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from cosup.cluster import run_with_backend
    from cosup.front.result import opened
    from cosup.runs import ready

    where = None if output is None else os.path.expanduser(output)
    checked, place = ready(read_config(config, overrides), where)
    with _shown_log(quiet):
        run_with_backend(checked, place, resume, overwrite)
    return opened(place)


@_in_python
def plan(config: Given, *overrides: str) -> "Plan":
    """Return what a run would train, annotate and cache, without running it.

    `print` and a notebook show it as `cosup plan` does, and its attributes are the numbers:
    `plan.samples.splits["test"].samples`. config, overrides: as for `cosup.run`.

    Raises `cosup.UserError` with every mistake in the config, the data and the files that it names.
    """
    from cosup.runs import plan_config

    return plan_config(read_config(config, overrides))


@_in_python
def validate(config: Given, *overrides: str) -> Config:
    """Check the settings of a config and the files, folders and networks that they name.

    No image is looked at. config, overrides: as for `cosup.run`. Returns the config with defaults
    filled in. Raises `UserError` with every mistake.
    """
    from cosup.runs.checks import check_config

    draft = read_config(config, overrides)
    check_config(draft)
    return draft.checked()


@contextmanager
def _shown_log(quiet: bool) -> Iterator[None]:
    """Show the log, unless handlers of the user get it: these get what they would get otherwise."""
    from cosup.runs.bars import progress_shown
    from cosup.runs.console import console_at
    from cosup.runs.logs import log_to_console

    logger = logging.getLogger("cosup")
    if not logger.hasHandlers():
        with console_at("warning") if quiet else nullcontext(), log_to_console():
            yield
        return
    # A run lowers the level of the logger, for the sake of its log.txt.
    level = max(logger.getEffectiveLevel(), logging.WARNING if quiet else logging.NOTSET)

    def asked_for(record: logging.LogRecord) -> bool:
        return record.levelno >= level or record.name.partition(".")[0] != logger.name

    handlers = [*logger.handlers, *logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(asked_for)
    try:
        with progress_shown():
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(asked_for)
