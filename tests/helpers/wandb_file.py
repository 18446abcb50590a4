"""Read the records that Weights & Biases writes offline: a LevelDB log of protobuf messages."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER, HEADER, BLOCK = 7, 7, 32768
FULL, LAST = 1, 4


def history(file: Path) -> list[dict[str, Any]]:
    """Return the rows of history, without those that hold no metric of the run's."""
    rows = []
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return rows


def records(file: Path) -> Iterator[Any]:
    """Yield the messages that are there as a whole; the file may still be written."""
    content, place, parts = file.read_bytes(), FILE_HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # the end of a block is padded
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        start, place = place + HEADER, place + HEADER + length
        if place > len(content):
            return
        parts += content[start:place]
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
