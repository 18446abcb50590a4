"""One copy: what is at its URI, what of it is here, and how a file gets here."""

import logging
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cosup.errors import RunError, UserError
from cosup.files import write_atomic
from cosup.manifest import MANIFEST, Entry, Manifest, State
from cosup.remote import Listed, get, join, listed, put, split
from cosup.remote_copy.cache import in_use, make_room, record_of
from cosup.remote_copy.cut_back import cut_back
from cosup.remote_copy.kept import Kept, Mark, read_record, write_record
from cosup.remote_copy.session import SESSION, writer_of
from cosup.secrets import mask

__all__ = ["Copy"]

log = logging.getLogger(__name__)

PAUSES = (1.0, 3.0)
"""Seconds before a file that does not fit its manifest is read again, as the run may be written."""
THREADS = 8
"""Files that are fetched at once."""
SUMMARY = "summary.json"
"""The file that a run writes last."""


class Copy:
    """The copy of what is at a URI, in a folder of this machine (an `Origin`).

    there: what is at the URI. kept: what of it is here.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self._folder = uri, folder
        self.there: dict[str, Listed] = {}
        self.kept: dict[str, Kept] = {}
        self._ready: set[str] = set()
        self._recorded: dict[str, Mark | None] = {}
        self._entries: dict[Path, dict[str, Entry]] = {}
        self._texts: dict[str, bytes] = {}

    @property
    def folder(self) -> Path:
        """Return the local folder."""
        return self._folder

    @property
    def name(self) -> str:
        """Return the URI, to be printed."""
        return mask(self.uri)

    def place(self, name: str) -> str:
        """Return the URI of a file, or of the folder for "", to be printed."""
        return mask(join(self.uri, name)) if name else self.name

    def names(self) -> Collection[str]:
        """Return the files at the URI."""
        return self.there

    def order(self, name: str) -> float:
        """Return the place of a file in its manifest, or its time where no manifest lists it."""
        found = self._manifest_of(name)
        recorded = [] if found is None else list(found.entries())
        own = None if found is None else found.name(self.folder / name)
        if own in recorded:
            return float(recorded.index(own))
        return float(self.there[name].changed or 0)

    def refresh(self, anew: bool = False) -> None:
        """List what is at the URI, and forget what is here of files that have changed since.

        anew: forget all.
        """
        there = _listed(self.uri)
        there.pop(SESSION, None)
        if not there:
            raise UserError("there is no run, and no file", where=self.name)
        for name in there:
            if ".." in PurePosixPath(name).parts or "\0" in name:
                raise UserError(f"holds a file named {name!r}", where=self.name)
        with in_use(self.folder):
            self._entries.clear()
            self.there, self.kept = there, {} if anew else read_record(record_of(self.folder))
            self._ready, self._texts = set(), {}
            manifests = [name for name in there if PurePosixPath(name).name == MANIFEST]
            self._get([name for name in manifests if not self._is_current(name)])
            self._texts = {name: (self.folder / name).read_bytes() for name in manifests}
            self._recorded = {name: self._mark(name) for name in there}
            self._sweep()
            write_record(record_of(self.folder), self.name, self.kept)
        make_room()

    def fetch(self, names: Iterable[str]) -> None:
        """Copy files into the folder that are not in it as they are at the URI.

        Raises `RunError` if the URI cannot be read, if the run there is replaced at this moment,
        and for a file that an unfinished run has not written yet. A file that is damaged there is
        copied as it is.
        """
        names = list(names)
        for name in names:
            if name not in self.there and not (self.folder / name).is_file():
                self._check_ended(name)
        asked = [name for name in names if name in self.there]
        wanted = [n for n in asked if n not in self._ready or not (self.folder / n).is_file()]
        if not wanted:
            return
        with in_use(self.folder):
            self._entries.clear()
            lacking = [n for n in wanted if not self._is_current(n) or self._is_damaged(n)]
            if lacking:
                size = sum(self.there[name].size for name in lacking)
                self._get(lacking)
                self._settle(lacking)
                write_record(record_of(self.folder), self.name, self.kept)
                files = f"{len(lacking)} file{'s' if len(lacking) > 1 else ''}"
                log.debug("fetched %s, %d bytes, from %s", files, size, self.name)
            self._ready |= set(wanted)

    def put_back(self, written: Path) -> None:
        """Copy to the URI what was written into the copy: a file, or the files of a folder.

        The manifest that records them goes first, as in a run. Raises `RunError` if the URI cannot
        be written, or if a run may be writing there: its own files and manifest would be lost.
        """
        files = [written] if written.is_file() else sorted(written.rglob("*"))
        names = [self._name(path) for path in files if path.is_file()]
        with in_use(self.folder):
            self._entries.clear()
            changed = [name for name in names if self._is_other(name)]
            marked = [name for name in changed if self._mark(name) is not None]
            manifests = [found for name in marked if (found := self._manifest_of(name)) is not None]
            recorded = sorted({self._name(manifest.path) for manifest in manifests})
            self._check_free(written, recorded)
            for name in [*recorded, *changed]:
                put(self.folder / name, join(self.uri, name))
            now = _listed(self.uri)
            self.there |= {n: now[n] for n in [*self.there, *changed] if n in now}
            self._texts |= {name: (self.folder / name).read_bytes() for name in recorded}
            self._note([name for name in [*recorded, *changed] if name in self.there])
            self._recorded |= {name: self._mark(name) for name in changed}
            write_record(record_of(self.folder), self.name, self.kept)

    def _check_free(self, written: Path, manifests: Iterable[str]) -> None:
        """Raise `RunError` if a run may be writing at the URI, or has written since it was read."""
        folders = [folder.as_posix() for folder in PurePosixPath(self._name(written)).parents]
        runs = [join(self.uri, name) for name in folders if f"{name}/{MANIFEST}" in self.there]
        hosts = [writer_of(uri) for uri in (self.uri, *runs)]
        with suppress(UserError, RunError):  # the URI may be that of a seed of a run
            hosts.append(writer_of(split(self.uri)[0]))
        for host in filter(None, hosts):
            raise RunError(f"a run on {host} may be writing there", where=self.name)
        for name in manifests:
            if not (self.folder / name).read_bytes().startswith(self._text(name)):
                raise RunError("it has changed since it was read", where=self.name)

    def _get(self, names: Iterable[str]) -> None:
        """Copy files from the URI, several at once."""
        names = list(names)
        with ThreadPoolExecutor(THREADS) as threads:
            found = list(threads.map(self._got, names))
        if not all(found):
            gone = names[found.index(False)]
            raise RunError(f"{gone} was removed while it was read; try again", where=self.name)
        self._note(names)

    def _got(self, name: str) -> bool:
        return get(join(self.uri, name), self.folder / name)

    def _note(self, names: Iterable[str]) -> None:
        """Record how files were fetched; those that are damaged are fetched again next time."""
        self._entries.clear()
        for name in names:
            found = self.there[name]
            self.kept[name] = Kept(found.size, found.changed, self._mark(name))
            if self._is_damaged(name):
                del self.kept[name]

    def _settle(self, names: list[str]) -> None:
        """Fetch files again that are not what their manifest says, and at last cut it back."""
        wrong = [name for name in names if self._is_damaged(name)]
        for pause in PAUSES:
            if not wrong:
                return
            before = dict(self._texts)
            self._read_manifests(wrong)
            if before == self._texts and all(map(self._has_ended, wrong)):
                return  # nobody writes there: they are damaged
            time.sleep(pause)
            now = _listed(self.uri)
            self.there = {name: now.get(name, found) for name, found in self.there.items()}
            self._get(wrong)
            wrong = [name for name in wrong if self._is_damaged(name)]
        for name in wrong:
            manifest = self._manifest_of(name)
            if manifest is not None and cut_back(manifest, self.folder / name):
                log.info("%s is being written: its state before that is read", self.place(name))
                self.kept.pop(self._name(manifest.path), None)  # to be fetched again next time
                self._note([name])

    def _has_ended(self, name: str) -> bool:
        """Return whether the run that a file belongs to is finished."""
        return any(
            (above / SUMMARY).as_posix() in self.there for above in PurePosixPath(name).parents
        )

    def _check_ended(self, name: str) -> None:
        """Raise `RunError` about a file that is not there if its run is not finished."""
        if not self._has_ended(name):
            raise RunError("is not there yet: the run is not finished", where=self.place(name))

    def _read_manifests(self, names: Iterable[str]) -> None:
        """Fetch the manifests of files again. Raises `RunError` if one was written anew."""
        found = {self._name(m.path) for n in names if (m := self._manifest_of(n)) is not None}
        for name in found:
            text = self._text(name)
            if not text.startswith(self._texts[name]):
                problem = "the run was resumed or replaced while it was read; try again"
                raise RunError(problem, where=self.name)
            write_atomic(self.folder / name, text)
            self._texts[name] = text
        self._entries.clear()

    def _text(self, name: str) -> bytes:
        """Return a file at the URI."""
        file = self.folder.with_name(f".{self.folder.name}.text")
        if not get(join(self.uri, name), file):
            raise RunError(f"{name} was removed while it was read; try again", where=self.name)
        text = file.read_bytes()
        file.unlink()
        return text

    def _is_current(self, name: str) -> bool:
        """Return whether a file is here as it is at the URI."""
        kept, found = self.kept.get(name), self.there[name]
        path = self.folder / name
        if kept is None or not path.is_file() or path.stat().st_size != kept.size:
            return False
        mark = self._mark(name)
        if (kept.size, kept.changed) != (found.size, found.changed):
            return False
        if mark is None or PurePosixPath(name).name == MANIFEST:
            return found.changed is not None
        return kept.mark == mark

    def _is_other(self, name: str) -> bool:
        """Return whether a file here is another than the one at the URI."""
        mark = self._mark(name)
        return mark is None or name not in self.there or self._recorded.get(name) != mark

    def _is_damaged(self, name: str) -> bool:
        manifest = self._manifest_of(name)
        return manifest is not None and manifest.state(self.folder / name) is State.DAMAGED

    def _mark(self, name: str) -> Mark | None:
        """Return what the manifest says of a file."""
        manifest = self._manifest_of(name)
        if manifest is None:
            return None
        if manifest.folder not in self._entries:
            self._entries[manifest.folder] = manifest.entries()
        found = self._entries[manifest.folder].get(manifest.name(self.folder / name))
        return None if found is None else (found.size, found.sha256)

    def _manifest_of(self, name: str) -> Manifest | None:
        """Return the manifest that lists a file: the one in the nearest folder above."""
        for above in PurePosixPath(name).parents:
            own = (above / MANIFEST).as_posix()
            if own != name and own in self.there:
                return Manifest(self.folder / above)
        return None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _sweep(self) -> None:
        """Remove what is here of files that are not at the URI, or are others there."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()
                continue
            name = self._name(path)
            is_manifest = name in self._texts  # which has just been fetched
            if not is_manifest and not (name in self.there and self._is_current(name)):
                path.unlink()
                self.kept.pop(name, None)
        self.kept = {name: kept for name, kept in self.kept.items() if name in self.there}


def _listed(uri: str) -> dict[str, Listed]:
    try:
        return listed(uri)
    except UserError as error:
        raise error.at(()) from error  # the URI is in no setting
