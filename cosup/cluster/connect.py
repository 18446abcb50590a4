"""Reach a Ray cluster's job server: what can be wrong with the address or the token is one line,
said within seconds."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cosup.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_SECONDS = 5.0
"""How long a server may take to accept a connection."""
ANSWER_SECONDS = 10.0
"""How long a server may take to answer."""

_CHATTY = (
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
    "_private.runtime_env.packaging",
)
"""Loggers of Ray's that tell of every file and socket."""

_TOKEN_WAYS = "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or RAY_AUTH_MODE=token for ~/.ray/auth_token"


def connect(address: str) -> "JobSubmissionClient":
    """A client of the job server at this address, which has answered.

    `UserError` for an address that is none, a server that doesn't answer or isn't Ray's, a token
    that is missing or wrong, and Ray without its job client.
    """
    address = _checked(address)
    _check_installed()
    import ray.exceptions
    from ray.job_submission import JobSubmissionClient

    for name in _CHATTY:
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # we say it
    token = _token()
    _probe(address)
    unauthenticated = getattr(ray.exceptions, "AuthenticationError", ())  # Ray 2.52 has it first
    try:
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # they go before any argument
            return JobSubmissionClient(
                address, headers={"Authorization": f"Bearer {token}"} if token else None
            )
    except unauthenticated as error:
        raise _unauthenticated(address, str(error)) from None
    except RuntimeError as error:
        raise _not_ray(address, _first_line(error)) from None
    except (ConnectionError, OSError) as error:
        raise UserError(f"--address: '{address}': {_first_line(error)}") from None


def _checked(address: str) -> str:
    """The address without a slash at its end, if it is one that a job server can have."""
    address = address.strip()
    if re.match(r"https?://[^/?#\s]+", address):
        return address.rstrip("/")
    ours = "give the dashboard's, as http://HOST:8265 or https://HOST"
    scheme, mark, _ = address.partition("://")
    if not mark and address:
        guess = f"; did you mean 'http://{address}'?" if ":" in address else ""
        raise UserError(f"--address: '{address}': has no http:// or https://; {ours}{guess}")
    what = "names no host" if scheme in ("http", "https", "") else f"{scheme}:// isn't served"
    if scheme == "ray":
        what = "is an address of Ray Client, which runs no jobs"
    raise UserError(f"--address: '{address}': {what}; {ours}")


def _check_installed() -> None:
    """Ray's job client needs what `ray[train]` doesn't install."""
    missing = [name for name in ("ray", "requests", "aiohttp") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"cosup submit needs Ray's job client (no {missing[0]}); install it with: "
            "pip install '.[cluster]'"
        )


def _token() -> str | None:
    """The token that the user has named in the environment.

    Not the one in ~/.ray/auth_token: Ray's client sends that, if RAY_AUTH_MODE says so.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        return None
    try:
        token = Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"RAY_AUTH_TOKEN_PATH: can't read '{path}': {reason}") from None
    if not token:
        raise UserError(f"RAY_AUTH_TOKEN_PATH: '{path}' is empty")
    return token


def _probe(address: str) -> None:
    """Does a Ray dashboard answer there? Ray's own client waits for minutes, and so isn't asked.

    No token is sent to what may be anything: that a token is wanted is answer enough.
    """
    import requests

    try:
        answer = requests.get(f"{address}/api/version", timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
    except requests.exceptions.RequestException as error:
        raise UserError(f"--address: '{address}': {_why(error)}") from None
    if answer.status_code in (401, 403):
        return
    try:
        known = answer.ok and "ray_version" in answer.json()
    except ValueError:
        known = False
    if not known:
        raise _not_ray(address, f"HTTP {answer.status_code}")


def _why(error: Exception) -> str:
    """What kept a request from being answered, in words."""
    import requests

    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        plain = "WRONG_VERSION_NUMBER" in text or "record layer" in text
        return f"no TLS there; {_try('http')}" if plain else f"TLS failed: {_reason(text)}"
    if isinstance(error, requests.exceptions.Timeout):
        return "doesn't answer; is the cluster up, and the port reachable from here?"
    if "Connection refused" in text:
        return (
            "nothing listens there (connection refused); is the cluster up, and the tunnel to it "
            "(ray dashboard, kubectl port-forward, ssh -L) open?"
        )
    if any(word in text for word in ("NameResolution", "getaddrinfo", "not known")):
        return "no such host"
    if isinstance(error, requests.exceptions.ConnectionError) and "aborted" in text:
        return "what listens there speaks no HTTP; the dashboard's port is 8265 by default"
    return _reason(text)


def _try(scheme: str) -> str:
    return f"should it be {scheme}://?"


def _reason(text: str) -> str:
    """The innermost reason of the errors that `requests` wraps in each other."""
    return text.rsplit("Caused by ", 1)[-1].rstrip(")").split("\n")[0]


def _not_ray(address: str, said: str) -> UserError:
    return UserError(
        f"--address: '{address}': something answers there ({said.rstrip('.')}), but it isn't a Ray "
        "dashboard; that has port 8265 by default"
    )


def _unauthenticated(address: str, text: str) -> UserError:
    if "Authentication failed" in text:
        return UserError(
            f"--address: '{address}': the cluster refuses the token; it is taken from {_TOKEN_WAYS}"
        )
    return UserError(
        f"--address: '{address}': the cluster wants a token, and none was given; set {_TOKEN_WAYS}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without these variables."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
