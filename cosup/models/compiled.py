"""Compile a network for its training."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from cosup.errors import UserError, in_short
from cosup.models.classifier import Classifier

__all__ = ["compiled"]


@contextlib.contextmanager
def compiled(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Compile the classifiers in `module`, and restore them afterwards; `UserError` on failure."""
    if not wanted:
        yield
        return
    # Private: torch.compile has no public exception. Imported here because it is slow to import.
    from torch._dynamo.exc import TorchDynamoException

    found = [part for part in module.modules() if isinstance(part, Classifier)]
    try:
        for part in found:
            part.model.__dict__["forward"] = torch.compile(part.model.forward)
            part.__dict__["outputs"] = torch.compile(part.outputs)
        yield
    except TorchDynamoException as error:
        raise UserError(
            f"torch.compile fails ({in_short(error)}); it needs a working compiler",
            key="compile",
            value=True,
            allowed="false without a compiler",
        ) from error
    finally:
        for part in found:
            part.model.__dict__.pop("forward", None)
            part.__dict__.pop("outputs", None)
