"""Copy files between the staging folder of a run and its URI."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cosup.config.references import expand
from cosup.config.schema import Config
from cosup.errors import RunError, UserError, within
from cosup.files import TEMPORARY, user_cache, write_json
from cosup.layout import LOCK, MARKER, Layout
from cosup.layout.folders import is_of_shards
from cosup.manifest import MANIFEST
from cosup.remote import Place, get, is_uri, join, listing, put, remove, split
from cosup.remote_copy import ENDED, SESSION, session_at
from cosup.secrets import mask

__all__ = ["SESSION", "Staging", "has_content", "run_place", "staging_folder", "staging_root"]

log = logging.getLogger(__name__)

SLACK = 50_000_000
"""Nanoseconds by which the time of files may lag behind the clock."""
THREADS = 8
GROWING = (MANIFEST, Layout(Path()).metrics.path.name)
"""Files of a run to which lines are added."""

Stamp = tuple[int, int, int]
"""Inode, size and modification time, which change with the file or its content."""


def staging_root(output: str) -> Path:
    """Return the local folder for `run.output`: itself, or for a URI a
    folder of `COSUP_CACHE` (`~/.cache/cosup` by default)."""
    if not is_uri(output):
        return Path(output)
    key = hashlib.sha256(mask(output.partition("?")[0]).rstrip("/").encode()).hexdigest()[:16]
    return user_cache() / "runs" / key


def staging_folder(uri: str) -> Path:
    """Return the local folder in which the run at a URI is written."""
    parent, name = split(uri)
    return staging_root(parent) / name


def feature_cache(output: str) -> Path:
    """Return the folder of features that the runs of `run.output` share, unless a config has one
    (`execution.cache`)."""
    return staging_root(output) / ".cache"


def run_place(config: Config, output: str | None = None) -> Path | Place:
    """Return where a run is written: `output`, or the folder of its name in `run.output`.

    output: may refer to the environment as settings do (`${NAME}`).
    """
    if output is not None:
        with within("--output"):
            output = expand(output)
        return Place(output) if is_uri(output) else Path(output)
    base = config.run.output
    return (Place(base) if is_uri(base) else Path(base)) / config.run.name


class Staging:
    """A run in a folder of this machine, and at a URI.

    record: the file with the identity of the folder, and which of its files the URI has unchanged.
    Without it the folder cannot be used. sharded: the files of shards are written at the URI alone,
    and are not copied.
    """

    def __init__(self, uri: str, path: Path, record: Path, sharded: bool = False) -> None:
        self.uri = uri
        self.sharded = sharded
        self.name = mask(uri)
        self.path = path
        self.record = record
        self.identity = uuid.uuid4().hex
        self.pushed: dict[str, Stamp] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(record.read_text())
            pushed = {name: (int(a), int(b), int(c)) for name, (a, b, c) in kept["pushed"].items()}
            self.identity, self.pushed = str(kept["identity"]), pushed

    def state(self) -> tuple[dict[str, int], str | None]:
        """Return the files at the URI that are copied (bytes by name), and the identity of its last
        writer."""
        there = self._there()
        writer = self._writer() if there.pop(SESSION, None) is not None else None
        return there, writer

    def files(self) -> dict[str, Stamp]:
        """Return the files in the folder, without locks and temporary files."""
        return {name: stamp for name, (stamp, _) in self._scan().items()}

    def empty(self) -> None:
        """Empty the folder and give it a new identity."""
        self.record.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        self.identity, self.pushed = uuid.uuid4().hex, {}

    def clear(self, there: Iterable[str]) -> None:
        """Remove the files at the URI: summaries first, the marker of a run last."""
        if self.sharded:
            remove(join(self.uri, Layout(Path()).shards.name))
        for name in sorted(there, key=_rank, reverse=True):
            remove(join(self.uri, name))
        remove(self.uri)

    def fetch(self, there: Mapping[str, int]) -> None:
        """Copy the files from the URI that are missing here."""
        lacking = [name for name in there if not (self.path / name).exists()]
        for name in lacking:
            if ".." in PurePosixPath(name).parts:
                raise UserError(f"run.output: {self.name}: holds a file named {name}")
        if lacking:
            size = sum(there[name] for name in lacking) / 1e6
            log.info("fetching %d files, %.1f MB, from %s", len(lacking), size, self.name)
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(self._get, lacking))
        files = self.files()
        self.pushed = {name: stamp for name, stamp in self.pushed.items() if name in there}
        self.pushed |= {name: files[name] for name in lacking if name in files}

    def sign(self, ended: bool = False) -> None:
        """Become the last writer of the URI; the record is stored before. ended: the run is
        finished, and others may write beside it, such as a report."""
        self._keep()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / SESSION
            host = os.uname().nodename
            write_json(file, {"staging": self.identity, "host": host, ENDED: ended})
            put(file, join(self.uri, SESSION))

    def push(self, *, last: bool = False, finished: bool = False) -> None:
        """Copy changed files to the URI, and remove there those that were removed here.

        During a run, files that are newer than the scan of the folder wait for the next time, as a
        file that they depend on may have been missed. So the URI has the run in a state that it
        had, even if the copying is interrupted. The manifest and the scalars, which grow all the
        time, do not wait: they are copied before the files that are recorded after them.

        last: copy all files, as the run has ended. finished: also remove other files at the URI.
        """
        before = time.time_ns() - SLACK
        found = self._scan()
        changed = {
            name: at
            for name, (stamp, at) in found.items()
            if self.pushed.get(name) != stamp and (last or at < before or name in GROWING)
        }
        gone = set(self.pushed) - set(found)
        if not (changed or gone or finished):
            return
        self._check_ours()
        try:
            for name in sorted(changed, key=lambda name: (_rank(name), changed[name])):
                with suppress(FileNotFoundError):  # removed since
                    put(self.path / name, join(self.uri, name))
                    self.pushed[name] = found[name][0]
            if finished:
                gone |= set(self._there()) - set(found) - {SESSION}
            self._remove(gone)
        finally:
            self._keep()

    def drop(self) -> None:
        """Remove the folder, its record, and the place at the URI if it is empty."""
        if not set(listing(self.uri)) - {SESSION}:
            remove(self.uri)
        self.empty()

    def _there(self) -> dict[str, int]:
        there = listing(self.uri)
        return {
            name: size for name, size in there.items() if not (self.sharded and is_of_shards(name))
        }

    def _get(self, name: str) -> None:
        get(join(self.uri, name), self.path / name)

    def _remove(self, names: set[str]) -> None:
        """Remove files at the URI, and the folders that become empty."""
        for name in sorted(names, key=_rank, reverse=True):
            remove(join(self.uri, name))
            self.pushed.pop(name, None)
        for folder in {str(PurePosixPath(name).parent) for name in names} - {"."}:
            if not listing(join(self.uri, folder)):
                remove(join(self.uri, folder))

    def _writer(self) -> str | None:
        said = session_at(self.uri)
        return None if said is None else str(said.get("staging", ""))

    def _check_ours(self) -> None:
        if self._writer() != self.identity:
            raise RunError(
                f"{self.name}: another run has taken it over (or removed it), so this one copies "
                "nothing there any more"
            )

    def _keep(self) -> None:
        write_json(self.record, {"identity": self.identity, "pushed": self.pushed})

    def _scan(self) -> dict[str, tuple[Stamp, int]]:
        """Return the stamp of every file, and when it was last written or renamed."""
        found: dict[str, tuple[Stamp, int]] = {}
        for folder, _, names in os.walk(self.path):
            for name in names:
                file = Path(folder, name)
                if name == LOCK or name.endswith(TEMPORARY):
                    continue
                with suppress(FileNotFoundError):
                    is_ = file.stat()
                    stamp = (is_.st_ino, is_.st_size, is_.st_mtime_ns)
                    at = max(is_.st_ctime_ns, is_.st_mtime_ns)
                    found[file.relative_to(self.path).as_posix()] = (stamp, at)
        return found


def has_content(path: Path) -> bool:
    """Return whether a staging folder has any file of a run."""
    return any(file.is_file() and file.name != LOCK for file in path.rglob("*"))


def _rank(name: str) -> int:
    """Return the order of copying: markers and manifests first, summaries last."""
    parts, files = PurePosixPath(name), Layout(Path())
    summary = files.summary.path.name
    if parts.name == MARKER:
        return 0 if name == MARKER else 1
    if name in GROWING or parts.name == files.annotations.index.path.name:
        return 2
    return 3 if parts.name != summary else 5 if name == summary else 4
