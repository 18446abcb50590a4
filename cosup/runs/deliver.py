"""Take what a command has written for a run at a URI to that URI."""

import shutil
from pathlib import Path

from cosup.errors import RunError, UserError
from cosup.origins import shown
from cosup.remote_copy import copy_of

__all__ = ["delivered"]


def delivered(path: Path, otherwise: Path, overwrite: bool) -> tuple[str, list[str]]:
    """Copy a file in the copy of a run to the run's URI; leave any other file where it is.

    otherwise: the file here that it becomes where the URI cannot be written. Returns where the file
    is, and why it is not at the URI. Raises `UserError` for one that exists, unless `overwrite`.
    """
    copy = copy_of(path)
    if copy is None:
        return str(path), []
    try:
        copy.put_back(path)
    except RunError as error:
        if otherwise.exists() and not overwrite:
            problem = f"the file exists, --overwrite replaces it ({error})"
            raise UserError(problem, where=str(otherwise)) from None
        shutil.move(path, otherwise)
        return str(otherwise), [f"nothing is written to {copy.name}: {error}"]
    return shown(path), []
