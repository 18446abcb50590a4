"""Train a strong image classifier on the annotations of several weak, specialised teachers.

Run an experiment, and use what it made:

    run = cosup.run("quickstart")               # or a file, a mapping of settings, a Config
    print(run)                                  # what to use, and how good it is
    run.student().predict(["a.jpg", "b.jpg"])   # class probabilities
    run.labels(), run.summary, run.report()
    run = cosup.load_run("outputs/quickstart")  # later

`cosup.plan` shows what a run would do, and `cosup.validate` lists the mistakes in a config.
`cosup.CoSupervision` learns from features and annotations in arrays, in scikit-learn's manner.

`cosup.assignment`, `cosup.consistency`, `cosup.losses` and `cosup.metrics` work on tensors and can
be used in any training loop; `cosup.decide` combines them, and takes arrays of any kind.
`cosup.analysis` returns the tables of a run. Everything is imported when it is first used, so that
`import cosup` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosup.co_supervision import CoSupervision
    from cosup.config import Config, load_config
    from cosup.decisions import decide
    from cosup.errors import RunError, UserError
    from cosup.evidence import Evidence, Scopes
    from cosup.front.experiments import plan, run, validate
    from cosup.front.result import Run, load_run
    from cosup.runs.plan import Plan
    from cosup.student.exported import load_student

    __version__: str

_MODULES = ("analysis", "assignment", "consistency", "losses", "metrics")
_NAMES = {
    "CoSupervision": "cosup.co_supervision",
    "Config": "cosup.config",
    "Evidence": "cosup.evidence",
    "Plan": "cosup.runs.plan",
    "Run": "cosup.front.result",
    "RunError": "cosup.errors",
    "Scopes": "cosup.evidence",
    "UserError": "cosup.errors",
    "decide": "cosup.decisions",
    "load_config": "cosup.config",
    "load_run": "cosup.front.result",
    "load_student": "cosup.student.exported",
    "plan": "cosup.front.experiments",
    "run": "cosup.front.experiments",
    "validate": "cosup.front.experiments",
}

__all__ = [
    "CoSupervision",
    "Config",
    "Evidence",
    "Plan",
    "Run",
    "RunError",
    "Scopes",
    "UserError",
    "__version__",
    "analysis",
    "assignment",
    "consistency",
    "decide",
    "load_config",
    "load_run",
    "load_student",
    "losses",
    "metrics",
    "plan",
    "run",
    "validate",
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
