"""Settings of loggers, which show the records of a run elsewhere, and their registry."""

from dataclasses import dataclass
from typing import Literal

from cosup.settings import Entry, Settings


@dataclass
class TensorBoardSettings(Settings):
    """An event file in the run directory: `tensorboard --logdir outputs`."""


@dataclass
class MLflowSettings(Settings):
    """A run of MLflow (extra `mlflow`): curves, settings, final numbers and the report.

    A user name and a password or a token are taken from MLflow's environment variables, or by
    reference (`tracking_uri: https://me:${PASSWORD}@host`).
    """

    tracking_uri: str | None = None
    """A server (http://...) or a database (sqlite:///mlflow.db); null is MLFLOW_TRACKING_URI, or
    else MLflow's default, a database in the working directory."""
    experiment: str = "cosup"
    """The experiment that runs are put in; it is made if there is none."""


@dataclass
class WandbSettings(Settings):
    """A run of Weights & Biases (extra `wandb`): curves, settings, final numbers and the report.

    The key is that of `wandb login` or of WANDB_API_KEY.
    """

    project: str = "cosup"
    """The project that runs are put in."""
    entity: str | None = None
    """The user or team; null is the default one of the key."""
    mode: Literal["online", "offline"] | None = None
    """`offline` writes to `loggers/wandb` in the run directory, for `wandb sync`; null is
    WANDB_MODE, or else `online`."""
    tags: list[str] | None = None
    """Tags of the run."""


LOGGERS: dict[str, Entry] = {
    "tensorboard": Entry.of(TensorBoardSettings),
    "mlflow": Entry(MLflowSettings, "cosup.runs.loggers.mlflow:MLflow"),
    "wandb": Entry(WandbSettings, "cosup.runs.loggers.wandb:Wandb"),
}
