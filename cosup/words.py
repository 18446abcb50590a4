"""Numbers, plurals, lists, intervals and values in words."""

from collections.abc import Sequence

_WIDTH = 80


def literal(value: object) -> str:
    """Return a value as it is written in YAML, cut to 80 characters."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def either(names: Sequence[str]) -> str:
    """Return `a`, `a or b`, or `a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
