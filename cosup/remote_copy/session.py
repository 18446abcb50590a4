"""Who writes at a URI: the file in which the run that wrote there last says so."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

from cosup.remote import get, join

__all__ = ["ENDED", "SESSION", "writer_of"]

SESSION = ".cosup-mirror"
"""At the URI: a file that names the staging folder that wrote there last (`cosup.runs.mirror`). In
a staging root: the folder with the records and locks of its runs."""
ENDED = "ended"
"""The key in it that says that the run is finished, so that it writes there no more. Earlier
versions of cosup left it out."""


def writer_of(uri: str) -> str | None:
    """Return the machine whose run may be writing at a URI; None if none is."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SESSION
        if not get(join(uri, SESSION), file):
            return None
        with suppress(ValueError, TypeError, KeyError):
            found = json.loads(file.read_text())
            return None if found.get(ENDED, True) else str(found["host"])
    return "another machine"
