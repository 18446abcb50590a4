"""Files that grow by a line at a time while a run is going on.

What is recorded of them in the manifest is checked as a whole. Lines that a process added before it
was killed are checked one by one, as each ends with a checksum of itself.
"""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cosup.files import write_atomic
from cosup.layout.kinds import File, damaged
from cosup.layout.schemas import Content, invalid
from cosup.manifest import Manifest
from cosup.origins import obtain

Line = dict[str, Any]
CHECK = "check"


def line_of(value: Mapping[str, Any]) -> str:
    """Return an object as a line, with its checksum and its end."""
    return json.dumps({**value, CHECK: _checksum(value)}) + "\n"


@dataclass(frozen=True)
class LinesFile(File):
    """A JSON object per line.

    content: what each must hold, at least. maker: names what writes a line.
    """

    content: Content = None
    maker: Callable[[Line], str] = lambda _: ""

    def check(self) -> None:
        """Raise `Damaged` if what is recorded of the file is not what it holds."""
        obtain(self.path)
        if self.manifest is not None and self.manifest.growth(self.path):
            super().check()

    def read(self) -> list[Line]:
        """Return the objects, without their checksums; a last line without its end is left out."""
        self.check()
        try:
            *lines, _ = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise damaged(self.path, error) from error
        found = []
        for number, line in enumerate(lines, start=1):
            value, wrong = self._parsed(line)
            if wrong:
                raise damaged(self.path, f"line {number}: {wrong}")
            found.append(value)
        return found

    def record(self) -> None:
        """Record what was added since the last call, with the makers of its lines."""
        if self.manifest is None or not self.exists():
            return
        parts = self.manifest.growth(self.path)
        with self.path.open("rb") as file:
            file.seek(parts[-1].size if parts else 0)
            *lines, _ = file.read().split(b"\n")
        makers = {self.maker(found) for found, wrong in map(self._parsed, lines) if not wrong}
        self.manifest.record_growth(self.path, "\n".join(sorted(makers)))

    def salvage(self) -> set[str] | None:
        """Keep the lines that are whole, and write the file anew if others are lost.

        Returns the makers of the lines that are lost, "" for those of lines that were not recorded
        yet; None if nothing is lost. A last line that was cut when a process was killed is removed,
        and not counted.
        """
        assert self.manifest is not None, "only a recorded file can be repaired"
        content = self.path.read_bytes() if self.exists() else b""
        parts = self.manifest.growth(self.path)
        wrong = self.manifest.damaged_parts(self.path)
        recorded = parts[-1].size if parts else 0
        *lines, cut = content[recorded:].split(b"\n")
        whole = [line for line in lines if not self._parsed(line)[1]]
        lost = {maker for part in wrong for maker in part.label.split("\n")}
        lost |= {""} if len(whole) < len(lines) else set()
        if not lost:
            if cut:
                os.truncate(self.path, len(content) - len(cut))
            return None
        kept = [part for part in parts if part not in wrong]
        pieces = [content[part.start : part.size] for part in kept]
        self._replace(self.manifest, list(zip(pieces, [part.label for part in kept], strict=True)))
        with self.path.open("ab") as file:
            file.writelines(line + b"\n" for line in whole)
        return lost

    def _replace(self, manifest: Manifest, pieces: list[tuple[bytes, str]]) -> None:
        """Write the file from its parts, and record each of them with its label."""
        write_atomic(self.path, b"".join(piece for piece, _ in pieces))
        manifest.forget(self.path)
        end = 0
        for piece, label in pieces:
            end += len(piece)
            manifest.record_growth(self.path, label, end)

    def _parsed(self, line: bytes) -> tuple[Line, str]:
        """Return a line's object, and what is wrong with it or "".

        Runs that were made before there were manifests have no checksums.
        """
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return {}, "not JSON"
        if not isinstance(found, dict):
            return {}, "not an object"
        check = found.pop(CHECK, None)
        if check != _checksum(found) and (check is not None or self._is_recorded()):
            return {}, "not what was written"
        return found, invalid(found, self.content)

    def _is_recorded(self) -> bool:
        return self.manifest is not None and self.manifest.exists()


def _checksum(value: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"
