"""Write the event file of a run for TensorBoard: numbers, pictures and settings.

The event file is written with TensorBoard's own messages and `RecordWriter`, not with its
`SummaryWriter`: that one writes in a thread, which prints a traceback when the disk is full, while
the run continues. The messages of the HParams plugin are those of
`torch.utils.tensorboard.summary.hparams` without `Experiment`: TensorBoard reads that of a single
run, and without it finds the settings in which runs differ.
"""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

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

from cosup.files import disk_errors
from cosup.report.routes import Picture
from cosup.runs.loggers.base import HParam, Scalar

__all__ = ["TensorBoard"]

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
