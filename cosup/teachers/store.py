"""The annotation store: what every teacher says about every sample, on disk, shard by shard.

One safetensors file per (split, teacher, shard), which is there whole or not at all, so that an
interrupted annotation goes on with the missing shards. `manifest.json` says, per split and teacher,
the key of the annotations (teacher, what it reads, the samples) and the classes on which it
abstains; shards under another key are stale and get replaced. Memory does not grow with N: readers
hold one shard per teacher. Probabilities are compact as in `cosup.probabilities`.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cosup.errors import RunError
from cosup.files import save_tensors
from cosup.layout import AnnotationFiles
from cosup.probabilities import ProbTable

__all__ = ["AnnotationStore", "Annotator", "StoredAnnotations"]

log = logging.getLogger(__name__)

FORMAT = 1
MAX_ELEMENTS = 2**24


class Annotator(Protocol):
    """What the store must know of a teacher."""

    @property
    def name(self) -> str:
        """Names its files."""
        ...

    @property
    def identity(self) -> str:
        """Changes whenever its annotations could."""
        ...

    @property
    def reads(self) -> str:
        """What it reads: the key of its transform or features."""
        ...

    @property
    def support(self) -> Tensor:
        """[C] bool: the classes it can name."""
        ...


@dataclass(frozen=True)
class AnnotationStore:
    """Annotations of a dataset's splits.

    directory: where the files are. fingerprint: of the samples and their order. num_classes: C.
    sizes: samples per split. shard_size: samples per file.
    """

    directory: Path
    fingerprint: str
    num_classes: int
    sizes: Mapping[str, int]
    shard_size: int = 4096

    def shards(self, split: str) -> int:
        """The number of shards of a split."""
        return -(-self.sizes[split] // self.shard_size)

    def rows(self, split: str, shard: int) -> slice:
        """The samples of a shard, as positions within the split."""
        start = shard * self.shard_size
        return slice(start, min(start + self.shard_size, self.sizes[split]))

    def missing(self, split: str, teacher: Annotator) -> list[int]:
        """Shards that this teacher has yet to annotate: absent, broken, or of another key."""
        key = self._key(split, teacher)
        shards = range(self.shards(split))
        return [shard for shard in shards if not self._holds(split, teacher.name, shard, key)]

    def write(self, split: str, teacher: Annotator, shard: int, table: ProbTable) -> None:
        """Store one shard. Raises `RunError` if the disk is full."""
        rows = self.rows(split, shard)
        if (len(table), table.num_classes) != (rows.stop - rows.start, self.num_classes):
            raise ValueError(
                f"shard {shard} of {split} has {rows.stop - rows.start} samples of "
                f"{self.num_classes} classes, not {len(table)} of {table.num_classes}"
            )
        key = self._key(split, teacher)
        self._announce(split, teacher, key)
        path = self._path(split, teacher.name, shard)
        save_tensors(path, table.tensors(), {"key": key, "classes": str(self.num_classes)})

    def read(self, split: str, name: str, shard: int) -> ProbTable:
        """One shard of one teacher. Raises `RunError` if it is missing or broken."""
        path = self._path(split, name, shard)
        try:
            table = ProbTable.from_tensors(self.num_classes, load_file(path))
        except (OSError, SafetensorError, KeyError) as error:
            raise RunError(
                f"can't read the annotations in {path}: {error}; delete the file and annotate again"
            ) from error
        rows = self.rows(split, shard)
        if len(table) != rows.stop - rows.start:
            raise RunError(
                f"{path} holds {len(table)} samples, not {rows.stop - rows.start}; "
                "delete the file and annotate again"
            )
        return table

    def level(self, split: str, names: Sequence[str]) -> "StoredAnnotations":
        """The annotations of a level's teachers, in this order."""
        return StoredAnnotations(self, split, tuple(names))

    def abstains(self, split: str, name: str) -> list[int]:
        """The classes that a teacher can't name."""
        entry = self._manifest().get(split, {}).get(name, {})
        return list(entry.get("abstains", []))

    def _path(self, split: str, name: str, shard: int) -> Path:
        return AnnotationFiles(self.directory).shard(split, name, shard).path

    def _key(self, split: str, teacher: Annotator) -> str:
        parts = (
            FORMAT,
            teacher.identity,
            teacher.reads,
            self.fingerprint,
            split,
            self.sizes[split],
            self.num_classes,
            self.shard_size,
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _holds(self, split: str, name: str, shard: int, key: str) -> bool:
        path = self._path(split, name, shard)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            return False
        return bool(metadata.get("key") == key)

    def _announce(self, split: str, teacher: Annotator, key: str) -> None:
        """Enter the teacher in the manifest, before its first shard under this key."""
        manifest = self._manifest()
        entry = manifest.setdefault(split, {}).get(teacher.name)
        if entry is not None and entry["key"] == key:
            return
        if entry is not None:
            log.info("annotations of %s by %s are stale: doing them anew", split, teacher.name)
            for file in AnnotationFiles(self.directory).shards(split, teacher.name):
                file.path.unlink()
        manifest[split][teacher.name] = {
            "key": key,
            "teacher": teacher.identity,
            "reads": teacher.reads,
            "samples": self.sizes[split],
            "shards": self.shards(split),
            "abstains": (~teacher.support).nonzero()[:, 0].tolist(),
        }
        AnnotationFiles(self.directory).manifest.write(manifest)

    def _manifest(self) -> dict[str, dict[str, Any]]:
        file = AnnotationFiles(self.directory).manifest
        return file.read() if file.exists() else {}


@dataclass(frozen=True)
class StoredAnnotations:
    """A level's annotations of one split's N samples, read from the store as they are needed."""

    store: AnnotationStore
    split: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return self.store.sizes[self.split]

    def iter_dense(self, max_elements: int = MAX_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """(rows, annotations [n, T, C] float32) in the samples' order, n T C <= max_elements."""
        step = max(1, max_elements // (len(self.names) * self.store.num_classes))
        for shard in range(self.store.shards(self.split)):
            whole = self.store.rows(self.split, shard)
            tables = [self.store.read(self.split, name, shard) for name in self.names]
            for start in range(whole.start, whole.stop, step):
                rows = slice(start, min(start + step, whole.stop))
                part = slice(rows.start - whole.start, rows.stop - whole.start)
                yield rows, _stack([table.take(part) for table in tables])

    def table(self, name: str) -> ProbTable:
        """All annotations of one teacher, compact."""
        shards = range(self.store.shards(self.split))
        if not shards:
            return ProbTable.compress(torch.zeros(0, self.store.num_classes))
        return ProbTable.concat(self.store.read(self.split, name, shard) for shard in shards)


def _stack(tables: Sequence[ProbTable]) -> Tensor:
    """Dense annotations [n, T, C]; filled in place, so that no second copy is held."""
    out = torch.empty(len(tables[0]), len(tables), tables[0].num_classes)
    for position, table in enumerate(tables):
        out[:, position] = table.dense()
    return out
