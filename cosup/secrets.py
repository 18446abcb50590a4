"""Hide passwords, tokens and keys in what is printed or written.

Secrets are known by their form: the password of a URL (`ray://me:PASSWORD@host`), a token in place
of its user (`https://TOKEN@host`), and options with telling names (`?secret_key=...`).
A reference to an environment variable (`${NAME}`, `cosup.config.references`) is no secret.
"""

import re

__all__ = ["HIDDEN", "holds_secret", "is_secret_name", "mask"]

HIDDEN = "***"
"""Stands for a secret."""

_END = r"\s\"'<>"
"""What ends a URL within a text."""
_LOGIN = re.compile(rf"(?<=://)([^{_END}/?#:@]*):(?!\d+(?:[/?#]|$))([^{_END}]*)@")
"""User and password. A password may hold `@` and `/`, though it should not; digits that a slash
follows are a port."""
_TOKEN = re.compile(rf"(?<=://)([^{_END}/?#:@]{{20,}})@")
"""A user name that is as long as a token."""
_NAME = (
    r"(?:[\w.-]*(?:secret|password|passwd|passphrase)[\w-]*"
    r"|(?:[\w.-]*[_.-])?(?:pwd|credentials?|signature|sig"
    r"|(?:api|access|account|private|session|encryption)[_-]?key(?:[_-]?id)?"
    r"|(?:(?:api|auth|access|bearer|session|security|refresh|sas|hf)[_-]?)?token))"
)
_OPTION = re.compile(rf"(?<![\w.-])({_NAME}=|(?<=[?&])key=)([^{_END}&;,#]+)", re.IGNORECASE)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_CONTAINER = re.compile(r"abfss?://[^/@:\s]+@")
"""The user of these URLs is the name of a container."""
_REFERENCE = re.compile(r"\$\{\w*\}")


def mask(text: str) -> str:
    """Return the text with `***` in place of each secret; other text stays as it is."""
    if "://" in text:
        text = _LOGIN.sub(lambda m: f"{m[1]}:{_hidden(m[2])}@", text)
        if not _CONTAINER.search(text):
            text = _TOKEN.sub(lambda m: f"{_hidden(m[1])}@", text)
    return _OPTION.sub(lambda m: m[1] + _hidden(m[2]), text) if "=" in text else text


def holds_secret(text: str) -> bool:
    """Return whether a secret is written out in a URL."""
    return "://" in text and mask(text) != text


def is_secret_name(name: str) -> bool:
    """Return whether the value of an option or a setting of this name is a secret."""
    return _SECRET_NAME.fullmatch(name) is not None


def _hidden(secret: str) -> str:
    return HIDDEN if _REFERENCE.sub("", secret) else secret
