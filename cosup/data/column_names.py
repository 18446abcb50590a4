"""Usual names of the columns of tables: of images with their labels, and of annotators' answers."""

from collections.abc import Collection, Mapping, Sequence

from cosup.errors import UserError, unknown_name

__all__ = ["USUAL", "rename_to_roles", "usual_name"]

_FILE = ("path", "image", "file_name", "filename", "file", "image_path", "file_path", "filepath")
USUAL: dict[str, tuple[str, ...]] = {
    "sample_id": ("sample_id", "task", *_FILE, "image_name", "image_id", "img", "item"),
    "path": _FILE,
    "annotator": ("annotator", "worker", "rater", "annotator_id", "worker_id"),
    "label": ("label", "choice", "class", "class_name", "category", "target", "answer"),
    "confidence": ("confidence", "probability"),
}
"""Usual names of a column by its role; the first that is found counts."""


def usual_name(role: str, names: Sequence[str], not_among: Collection[str] = ()) -> str | None:
    """Return the column of a role by its usual names; None without one."""
    return next((name for name in USUAL[role] if name in names and name not in not_among), None)


def rename_to_roles(
    names: Sequence[str], given: Mapping[str, str], wanted: Sequence[str]
) -> dict[str, str]:
    """Return which columns to rename to their role: column -> role.

    given: role -> column. wanted: roles that are also found by their usual names, if no column has
    the role's own name. Raises `UserError`, with the key `columns.ROLE`, for a column that is not
    there, and for a role whose name another column has.
    """
    found: dict[str, str] = {}
    for role, column in given.items():
        if column not in names:
            raise unknown_name("column", column, names, key=f"columns.{role}")
        if role in names and role != column:
            problem = f"there is a column '{role}' as well"
            raise UserError(problem, key=f"columns.{role}", value=column)
        found[column] = role
    for role in wanted:
        if role not in names and role not in given:
            usual = usual_name(role, names, found)
            if usual is not None:
                found[usual] = role
    return found
