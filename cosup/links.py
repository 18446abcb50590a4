"""Keep what is read and written for a folder inside it, although anybody may have made it."""

from pathlib import Path

from cosup.errors import UserError

__all__ = ["check_inside", "check_own_files", "is_file_name"]

LONGEST = 255
"""Bytes of a file's name on common file systems."""


def check_inside(folder: Path, path: Path) -> None:
    """Raise `UserError` if a file below a folder would be written outside, through a link.

    A path that is not below the folder by its name is the user's own choice. A link in the place of
    the file itself is replaced, not followed.
    """
    if not path.absolute().is_relative_to(folder.absolute()):
        return
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            "is a link that leads out of its folder, and is not written through; remove it",
            value=str(path.parent),
            where=str(folder),
        )


def check_own_files(folder: Path) -> None:
    """Raise `UserError` if a link in a folder leads out of it: its target is not the folder's."""
    whole = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(whole):
            problem = "is a link that leads out of its folder, and is not followed; remove it"
            raise UserError(problem, value=str(path))


def is_file_name(name: str) -> bool:
    """Return whether a name, with an ending of a few letters, names a file in its folder."""
    plain = not {"/", "\\", "\0"} & set(name) and name not in ("", ".", "..")
    return plain and len(name.encode(errors="surrogateescape")) < LONGEST
