"""The registry of loggers, and the setting that chooses them (`run.loggers`)."""

from typing import TYPE_CHECKING, Annotated

from cosup.registry import Registry
from cosup.sections import Choice
from cosup.settings.loggers import LOGGERS

if TYPE_CHECKING:
    from cosup.runs.loggers.base import Logger

__all__ = ["DEFAULT_LOGGERS", "TENSORBOARD", "LoggerChoice", "Loggers"]

Loggers: "Registry[Logger]" = Registry("logger", LOGGERS, "cosup.loggers")
LoggerChoice = Annotated[Choice, Loggers]

TENSORBOARD = "tensorboard"
"""The logger that the recorder itself writes."""
DEFAULT_LOGGERS = (Loggers.check(TENSORBOARD),)
