"""Record the scalars of a run in `metrics.jsonl` and, with pictures and settings, for TensorBoard.

The event file is written with TensorBoard's own messages and `RecordWriter`, not with its
`SummaryWriter`: that one writes in a thread, which prints a traceback when the disk is full, while
the run continues. The messages of the HParams plugin are those of
`torch.utils.tensorboard.summary.hparams` without `Experiment`: TensorBoard reads that of a single
run, and without it finds the settings in which runs differ.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import (
    PLUGIN_DATA_VERSION,
    PLUGIN_NAME,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboard.summary.writer.record_writer import RecordWriter

from cosup.config import settings
from cosup.errors import RunError
from cosup.files import disk_errors
from cosup.layout import Layout, LinesFile, YamlFile
from cosup.report.routes import COLUMNS, Picture, routes_picture

__all__ = [
    "Recorder",
    "open_recorder",
]


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scalar:
    """A number with its tag, step and time (Unix seconds)."""

    tag: str
    value: float
    step: int
    time: float


class Writer(Protocol):
    """Writes scalars; `close` makes them durable."""

    def write(self, scalar: Scalar) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """Writes a JSON object per line, each at once; a value that is not finite is null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, scalar: Scalar) -> None:
        line = asdict(scalar)
        if not math.isfinite(scalar.value):
            line["value"] = None
        with disk_errors(self.path):
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()


def earlier_scalars(metrics: LinesFile) -> list[Scalar]:
    """Return the scalars of an earlier process; a line that was cut by a kill is removed."""
    if not metrics.exists():
        return []
    metrics.repair()
    return [
        Scalar(
            item["tag"],
            math.nan if item["value"] is None else item["value"],
            item["step"],
            item["time"],
        )
        for item in metrics.read()
    ]


HParam = bool | int | float | str

EVENTS = "events.out.tfevents.*"
FLUSH_EVERY = 10.0
"""Seconds between flushes, after which TensorBoard can read new events."""
RGBA = 4


class TensorBoard:
    """Writes the event file of a run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
        self._flushed = time.monotonic()
        with disk_errors(self.path):
            self._file = RecordWriter(self.path.open("wb"))
            self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, scalar: Scalar) -> None:
        """Write a number."""
        value = Summary.Value(tag=scalar.tag, simple_value=scalar.value)
        self._show(value, scalar.step, scalar.time)

    def image(self, tag: str, picture: Picture, step: int, seconds: float) -> None:
        """Write a picture at a step, made at `seconds` (Unix)."""
        image = Summary.Image(
            height=picture.height,
            width=picture.width,
            colorspace=RGBA,
            encoded_image_string=picture.png,
        )
        self._show(Summary.Value(tag=tag, image=image), step, seconds)

    def begin(self, settings: Mapping[str, HParam], seconds: float) -> None:
        """Write the hyperparameters of the run, which began at `seconds` (Unix)."""
        info = SessionStartInfo(start_time_secs=seconds)
        for key, value in settings.items():
            if isinstance(value, bool):
                info.hparams[key].bool_value = value
            elif isinstance(value, str):
                info.hparams[key].string_value = value
            elif math.isfinite(value):
                info.hparams[key].number_value = value
        self._plugin(SESSION_START_INFO_TAG, {"session_start_info": info}, seconds)

    def end(self, succeeded: bool, seconds: float) -> None:
        """Write that the run ended at `seconds` (Unix)."""
        status = STATUS_SUCCESS if succeeded else STATUS_FAILURE
        info = SessionEndInfo(status=status, end_time_secs=seconds)
        self._plugin(SESSION_END_INFO_TAG, {"session_end_info": info}, seconds)

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()

    def _plugin(self, tag: str, content: Mapping[str, object], seconds: float) -> None:
        data = HParamsPluginData(version=PLUGIN_DATA_VERSION, **content)
        plugin = SummaryMetadata.PluginData(
            plugin_name=PLUGIN_NAME, content=data.SerializeToString()
        )
        value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
        self._show(value, 0, seconds)

    def _show(self, value: Summary.Value, step: int, seconds: float) -> None:
        event = Event(wall_time=seconds, step=step, summary=Summary(value=[value]))
        with disk_errors(self.path):
            self._add(event)
            if time.monotonic() - self._flushed > FLUSH_EVERY:
                self._flushed = time.monotonic()
                self._file.flush()

    def _add(self, event: Event) -> None:
        self._file.write(event.SerializeToString())


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
def open_recorder(folder: Path) -> Iterator[Recorder]:
    """Open a recorder for `metrics.jsonl` and the event file of a run, to be continued.

    The event file is written again from `config.yaml`, `metrics.jsonl`, the decisions of finished
    rounds and `summary.json`, which lose nothing when a process is killed. So both hold the same,
    and nothing twice.
    """
    files = Layout(folder)
    earlier = earlier_scalars(files.metrics)
    for events in folder.glob(EVENTS):
        events.unlink()
    board = TensorBoard(folder)
    board.begin(_settings(files.config), earlier[0].time if earlier else time.time())
    for scalar in earlier:
        board.write(scalar)
    _show_finished_rounds(board, files)
    recorder = Recorder([JsonLines(files.metrics.path), board], earlier, board)
    was_finished = files.summary.exists()
    try:
        yield recorder
        if files.summary.exists():
            ended = earlier[-1].time if was_finished and earlier else time.time()
            _show_result(board, files.summary.read(), ended)
    except BaseException:
        with suppress(RunError):  # a full disk again: the first failure is raised
            board.end(False, time.time())
        with suppress(RunError):
            recorder.close()
        raise
    recorder.close()


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
        decisions = files.round(number).decisions
        try:
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


def _show_result(board: TensorBoard, summary: Mapping[str, Any], ended: float) -> None:
    for name, (part, number) in FINAL.items():
        value = summary[part][number]
        if value is not None:
            board.write(Scalar(f"at_end/{name}", value, len(summary["rounds"]), ended))
    board.end(True, ended)
