"""The base of every config section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings: unknown keys are mistakes, attribute docstrings describe keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    @classmethod
    def known_keys(cls, value: object) -> list[str]:
        """The keys that may stand in this section, given what does stand in it."""
        return [field.alias or name for name, field in cls.model_fields.items()]
