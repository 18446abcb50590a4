"""The front door in Python: run an experiment, and use what it made.

`import cosup` has these names: `cosup.run`, `cosup.plan`, `cosup.validate`, `cosup.load_run`.
"""

from cosup.front.experiments import plan, run, validate
from cosup.front.result import Run, load_run

__all__ = ["Run", "load_run", "plan", "run", "validate"]
