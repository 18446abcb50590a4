"""Names of teachers, which are names of files too, from those of classes, domains and annotators.

The text of a class or a domain itself is kept beside the name in a run's records, and the report
shows it as the teacher's scope.
"""

import re
import unicodedata

__all__ = ["file_name", "is_odd", "scope_name"]

LONGEST = 60
"""Letters of a class or domain in a teacher's name, at most."""
HINT = 24
"""Letters of what is left of an odd name, at most."""
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_.-]+")
_UNUSUAL = re.compile(r'[<>"=;|*?{}\\^$`]')
_WORD = re.compile(r"[A-Za-z0-9]+")


def file_name(name: str) -> str:
    """Return the name of a class, a domain or an annotator as part of a file name."""
    return _FORBIDDEN.sub("_", name)[:LONGEST] or "_"


def scope_name(index: int, name: str) -> str:
    """Return the name of a class or a domain in the name of its teacher.

    It is its `file_name`, but for an odd name its index and its first words: `3_img_src`.
    """
    if not is_odd(name):
        return file_name(name)
    letters = unicodedata.normalize("NFKD", name)  # an accent is a letter of its own
    plain = "".join(one for one in letters if not unicodedata.combining(one))
    hint = ""
    for word in _WORD.findall(plain):
        longer = f"{hint}_{word[:HINT]}"
        if len(longer) > HINT + 1:
            break
        hint = longer
    return f"{index}{hint}"


def is_odd(name: str) -> bool:
    """Return whether a name is too long for a file, would lose most of its letters, or holds
    characters that are in no ordinary name."""
    lost = sum(map(len, _FORBIDDEN.findall(name)))
    unusual = not name.isprintable() or _UNUSUAL.search(name) is not None
    return unusual or len(name) > LONGEST or 2 * lost > len(name)
