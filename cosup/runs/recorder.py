"""Record the scalars of a run in `metrics.jsonl`, and give them to the loggers of the config.

`metrics.jsonl` is the record. TensorBoard's event file is written beside it, and other loggers
(`cosup.runs.loggers`) get the numbers in the background, so that none of them can stop a run.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from cosup.config import settings
from cosup.config.loggers import DEFAULT_LOGGERS, TENSORBOARD, Loggers
from cosup.errors import RunError
from cosup.files import disk_errors
from cosup.layout import Layout
from cosup.layout.kinds import YamlFile
from cosup.layout.lines import LinesFile, line_of
from cosup.report.routes import COLUMNS, routes_picture
from cosup.runs.loggers.base import Ended, HParam, LoggedRun, Scalar
from cosup.runs.loggers.sender import Sender
from cosup.runs.loggers.tensorboard import TensorBoard
from cosup.sections import Choice

__all__ = [
    "Recorder",
    "open_recorder",
]


log = logging.getLogger(__name__)


class Writer(Protocol):
    """Writes scalars; `close` makes them durable."""

    def write(self, scalar: Scalar) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """Writes `metrics.jsonl`, each line at once; a value that is not finite is null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, scalar: Scalar) -> None:
        line = asdict(scalar)
        if not math.isfinite(scalar.value):
            line["value"] = None
        with disk_errors(self.path):
            self._file.write(line_of(line))

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()


def earlier_scalars(metrics: LinesFile) -> list[Scalar]:
    """Return the scalars of an earlier process."""
    if not metrics.exists():
        return []
    return [
        Scalar(
            item["tag"],
            math.nan if item["value"] is None else item["value"],
            item["step"],
            item["time"],
        )
        for item in metrics.read()
    ]


MOST_BYTES = 20 * 2**20
"""Size up to which a file is given to loggers."""
ASSIGNMENT = "assignment"
"""The tag of the pictures."""
FINAL = {
    "student": ("student", "accuracy"),
    "pgr": ("student", "pgr"),
    "floor": ("floor", "accuracy"),
    "ceiling": ("ceiling", "accuracy"),
}
"""The keys in the summary of each `at_end/NAME`. TensorBoard's table of runs begins with the five
metrics that come first in the alphabet."""


class Recorder:
    """Sends scalars to its writers, each (tag, step) once, and pictures to TensorBoard.

    A resumed run repeats the stage that was interrupted, with its scalars; those that are already
    written are not written again.
    """

    def __init__(
        self,
        writers: Sequence[Writer] = (),
        earlier: Sequence[Scalar] = (),
        board: TensorBoard | None = None,
    ) -> None:
        self._writers = writers
        self._written = {(scalar.tag, scalar.step) for scalar in earlier}
        self._board = board

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Record one number."""
        if (tag, step) in self._written:
            return
        self._written.add((tag, step))
        scalar = Scalar(tag, float(value), int(step), time.time())
        for writer in self._writers:
            writer.write(scalar)

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Record several, as `prefix/name`."""
        for name, value in values.items():
            self.scalar(f"{prefix}/{name}", value, step)

    def assignment(self, decisions: pd.DataFrame, number: int) -> None:
        """Write a picture of which samples a round assigned to which teacher."""
        if self._board is not None:
            _show_assignment(self._board, decisions, number, time.time())

    def close(self) -> None:
        """Close the writers."""
        with ExitStack() as stack:  # each of them, also if another one fails
            for writer in self._writers:
                stack.callback(writer.close)


@contextmanager
def open_recorder(folder: Path, loggers: Sequence[Choice] = DEFAULT_LOGGERS) -> Iterator[Recorder]:
    """Open a recorder for `metrics.jsonl` and the loggers of a run, to be continued.

    The event file is written again from `config.yaml`, `metrics.jsonl`, the decisions of finished
    rounds and `summary.json`, which lose nothing when a process is killed. So both hold the same,
    and nothing twice. Other loggers get all numbers again, and skip what they have.
    """
    files = Layout(folder)
    earlier = earlier_scalars(files.metrics)
    for events in files.events:
        events.remove()
    board = None
    if any(choice.name == TENSORBOARD for choice in loggers):
        board = _open_board(files, earlier)
    senders = _senders(files, loggers, earlier)
    shown: list[Writer] = [*([] if board is None else [board]), *senders]
    recorder = Recorder([JsonLines(files.metrics.path), *shown], earlier, board)
    was_finished = files.summary.exists()
    try:
        yield recorder
        if files.summary.exists():
            ended = earlier[-1].time if was_finished and earlier else time.time()
            _show_result(shown, files.summary.read(), ended)
            if board is not None:
                board.end(True, ended)
            for sender in senders:
                sender.ended = Ended("finished", _results(files))
    except BaseException as error:
        for sender in senders:
            stopped = isinstance(error, KeyboardInterrupt)
            sender.ended = Ended("interrupted" if stopped else "failed")
        with suppress(RunError):  # a full disk again: the first failure is raised
            if board is not None:
                board.end(False, time.time())
        with suppress(RunError):
            recorder.close()
        raise
    recorder.close()


def _open_board(files: Layout, earlier: Sequence[Scalar]) -> TensorBoard:
    """Return a new event file with everything that is recorded already."""
    board = TensorBoard(files.path)
    board.begin(_settings(files.config), earlier[0].time if earlier else time.time())
    for scalar in earlier:
        board.write(scalar)
    _show_finished_rounds(board, files)
    return board


def _senders(files: Layout, loggers: Sequence[Choice], earlier: Sequence[Scalar]) -> list[Sender]:
    """Return what delivers to each logger besides TensorBoard."""
    chosen = [choice for choice in loggers if choice.name != TENSORBOARD]
    if not chosen:
        return []
    own, found = files.config.read()["run"], _settings(files.config)
    name = f"{own['name']}-seed-{own['seed']}"
    return [
        Sender(
            choice.name,
            Loggers.build(choice),
            LoggedRun(name, own["name"], found, files.loggers / choice.name),
            earlier,
        )
        for choice in chosen
    ]


def _results(files: Layout) -> tuple[Path, ...]:
    """Return the files of a finished run that loggers show."""
    found = (files.config.path, files.summary.path, files.page)
    return tuple(path for path in found if path.exists() and path.stat().st_size <= MOST_BYTES)


def _settings(config: YamlFile) -> dict[str, HParam]:
    """Return the settings that change numbers, without empty ones; a list as `a, b, c`."""
    tree = config.read() if config.exists() else {}
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in settings(tree).items()
        if value not in (None, {})
    }


def _show_finished_rounds(board: TensorBoard, files: Layout) -> None:
    number = 1
    while files.stage(f"round-{number}").exists():
        decisions, sums = files.round(number).decisions, files.round(number).decision_sums
        try:
            if sums.exists():
                decisions, table = sums, sums.read()
            else:
                table = decisions.read(COLUMNS)
        except RunError as error:
            log.warning("no picture of round %d for TensorBoard: %s", number, error)
        else:
            _show_assignment(board, table, number, decisions.path.stat().st_mtime)
        number += 1


def _show_assignment(
    board: TensorBoard, decisions: pd.DataFrame, number: int, seconds: float
) -> None:
    board.image(ASSIGNMENT, routes_picture(decisions, f"round {number}"), number, seconds)


def _show_result(writers: Sequence[Writer], summary: Mapping[str, Any], ended: float) -> None:
    for name, (part, number) in FINAL.items():
        value = summary[part][number]
        if value is not None:
            for writer in writers:
                writer.write(Scalar(f"at_end/{name}", value, len(summary["rounds"]), ended))
