"""The command line. Each command imports what it needs, so that `--help` and `--version` are fast.

A user error prints one line per error and exits with 2. A failure during a run prints one line with
the command that resumes the run, and exits with 1. Ctrl-C exits with 130.
"""

import os
import sys
from collections.abc import Sequence

# Importing a module adds its commands; `cosup --help` lists them in this order.
from cosup.cli import experiments, bench, results, use, configs  # isort: skip  # noqa: F401
from cosup.cli.app import app, say

__all__ = ["call", "main"]


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
