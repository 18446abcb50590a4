"""The connection to a Ray cluster's job server, with an error in one line within seconds for a
wrong address or token."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cosup.errors import UserError, in_short

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_SECONDS = 5.0
"""Time that a server has to accept a connection."""
ANSWER_SECONDS = 10.0
"""Time that a server has to answer."""

_VERBOSE_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers of Ray that report every uploaded file and every socket. Those of the job client are
named one by one: they have levels of their own, and `ray.init` resets that of `ray`."""

_TOKEN_SOURCES = (
    "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or RAY_AUTH_MODE=token for ~/.ray/auth_token"
)


def connect(address: str) -> "JobSubmissionClient":
    """Return a client of the job server at this address, which has answered.

    Raise `UserError` for a wrong address, a server that does not answer or is not Ray's, a missing
    or wrong token, and a Ray without its job client.
    """
    address = _check_address(address)
    _check_installed()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    token = _token()
    _check_dashboard(address)
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _without_variables("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # they have precedence
            return JobSubmissionClient(
                address, headers={"Authorization": f"Bearer {token}"} if token else None
            )
    except AuthenticationError as error:
        raise _token_error(address, str(error)) from None
    except RuntimeError as error:
        raise _not_ray(address, in_short(error)) from None
    except (ConnectionError, OSError) as error:
        raise _address_error(address, in_short(error)) from None


def _check_address(address: str) -> str:
    """Return the address without a slash at its end; raise `UserError` if no job server can have
    it."""
    address = address.strip()
    if re.match(r"https?://[^/?#\s]+", address):
        return address.rstrip("/")
    scheme, mark, _ = address.partition("://")
    nearest: tuple[str, ...] = ()
    if not mark and address:
        problem = "no http:// or https://"
        nearest = (f"http://{address}",) if ":" in address else ()
    elif scheme == "ray":
        problem = "an address of Ray Client, which runs no jobs"
    else:
        problem = "no host" if scheme in ("http", "https", "") else f"{scheme}:// is not supported"
    allowed = "the dashboard's address, http://HOST:8265 or https://HOST"
    raise UserError(problem, key="--address", value=address, allowed=allowed, nearest=nearest)


def _check_installed() -> None:
    """Raise `UserError` if a package that Ray's job client needs is missing (it is in
    `ray[default]`, not in `ray[train]`)."""
    missing = [name for name in ("ray", "requests", "aiohttp") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"cosup submit needs Ray's job client (no {missing[0]}); install it with: "
            "pip install '.[cluster]'"
        )


def _token() -> str | None:
    """Return the token that the environment names.

    Ray's client itself sends the one in ~/.ray/auth_token if RAY_AUTH_MODE is `token`.
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
        problem = f"cannot be read: {reason}"
        raise UserError(problem, key="RAY_AUTH_TOKEN_PATH", value=path) from None
    if not token:
        raise UserError("this file is empty", key="RAY_AUTH_TOKEN_PATH", value=path)
    return token


def _check_dashboard(address: str) -> None:
    """Raise `UserError` if no Ray dashboard answers at the address; Ray's client would wait for
    minutes.

    No token is sent to an unknown server: an answer that demands one is enough.
    """
    import requests

    try:
        answer = requests.get(f"{address}/api/version", timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
    except requests.exceptions.RequestException as error:
        raise _address_error(address, _no_answer(error)) from None
    if answer.status_code in (401, 403):
        return
    try:
        known = answer.ok and "ray_version" in answer.json()
    except ValueError:
        known = False
    if not known:
        raise _not_ray(address, f"HTTP {answer.status_code}")


def _no_answer(error: Exception) -> str:
    """Return why a request was not answered, in words."""
    import requests

    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        plain = "WRONG_VERSION_NUMBER" in text or "record layer" in text
        return (
            "no TLS there; should it be http://?" if plain else f"TLS failed: {_root_cause(text)}"
        )
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer; is the cluster up, and the port reachable from here?"
    if "Connection refused" in text:
        return (
            "nothing listens there (connection refused); is the cluster up, and the tunnel to it "
            "(ray dashboard, kubectl port-forward, ssh -L) open?"
        )
    if any(word in text for word in ("NameResolution", "getaddrinfo", "not known")):
        return "no such host"
    if isinstance(error, requests.exceptions.ConnectionError) and "aborted" in text:
        return "the server there does not use HTTP; the dashboard's port is 8265 by default"
    return _root_cause(text)


def _root_cause(text: str) -> str:
    """Return the innermost of the errors that `requests` wraps in each other."""
    return text.rsplit("Caused by ", 1)[-1].rstrip(")").split("\n")[0]


def _address_error(address: str, problem: str) -> UserError:
    return UserError(problem, key="--address", value=address)


def _not_ray(address: str, answer: str) -> UserError:
    return _address_error(
        address,
        f"a server answers there ({answer.rstrip('.')}), but it is not a Ray dashboard, whose port "
        "is 8265 by default",
    )


def _token_error(address: str, text: str) -> UserError:
    if "Authentication failed" in text:
        return _address_error(
            address, f"the cluster refuses the token, which is taken from {_TOKEN_SOURCES}"
        )
    return _address_error(
        address, f"the cluster demands a token, and none was given; set {_TOKEN_SOURCES}"
    )


@contextmanager
def _without_variables(*names: str) -> Iterator[None]:
    """Remove these environment variables within the context."""
    removed = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)
