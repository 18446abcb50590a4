"""The scope of a teacher: the part of the task that it knows."""

from collections.abc import Sequence

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from cosup.errors import Mistakes, UserError, unknown_name
from cosup.sections import Section

ALL = "all"
"""A scope, or a part of it, that is the whole task."""


class ScopeSection(Section):
    """The classes and domains that a teacher was trained on; null or `all` means all."""

    classes: list[str | int] | None = Field(default=None, alias="class")
    """Class names (or indices)."""
    domains: list[str | int] | None = Field(default=None, alias="domain")
    """Domain names (or indices)."""

    model_config = {**Section.model_config, "populate_by_name": True}

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        """Make lists of single names; `all`, of the scope or of a part, is null."""
        if value == ALL:
            return {}
        if not isinstance(value, dict):
            return value
        parts = {key: None if part == ALL else part for key, part in value.items()}
        return {k: [v] if isinstance(v, str | int) else v for k, v in parts.items()}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the JSON schema of a scope as it is written: `all`, or single names, too."""
        lists = handler.resolve_ref_schema(handler(schema))
        for part in lists["properties"].values():
            part["anyOf"] = [{"type": "string"}, {"type": "integer"}, *part["anyOf"]]
        return {"anyOf": [{"const": ALL}, lists]}

    @property
    def restricted(self) -> bool:
        """Whether it is a part of the task."""
        return bool(self.classes or self.domains)

    def resolve(
        self, classes: Sequence[str] | None, domains: Sequence[str] | None
    ) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
        """Return the indices of its classes and domains, ascending; None means all.

        classes, domains: the task's names; None, if they are not known, leaves that part out.
        Raises `UserError` with every unknown name.
        """
        mistakes, found = Mistakes(), []
        for kind, wanted, names in (
            ("class", self.classes, classes),
            ("domain", self.domains, domains),
        ):
            indices = None
            if wanted is not None and names is not None:
                with mistakes.caught():
                    indices = _indices(wanted, names, kind)
            found.append(indices)
        mistakes.raise_all()
        return found[0], found[1]


def _indices(
    wanted: Sequence[str | int], names: Sequence[str], kind: str
) -> tuple[int, ...] | None:
    """Return the indices of the named classes or domains; a number that is not a name is an index.

    Raises `UserError` with the key `kind` for each unknown name.
    """
    if not wanted:
        raise UserError(f"names no {kind}", key=kind, value=[], allowed="null, which means all")
    known, found, mistakes = {name: i for i, name in enumerate(names)}, set(), Mistakes()
    for item in wanted:
        if str(item) in known:
            found.add(known[str(item)])
        elif not isinstance(item, int):
            mistakes.add([unknown_name(kind, item, names, key=kind)])
        elif 0 <= item < len(names):
            found.add(item)
        else:
            allowed = f"a name, or an index of 0 to {len(names) - 1}"
            mistakes.add([UserError(f"is not a {kind}", key=kind, value=item, allowed=allowed)])
    mistakes.raise_all()
    return None if len(found) == len(names) else tuple(sorted(found))
