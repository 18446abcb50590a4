"""Scalars over steps: `metrics.jsonl` and TensorBoard, in one recorder."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from cosup.errors import RunError
from cosup.files import disk_errors, write_atomic

METRICS = "metrics.jsonl"
FLUSH_EVERY = 10.0
"""Seconds after which TensorBoard, if it is watching, sees what is new."""


@dataclass(frozen=True)
class Scalar:
    """One number: what it is, at which step, and when it was recorded (Unix seconds)."""

    tag: str
    value: float
    step: int
    time: float


class Writer(Protocol):
    """Takes scalars; `close` makes them durable."""

    def write(self, scalar: Scalar) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """A JSON object per line, flushed line by line; a value that isn't finite is null."""

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


class TensorBoard:
    """Event files for `tensorboard --logdir`.

    Written here, and not by torch's SummaryWriter: its thread shows a full disk as a traceback.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
        self._flushed = time.monotonic()
        with disk_errors(self.path):
            self._file = RecordWriter(self.path.open("wb"))
            self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, scalar: Scalar) -> None:
        value = Summary.Value(tag=scalar.tag, simple_value=scalar.value)
        event = Event(wall_time=scalar.time, step=scalar.step, summary=Summary(value=[value]))
        with disk_errors(self.path):
            self._add(event)
            if time.monotonic() - self._flushed > FLUSH_EVERY:
                self._flushed = time.monotonic()
                self._file.flush()

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()

    def _add(self, event: Event) -> None:
        self._file.write(event.SerializeToString())


class Recorder:
    """Sends scalars to its writers, each (tag, step) once.

    A resumed run repeats the stage it was cut in, and so the scalars of it; those that are
    already written are not written again.
    """

    def __init__(self, writers: Sequence[Writer] = (), seen: Sequence[Scalar] = ()) -> None:
        self._writers = writers
        self._seen = {(scalar.tag, scalar.step) for scalar in seen}

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

    def close(self) -> None:
        """Close the writers."""
        with ExitStack() as stack:  # each of them, also where another fails
            for writer in self._writers:
                stack.callback(writer.close)


@contextmanager
def open_recorder(folder: Path) -> Iterator[Recorder]:
    """A recorder for `metrics.jsonl` and event files in a folder, going on where they stand.

    Event files are written again from `metrics.jsonl`, which loses nothing when a process is
    killed, so that both hold the same.
    """
    earlier = _earlier(folder / METRICS)
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()
    board = TensorBoard(folder)
    for scalar in earlier:
        board.write(scalar)
    recorder = Recorder([JsonLines(folder / METRICS), board], earlier)
    try:
        yield recorder
    except BaseException:
        with suppress(RunError):  # a full disk again: the first failure is the one to tell
            recorder.close()
        raise
    recorder.close()


def _earlier(path: Path) -> list[Scalar]:
    """The scalars of an earlier process; a line that was cut by a kill is removed."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    scalars = []
    for line in lines:
        item = json.loads(line)
        value = math.nan if item["value"] is None else item["value"]
        scalars.append(Scalar(item["tag"], value, item["step"], item["time"]))
    if torn:
        write_atomic(path, b"".join(line + b"\n" for line in lines))
    return scalars
