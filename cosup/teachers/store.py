"""The annotation store: the annotations of all teachers on disk, in shards.

There is one safetensors file per (split, teacher, shard). Files are written atomically, so an
interrupted annotation resumes with the missing shards. The index, `manifest.json`, has, per split
and teacher, the key of the annotations (a hash of teacher, inputs and samples) and the classes on
which the teacher abstains; shards with another key are stale and are replaced. Memory does not grow
with N: readers hold one shard per teacher. Probabilities are compact as in `cosup.probabilities`.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cosup.layout.folders import AnnotationFiles
from cosup.layout.kinds import ProbFile
from cosup.models.compute import Precision
from cosup.probabilities import ProbTable

__all__ = ["AnnotationStore", "Annotator", "StoredAnnotations"]

log = logging.getLogger(__name__)

STORE_FORMAT = 2
ELEMENTS_PER_READ = 2**24


class Annotator(Protocol):
    """The attributes of a teacher that the store uses."""

    @property
    def name(self) -> str:
        """Its name, which names its files."""
        ...

    @property
    def identity(self) -> str:
        """A hash that changes whenever its annotations could."""
        ...

    @property
    def reads(self) -> str:
        """The key of its inputs: of a transform or of features."""
        ...

    @property
    def support(self) -> Tensor:
        """[C] bool: the classes in its scope."""
        ...


@dataclass(frozen=True)
class AnnotationStore:
    """Annotations of the splits of a dataset.

    directory: folder of the files. fingerprint: hash of the samples and their order. num_classes:
    C. sizes: samples per split. shard_size: samples per file. precision: of the networks' forward
    passes. fingerprints: of splits whose samples are not those of `fingerprint`.
    """

    directory: Path
    fingerprint: str
    num_classes: int
    sizes: Mapping[str, int]
    shard_size: int = 4096
    precision: Precision = "float32"
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    _announced: dict[tuple[str, str], str] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The keys by split and teacher that this process knows to be in the index, which grows with
    teachers times classes, and would otherwise be read for every shard."""

    def shards(self, split: str) -> int:
        """Return the number of shards of a split."""
        return -(-self.sizes[split] // self.shard_size)

    def rows(self, split: str, shard: int) -> slice:
        """Return the samples of a shard, as positions in the split."""
        start = shard * self.shard_size
        return slice(start, min(start + self.shard_size, self.sizes[split]))

    def missing(self, split: str, teacher: Annotator) -> list[int]:
        """Return the shards that this teacher must annotate: absent, broken or stale ones.

        Stale ones are removed, and the teacher is in the index afterwards.
        """
        key = self._key(split, teacher)
        self._announce(split, teacher, key)
        shards = range(self.shards(split))
        return [shard for shard in shards if not self._holds(split, teacher.name, shard, key)]

    def write(self, split: str, teacher: Annotator, shard: int, table: ProbTable) -> None:
        """Write one shard. Raises `RunError` if the disk is full."""
        rows = self.rows(split, shard)
        if (len(table), table.num_classes) != (rows.stop - rows.start, self.num_classes):
            raise ValueError(
                f"shard {shard} of {split} has {rows.stop - rows.start} samples of "
                f"{self.num_classes} classes, not {len(table)} of {table.num_classes}"
            )
        key = self._key(split, teacher)
        self._announce(split, teacher, key)
        about = {"key": key, "classes": str(self.num_classes)}
        self._shard(split, teacher.name, shard).write(table, about)

    def read(self, split: str, name: str, shard: int) -> ProbTable:
        """Read one shard of one teacher. Raises `Damaged` if it is missing or broken."""
        rows = self.rows(split, shard)
        return self._shard(split, name, shard).read(self.num_classes, rows.stop - rows.start)

    def level(self, split: str, names: Sequence[str]) -> "StoredAnnotations":
        """Return the annotations of a level's teachers, in this order."""
        return StoredAnnotations(self, split, tuple(names))

    def abstains(self, split: str, name: str) -> list[int]:
        """Return the classes on which a teacher abstains."""
        entry = self._index().get(split, {}).get(name, {})
        return list(entry.get("abstains", []))

    def note(self, split: str, name: str, **facts: float) -> None:
        """Keep facts about the annotations of a teacher, until they are made anew."""
        index = self._index()
        index[split][name]["facts"] = facts
        AnnotationFiles(self.directory).index.write(index)

    def noted(self, split: str, name: str) -> dict[str, float]:
        """Return the facts that were kept about a teacher's annotations."""
        entry = self._index().get(split, {}).get(name, {})
        return dict(entry.get("facts", {}))

    def _shard(self, split: str, name: str, shard: int) -> ProbFile:
        return AnnotationFiles(self.directory).shard(split, name, shard)

    def _key(self, split: str, teacher: Annotator) -> str:
        parts = (
            STORE_FORMAT,
            teacher.identity,
            teacher.reads,
            self.fingerprints.get(split, self.fingerprint),
            split,
            self.sizes[split],
            self.num_classes,
            self.shard_size,
            *([self.precision] if self.precision != "float32" else []),
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _holds(self, split: str, name: str, shard: int, key: str) -> bool:
        try:
            with safe_open(self._shard(split, name, shard).path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            return False
        return bool(metadata.get("key") == key)

    def _announce(self, split: str, teacher: Annotator, key: str) -> None:
        """Add the teacher to the index before its first shard with this key is written."""
        if self._announced.get((split, teacher.name)) == key:
            return
        index = self._index()
        entry = index.setdefault(split, {}).get(teacher.name)
        if entry is not None and entry["key"] == key:
            self._announced[split, teacher.name] = key
            return
        if entry is not None:
            log.info("annotations of %s by %s are stale: annotating again", split, teacher.name)
            for file in AnnotationFiles(self.directory).shards(split, teacher.name):
                file.remove()
        index[split][teacher.name] = {
            "key": key,
            "teacher": teacher.identity,
            "reads": teacher.reads,
            "samples": self.sizes[split],
            "shards": self.shards(split),
            "abstains": (~teacher.support).nonzero()[:, 0].tolist(),
        }
        AnnotationFiles(self.directory).index.write(index)
        self._announced[split, teacher.name] = key

    def _index(self) -> dict[str, dict[str, Any]]:
        file = AnnotationFiles(self.directory).index
        return file.read() if file.exists() else {}


@dataclass(frozen=True)
class StoredAnnotations:
    """A level's annotations of the N samples of a split, read from the store when needed."""

    store: AnnotationStore
    split: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return self.store.sizes[self.split]

    def iter_dense(self, max_elements: int = ELEMENTS_PER_READ) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, annotations [n, T, C] float32) in order, with n T C <= max_elements."""
        step = max(1, max_elements // (len(self.names) * self.store.num_classes))
        for shard in range(self.store.shards(self.split)):
            whole = self.store.rows(self.split, shard)
            tables = [self.store.read(self.split, name, shard) for name in self.names]
            for start in range(whole.start, whole.stop, step):
                rows = slice(start, min(start + step, whole.stop))
                part = slice(rows.start - whole.start, rows.stop - whole.start)
                yield rows, _stack([table.take(part) for table in tables])

    def table(self, name: str) -> ProbTable:
        """Return all annotations of one teacher, compact."""
        shards = range(self.store.shards(self.split))
        if not shards:
            return ProbTable.compress(torch.zeros(0, self.store.num_classes))
        return ProbTable.concat(self.store.read(self.split, name, shard) for shard in shards)


def _stack(tables: Sequence[ProbTable]) -> Tensor:
    """Return dense annotations [n, T, C], filled in place to avoid a second copy."""
    out = torch.empty(len(tables[0]), len(tables), tables[0].num_classes)
    for position, table in enumerate(tables):
        out[:, position] = table.dense()
    return out
