"""Every mistake of a config as one line: the full key, what was given, and what is allowed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cosup.errors import UserError
from cosup.validation import Mistake

Key = tuple[str, ...]
"""A setting's place: the keys and indices on the way to it."""

_UNKNOWN = "unknown key "


def config_error(found: Iterable[Mistake], where: Callable[[Key], object]) -> UserError:
    """One error whose text has a line per mistake, each of them complete in itself.

    where: says which file a key, as it is written there, stands in.
    """
    lines = [
        ": ".join(filter(None, (str(where(key)), ".".join(key), message)))
        for key, message in without_echoes([(beside_source(key), text) for key, text in found])
    ]
    return UserError("\n".join(lines))


def contents(tree: Any) -> str:
    """What a file that is no mapping holds, in words."""
    return "empty" if tree is None else f"holds {type(tree).__name__}"


def beside_source(key: Sequence[str]) -> Key:
    """The key as it is written: a source's settings stand beside it, not within it."""
    if tuple(key[:2]) != ("data", "source"):
        return tuple(key)
    inner = tuple(key[2:])
    return ("data", *inner) if inner and inner != ("name",) else ("data", "source")


def without_echoes(found: Sequence[Mistake]) -> list[Mistake]:
    """Leave out that a key is missing where it is there, but misspelt."""
    meant = {
        (*key[:-1], message.split("did you mean '")[1].split("'")[0])
        for key, message in found
        if message.startswith(_UNKNOWN) and "did you mean '" in message
    }
    return [
        (key, message)
        for key, message in found
        if not (key in meant and message.startswith("must be given"))
    ]


def flatten(tree: Any, key: tuple[str, ...] = (), whole: bool = False) -> dict[str, Any]:
    """Dotted key -> value, for every leaf of nested mappings and lists; whole: a list of plain
    values is a leaf too."""
    if isinstance(tree, dict) and tree:
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, list) and tree and not (whole and _plain(tree)):
        items = enumerate(tree)
    else:
        return {".".join(key): tree}
    return {
        k: v for name, item in items for k, v in flatten(item, (*key, str(name)), whole).items()
    }


def _plain(values: list[Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in values)
