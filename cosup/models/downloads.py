"""Weights from the hub: unpickled safely, and a download that fails is explained."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants, is_offline_mode

from cosup.errors import UserError

__all__ = ["downloads"]


@contextmanager
def downloads(name: str) -> Iterator[None]:
    """Hold downloads to safe unpickling, and explain one that fails; name: of the network."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _hub_resolves()
    try:
        yield
    except (UserError, TypeError):
        raise
    except Exception as error:  # the hub's client raises many kinds
        text = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"the pretrained weights of '{name}' can't be had ({type(error).__name__}: {text}); "
            "offline, give a file as backbone.weights (.safetensors, or a state dict)"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _hub_resolves() -> bool:
    """Whether the hub has an address: without one its client tries for most of a minute."""
    if is_offline_mode() or any(name.lower().endswith("_proxy") for name in os.environ):
        return True  # it knows, or a proxy resolves the name
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
