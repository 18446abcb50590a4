"""The cluster that is started on this machine for one run, closed to others as far as Ray can.

Ray listens on all interfaces of the machine, which no public setting changes, and whoever reaches
its ports can run code. So each such cluster demands a token that only this process and those that
it starts have, and keeps its files in a folder of this user alone, which is removed at its end
(Ray's own folder is writable by everyone).

Ray reads whether to demand a token when it is imported, and from version 2.59 on turns it on by
itself when it starts a cluster. So `private_session` is entered before Ray is imported.
"""

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["private_session"]

log = logging.getLogger(__name__)

MODE, TOKEN, TOKEN_FILE, FOLDER = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_TMPDIR",
)
"""Environment variables of Ray."""


BY_DEFAULT = (2, 59)
"""The version of Ray from which on a cluster demands a token although Ray was imported before."""


@contextmanager
def private_session() -> Iterator[None]:
    """Have a cluster that is started within demand a token, and keep its files in a private folder.

    Variables of Ray that the user has set stay as they are. The token stays set in this process:
    Ray reads it once, and could start no other cluster here without it.
    """
    folder = None
    if FOLDER not in os.environ:
        # Of mode 0700. A short path: those of sockets have 107 characters at most.
        folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="cosup-ray-", dir="/tmp")
    if not {MODE, TOKEN, TOKEN_FILE} & os.environ.keys():
        os.environ[TOKEN] = secrets.token_urlsafe(32)
    if "ray" not in sys.modules:  # a Ray before 2.59 that has read another mode could not start
        os.environ.setdefault(MODE, "token")
    log.info("Ray: starting a cluster on this machine for this run; %s", _reachable())
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop(FOLDER, None)
            shutil.rmtree(folder, ignore_errors=True)


def _reachable() -> str:
    """Return who can reach the cluster, in words."""
    import ray

    listens = "it listens on all interfaces"
    mode = os.environ.get(MODE)
    if mode is None and tuple(map(int, ray.__version__.split(".")[:2])) < BY_DEFAULT:
        return (
            f"{listens}, without a token (Ray {ray.__version__} was imported before; set "
            f"{MODE}=token)"
        )
    if mode is not None and mode.lower() != "token":
        return f"{listens}, without a token ({MODE})"
    return f"{listens}, and demands a token"
