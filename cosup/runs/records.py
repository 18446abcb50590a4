"""What a run records while it goes: scalars over steps, in `metrics.jsonl` and for TensorBoard,
and for TensorBoard alone a picture of each round's assignment, the settings and what they led to.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from cosup.config import settings
from cosup.config.files import parse_yaml
from cosup.errors import RunError
from cosup.report.routes import COLUMNS, routes_picture
from cosup.runs.scalars import METRICS, JsonLines, Scalar, Writer, earlier_scalars
from cosup.runs.tensorboard import EVENTS, Setting, TensorBoard

__all__ = ["METRICS", "Recorder", "open_recorder"]

log = logging.getLogger(__name__)

ASSIGNMENT = "assignment"
"""The pictures' tag."""
FINAL = {
    "student": ("student", "accuracy"),
    "pgr": ("student", "pgr"),
    "floor": ("floor", "accuracy"),
    "ceiling": ("ceiling", "accuracy"),
}
"""`Final/NAME` for TensorBoard, and where in the summary. Its table of runs begins with the five
metrics that come first in the alphabet, capitals before the rest."""


class Recorder:
    """Sends scalars to its writers, each (tag, step) once, and pictures to TensorBoard.

    A resumed run repeats the stage it was cut in, and so the scalars of it; those that are
    already written are not written again.
    """

    def __init__(
        self,
        writers: Sequence[Writer] = (),
        seen: Sequence[Scalar] = (),
        board: TensorBoard | None = None,
    ) -> None:
        self._writers = writers
        self._seen = {(scalar.tag, scalar.step) for scalar in seen}
        self._board = board

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Record one number."""
        if (tag, step) in self._seen:
            return
        self._seen.add((tag, step))
        scalar = Scalar(tag, float(value), int(step), time.time())
        for writer in self._writers:
            writer.write(scalar)

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Record several, as `prefix/name`."""
        for name, value in values.items():
            self.scalar(f"{prefix}/{name}", value, step)

    def assignment(self, decisions: pd.DataFrame, number: int) -> None:
        """Show which teacher a round sent which samples to."""
        if self._board is not None:
            _show_assignment(self._board, decisions, number, time.time())

    def close(self) -> None:
        """Close the writers."""
        with ExitStack() as stack:  # each of them, also where another fails
            for writer in self._writers:
                stack.callback(writer.close)


@contextmanager
def open_recorder(folder: Path) -> Iterator[Recorder]:
    """A recorder for `metrics.jsonl` and event files in a folder, going on where they stand.

    Event files are written again from what the run has on disk (`config.yaml`, `metrics.jsonl`,
    the decisions of its finished rounds, `summary.json`), which loses nothing when a process is
    killed, so that both hold the same and nothing is there twice.
    """
    earlier = earlier_scalars(folder / METRICS)
    for events in folder.glob(EVENTS):
        events.unlink()
    board = TensorBoard(folder)
    board.begin(_settings(folder / "config.yaml"), earlier[0].time if earlier else time.time())
    for scalar in earlier:
        board.write(scalar)
    _show_finished_rounds(board, folder)
    recorder = Recorder([JsonLines(folder / METRICS), board], earlier, board)
    was_finished = (folder / "summary.json").exists()
    try:
        yield recorder
        if (folder / "summary.json").exists():
            ended = earlier[-1].time if was_finished and earlier else time.time()
            _show_result(board, json.loads((folder / "summary.json").read_text()), ended)
    except BaseException:
        with suppress(RunError):  # a full disk again: the first failure is the one to tell
            board.end(False, time.time())
        with suppress(RunError):
            recorder.close()
        raise
    recorder.close()


def _settings(path: Path) -> dict[str, Setting]:
    """The settings that decide numbers, but those without a value; `a, b, c` of a list."""
    tree = parse_yaml(path.read_text(), str(path)) if path.exists() else {}
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in settings(tree).items()
        if value not in (None, {})
    }


def _show_finished_rounds(board: TensorBoard, folder: Path) -> None:
    number = 1
    while (folder / "stages" / f"round-{number}.json").exists():
        path = folder / "decisions" / f"round-{number}.parquet"
        try:
            table = pd.read_parquet(path, columns=COLUMNS)
        except (OSError, ValueError) as error:
            log.warning("no picture of round %d for TensorBoard: %s (%s)", number, path, error)
        else:
            _show_assignment(board, table, number, path.stat().st_mtime)
        number += 1


def _show_assignment(
    board: TensorBoard, decisions: pd.DataFrame, number: int, seconds: float
) -> None:
    board.image(ASSIGNMENT, routes_picture(decisions, f"round {number}"), number, seconds)


def _show_result(board: TensorBoard, summary: Mapping[str, Any], ended: float) -> None:
    for name, (part, number) in FINAL.items():
        value = summary[part][number]
        if value is not None:
            board.write(Scalar(f"Final/{name}", value, len(summary["rounds"]), ended))
    board.end(True, ended)
