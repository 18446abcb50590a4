"""Train a strong image classifier on the annotations of several weak, specialised teachers.

`cosup.assignment`, `cosup.consistency`, `cosup.losses` and `cosup.metrics` work on tensors and can
be used in any training loop; `cosup.decide` combines them. `cosup.analysis` returns the tables of
a run. Everything is imported when it is first used, so that `import cosup` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosup.decisions import decide
    from cosup.evidence import Evidence, Scopes
    from cosup.student.exported import load_student

    __version__: str

_MODULES = ("analysis", "assignment", "consistency", "losses", "metrics")
_NAMES = {
    "Evidence": "cosup.evidence",
    "Scopes": "cosup.evidence",
    "decide": "cosup.decisions",
    "load_student": "cosup.student.exported",
}

__all__ = [
    "Evidence",
    "Scopes",
    "__version__",
    "analysis",
    "assignment",
    "consistency",
    "decide",
    "load_student",
    "losses",
    "metrics",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"cosup.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("cosup")
    raise AttributeError(f"module 'cosup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
