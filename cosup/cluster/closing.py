"""Things on a cluster that are ended when they are left, however they are left."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

__all__ = ["Closing"]


class Closing(AbstractContextManager[Any]):
    """Entering gives the thing itself; leaving closes it."""

    @abstractmethod
    def close(self) -> None:
        """End it; again does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
