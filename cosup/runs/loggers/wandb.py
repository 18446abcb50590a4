"""Show a run in Weights & Biases: curves, settings, final numbers, the report as artifact."""

import math
import netrc
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cosup.errors import UserError
from cosup.runs.loggers.base import Ended, HParam, LoggedRun, Logger, Scalar, check_server
from cosup.settings.loggers import WandbSettings

SERVER = "https://api.wandb.ai"
STEP = "step"
"""The name of the step of a number, which is the x-axis: a row of history is one number."""


@dataclass
class Wandb(WandbSettings, Logger):
    """A run of Weights & Biases.

    The place of a number in the run's records is its row of history there. So a resumed run
    continues after the last row that the server has. Offline nothing can be asked: a resumed run
    is written anew as a whole.
    """

    def check(self) -> None:
        """Check that the library is installed and, online, that there is a key and a server."""
        if find_spec("wandb") is None:
            raise UserError(
                "needs wandb, which is not installed (pip install '.[wandb]')",
                key="name",
                value="wandb",
            )
        if self._mode() != "online":
            return
        server = os.environ.get("WANDB_BASE_URL", SERVER)
        if not _has_key(server):
            raise UserError(
                f"there is no key for {server}; run `wandb login`, or set WANDB_API_KEY",
                key="mode",
                value=self.mode,
                allowed="offline, without a key",
            )
        check_server(server, "mode")

    def start(self, run: LoggedRun) -> None:
        """Begin the run, or continue it after what the server has."""
        import wandb  # slow to import, and an extra

        memory = run.recall()
        run_id = memory.get("id") or uuid.uuid4().hex[:12]
        run.remember({"id": run_id})
        offline = self._mode() == "offline"
        if offline:
            for stale in run.folder.glob(f"wandb/offline-run-*-{run_id}"):
                shutil.rmtree(stale)
        self._run: Any = wandb.init(
            project=self.project,
            entity=self.entity,
            id=run_id,
            name=run.name,
            group=run.group,
            tags=self.tags,
            config=_nested(run.settings),
            dir=str(run.folder.absolute()),  # its service may have another working directory
            mode=self._mode(),
            resume=None if offline else "allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )
        self._rows = 0 if offline else int(self._run.step)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, scalars: Sequence[Scalar], first: int) -> None:
        """Send the numbers that are not there; those that are not finite are left out."""
        for row, one in enumerate(scalars, first):
            if row >= self._rows and math.isfinite(one.value):
                self._run.log({one.tag: one.value, STEP: one.step}, step=row)

    def end(self, ended: Ended) -> None:
        """Send the files and finish the run."""
        import wandb

        if ended.files and ended.status == "finished":
            artifact = wandb.Artifact(f"run-{self._run.id}", type="run")
            for path in ended.files:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if ended.status == "finished" else 1)

    def _mode(self) -> Any:
        return self.mode or os.environ.get("WANDB_MODE") or "online"


def _nested(settings: Mapping[str, HParam]) -> dict[str, Any]:
    """Return settings as nested sections, because keys must not hold dots."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree


def _has_key(server: str) -> bool:
    """Return whether the library will find a key for the server without asking for it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(file).authenticators(urlsplit(server).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
