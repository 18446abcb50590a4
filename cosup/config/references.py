"""References to the environment in a config: `output: s3://bucket/runs?secret_key=${SECRET_KEY}`.

`${NAME}` in a text stands for an environment variable of the process that runs the config;
`$${` is the text `${`. What a run stores (`config.yaml`, the hash of the config, what loggers get)
keeps the reference, so a secret is not written, and a run can be resumed with another one. Results
must thus not depend on it: only text that names no choice can hold a reference, such as a path, a
URI or an address. A number, a network or a class cannot; overrides set these.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cosup.errors import Key, Mistakes, UserError
from cosup.secrets import HIDDEN, holds_secret, is_secret_name, mask

__all__ = [
    "WHERE",
    "decides_results",
    "expand",
    "expand_tree",
    "literal_secrets",
    "restore",
    "texts",
    "written",
]

MARK = "${"
"""What a reference begins with."""
CHOICES = ("name", "kind", "source")
"""Settings that name a choice, on which results depend."""
WHERE = "text that names no choice, such as a path, a URI or an address"
ADVICE = (
    "is written out, and a run stores its settings; write ${NAME} in its place, and set the "
    "environment variable NAME"
)

_REFERENCE = re.compile(r"(\$?)\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?")

References = Mapping[Key, tuple[str, str]]
"""Key of a setting -> its text as written and as expanded."""


def expand(text: str) -> str:
    """Return the text with the values of the environment variables that it refers to.

    Raises `UserError` for a variable that is not set or holds no text, and for `${` without a name.
    """

    def value(found: re.Match[str]) -> str:
        escape, name = found.groups()
        if escape:
            return found[0][1:]
        if name is None:
            raise UserError(
                "not a reference",
                value=text,
                allowed="${NAME} for an environment variable, $${ for the text ${",
            )
        if name not in os.environ:
            raise UserError(f"the environment variable {name} is not set", value=text)
        if not _is_unicode(os.environ[name]):
            raise UserError(f"the environment variable {name} is no Unicode text", value=text)
        return os.environ[name]

    return _REFERENCE.sub(value, text)


def expand_tree(tree: Any) -> tuple[Any, list[UserError]]:
    """Return a copy of a tree with all references expanded, and the errors of those that cannot
    be; these stay as they are."""
    mistakes = Mistakes()

    def at(key: Key, text: str) -> str:
        try:
            return expand(text)
        except UserError as error:
            mistakes.add([error.at(key)])
            return text

    return _mapped(tree, (), at), mistakes.errors


def written(tree: Any) -> dict[Key, str]:
    """Return the texts with references of a tree, by key."""
    return {key: text for key, text in texts(tree) if MARK in text}


def decides_results(key: Key) -> bool:
    """Return whether the text at a key names a choice, a class or the like, by which results and
    not places differ: it is an item of a list, or one of `CHOICES`."""
    return key[-1] in CHOICES or key[-1].isdecimal()


def literal_secrets(tree: Any) -> Iterator[UserError]:
    """Yield an error for each secret that a tree holds itself, instead of a reference to it."""
    for key, text in texts(tree):
        if holds_secret(text):
            yield UserError(f"a secret {ADVICE}", key=key, value=mask(text))
        elif text and MARK not in text and is_secret_name(key[-1] if key else ""):
            yield UserError(f"a secret {ADVICE}", key=key, value=HIDDEN)


def restore(tree: Any, references: References) -> Any:
    """Return a copy of the tree with the references in place of what they were expanded to.

    A setting that has got another value since keeps it.
    """

    def at(key: Key, text: str) -> str:
        as_written, expanded = references.get(key, (text, text))
        return as_written if text == expanded else text

    return _mapped(tree, (), at) if references else tree


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def texts(tree: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Yield each text of a tree with its key."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, dict):
        for name, item in tree.items():
            yield from texts(item, (*key, str(name)))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from texts(item, (*key, str(index)))


def _mapped(tree: Any, key: Key, change: Callable[[Key, str], str]) -> Any:
    """Return a copy of a tree in which each text is what `change` makes of it and its key."""
    if isinstance(tree, str):
        return change(key, tree)
    if isinstance(tree, dict):
        return {name: _mapped(item, (*key, str(name)), change) for name, item in tree.items()}
    if isinstance(tree, list):
        return [_mapped(item, (*key, str(at)), change) for at, item in enumerate(tree)]
    return tree
