"""Remember what backbones are, so that a plan need not load them: with timm that takes seconds.

A description holds for the same settings, weights (by the file's size and time), precision and
versions of the libraries. Only plans and checks use it. A run loads its backbone, and so does a
plan with weights whose file is not known here (of a hub).
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from cosup.errors import RunError
from cosup.files import user_cache, write_atomic
from cosup.models.images import InputSpec
from cosup.models.names import HUB, weights_file
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection

__all__ = ["Described", "Description", "remember", "remembered"]

LIBRARIES = ("cosup", "timm", "torch", "torchvision")


class Described(Protocol):
    """What tells features of one backbone from those of others; a `Backbone` has it too."""

    @property
    def identity(self) -> str: ...
    @property
    def input(self) -> InputSpec: ...


@dataclass(frozen=True)
class Description:
    """A backbone's name, identity (see `Backbone`), number of features and input."""

    name: str
    identity: str
    num_features: int
    input: InputSpec


_FORMAT = TypeAdapter(Description)


def remembered(section: BackboneSection, precision: str) -> Description | None:
    """Return the description of a backbone that was loaded before; None if it is not known.

    Raises `UserError` for a file of weights that is missing.
    """
    file = _file(section, precision)
    if file is None:
        return None
    try:
        return _FORMAT.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def remember(section: BackboneSection, precision: str, description: Description) -> None:
    """Store a description, if that is possible."""
    file = _file(section, precision)
    if file is not None:
        with suppress(OSError, RunError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, _FORMAT.dump_json(description))


def _file(section: BackboneSection, precision: str) -> Path | None:
    """Return the file of a description; None for weights of a hub, which change elsewhere."""
    weights, stamp = section.weights, ""
    if weights == "pretrained" or section.name.startswith((*HUB, OPEN_CLIP)):
        return None
    if weights is not None:
        found = weights_file(weights).resolve()
        stat = found.stat()
        stamp = f"{found} {stat.st_size} {stat.st_mtime_ns}"
    versions = [version(library) for library in LIBRARIES]
    parts = json.dumps([section.hashed(), precision, stamp, versions])
    return user_cache() / "backbones" / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.json"
