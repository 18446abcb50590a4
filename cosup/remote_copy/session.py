"""Who writes at a URI: the file in which the run that wrote there last says so."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from cosup.remote import get, join

__all__ = ["ENDED", "SESSION", "session_at", "writer_of"]

SESSION = ".cosup-mirror"
"""At the URI: a file that names the staging folder that wrote there last (`cosup.runs.mirror`). In
a staging root: the folder with the records and locks of its runs."""
ENDED = "ended"
"""The key in it that says that the run is finished, so that it writes there no more. Earlier
versions of cosup left it out."""


def session_at(uri: str) -> dict[str, Any] | None:
    """Return what the last writer at a URI has said; {} if it cannot be read, None if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SESSION
        if not get(join(uri, SESSION), file):
            return None
        with suppress(ValueError, TypeError):
            return dict(json.loads(file.read_text()))
    return {}


def writer_of(uri: str) -> str | None:
    """Return the machine whose run may be writing at a URI; None if none is."""
    said = session_at(uri)
    if said is None or said.get(ENDED, bool(said)):
        return None
    return str(said.get("host", "another machine"))
