"""Show a run in MLflow: curves, settings as parameters, final numbers, the report as artifact."""

import logging
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from cosup.errors import UserError, in_short
from cosup.runs.loggers.base import Ended, LoggedRun, Logger, Scalar, check_server
from cosup.secrets import mask
from cosup.settings.loggers import MLflowSettings

NUMBERS, PARAMETERS = 1000, 100
"""The most that MLflow takes at a time."""
LONGEST = 6000
"""Characters of a parameter's value, at most."""
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
FORBIDDEN = re.compile(r"[^\w/.\- :]")
"""Characters that MLflow does not take in a name."""


@dataclass
class MLflow(MLflowSettings, Logger):
    """A run of MLflow. What the server has already is asked for and not sent again."""

    def check(self) -> None:
        """Check that MLflow is installed, and that the server or the database's folder is there."""
        uri = self._uri() or ""
        place = urlsplit(uri)
        if find_spec("mlflow") is None or (
            place.scheme.startswith("sqlite") and find_spec("sqlalchemy") is None
        ):
            raise UserError(
                "needs MLflow, which is not installed (pip install '.[mlflow]')",
                key="name",
                value="mlflow",
            )
        if place.scheme in ("http", "https"):
            check_server(uri, "tracking_uri")
        elif place.scheme == "sqlite":
            folder = Path(place.path.removeprefix("/")).parent
            if not folder.is_dir():
                raise UserError(f"no folder '{folder}'", key="tracking_uri", value=uri)
        elif uri:
            try:
                _library().MlflowClient(tracking_uri=uri)
            except Exception as error:  # of many types
                raise UserError(in_short(error), key="tracking_uri", value=uri) from None

    def start(self, run: LoggedRun) -> None:
        """Continue the run of MLflow that was begun before, if it is there; else begin one."""
        mlflow = _library()
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._client: Any = mlflow.MlflowClient(tracking_uri=self._uri())
        self._run_id, known = self._resumed(run) or (self._created(run), {})
        entities = mlflow.entities
        new = {FORBIDDEN.sub("_", key): str(run.settings[key])[:LONGEST] for key in run.settings}
        parameters = [entities.Param(k, v) for k, v in new.items() if k not in known]
        for first in range(0, len(parameters), PARAMETERS):
            part = parameters[first : first + PARAMETERS]
            self._client.log_batch(self._run_id, params=part)
        self._there = {
            (key, number.step)
            for key in self._client.get_run(self._run_id).data.metrics
            for number in self._client.get_metric_history(self._run_id, key)
        }

    def _resumed(self, run: LoggedRun) -> tuple[str, dict[str, str]] | None:
        """Return the id of the run begun before and its parameters; None if it is not there."""
        memory = run.recall()
        if memory.get("tracking_uri") != mask(self._uri() or "") or "run_id" not in memory:
            return None
        run_id = str(memory["run_id"])
        try:
            found = self._client.get_run(run_id)
        except _library().exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if found.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run_id, status="RUNNING")
        return run_id, dict(found.data.params)

    def _created(self, run: LoggedRun) -> str:
        experiment = self._client.get_experiment_by_name(self.experiment)
        number = (
            self._client.create_experiment(self.experiment)
            if experiment is None
            else experiment.experiment_id
        )
        tags = {"cosup.group": run.group}
        run_id = str(self._client.create_run(number, run_name=run.name, tags=tags).info.run_id)
        run.remember({"tracking_uri": mask(self._uri() or ""), "run_id": run_id})
        return run_id

    def log(self, scalars: Sequence[Scalar], first: int) -> None:
        """Send the numbers that the server lacks; those that are not finite are left out."""
        named = [(FORBIDDEN.sub("_", one.tag), one) for one in scalars if math.isfinite(one.value)]
        new = [(tag, one) for tag, one in named if (tag, one.step) not in self._there]
        metric = _library().entities.Metric
        for start in range(0, len(new), NUMBERS):
            part = [
                metric(tag, one.value, int(1000 * one.time), one.step)
                for tag, one in new[start : start + NUMBERS]
            ]
            self._client.log_batch(self._run_id, metrics=part)
        self._there |= {(tag, one.step) for tag, one in new}

    def end(self, ended: Ended) -> None:
        """Send the files and set the status."""
        for path in ended.files:
            self._client.log_artifact(self._run_id, str(path))
        self._client.set_terminated(self._run_id, STATUS[ended.status])

    def _uri(self) -> str | None:
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")


def _library() -> ModuleType:
    import mlflow  # slow to import, and an extra

    found: ModuleType = mlflow
    return found
