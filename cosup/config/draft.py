"""Check the tree of a config as far as it is valid: as it is, and with its references expanded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cosup.config.cross_checks import find_conflicts
from cosup.config.references import WHERE, decides_results, expand_tree, texts, written
from cosup.config.schema import Config
from cosup.errors import Key, UserError, raise_all
from cosup.sections import is_section, settings_of
from cosup.validation import find_mistakes

__all__ = ["Draft", "check_tree", "plain_settings", "without", "written_key"]


@dataclass(frozen=True)
class Draft:
    """A config that was read, as far as it is valid.

    config: the whole; None if there is a mistake in it. sections: the sections without mistakes, by
    name. errors: every mistake, each with its file, its full key, its value and what is allowed.
    """

    config: Config | None
    sections: Mapping[str, Any]
    errors: tuple[UserError, ...] = ()

    @staticmethod
    def of(config: Config) -> "Draft":
        """Return the draft of a valid config that is in no file."""
        return Draft(config, {name: getattr(config, name) for name in Config.model_fields})

    def checked(self) -> Config:
        """Return the config; raise `UserError` with every mistake."""
        raise_all(self.errors)
        assert self.config is not None
        return self.config


def check_tree(tree: Mapping[str, Any], expanded: bool = True) -> Draft:
    """Check a tree. The keys of errors are as in `Config` (see `written_key`).

    expanded: references to the environment are replaced, and their variables must be set.
    """
    references = written(tree) if expanded else {}
    return _referring(tree, references) if references else _checked(tree)


def _checked(tree: Mapping[str, Any]) -> Draft:
    config, errors = find_mistakes(Config, tree)
    if config is not None:
        return Draft.of(config)
    sections = _valid_sections(tree)
    known = {str(error) for error in errors}  # with the conflicts, if no section has a mistake
    errors += [error for error in find_conflicts(sections) if str(error) not in known]
    return Draft(None, sections, tuple(errors))


def _referring(tree: Mapping[str, Any], references: Mapping[Key, str]) -> Draft:
    """Check a tree with references, as it is written and as it is with the values of the variables.

    As written it is valid only if the references stand where any text may stand.
    """
    expanded, unset = expand_tree(tree)
    as_written, draft = _checked(tree), _checked(expanded)
    settings = written(plain_settings(as_written.config)) if as_written.config else references
    values = dict(texts(plain_settings(draft.config))) if draft.config else settings
    misplaced = [key for key in settings if decides_results(key) or key not in values]
    misplaced += [key for e in as_written.errors if (key := _reference_at(e.key, references))]
    errors = {
        key: UserError(
            "a reference to the environment cannot stand here, as results depend on it",
            key=key,
            value=settings.get(key, references.get(key)),
            allowed=f"the value itself (references: {WHERE})",
        )
        for key in misplaced
    }
    errors |= {error.key: error for error in unset}
    sections = without(draft.sections, errors.values())
    for error in draft.errors:
        key = _reference_at(error.key, references)
        if key is not None:
            error.value = references[key]  # not the secret
        errors.setdefault(key or error.key, error)
    if errors or draft.config is None:
        return Draft(None, sections, tuple(errors.values()))
    return Draft.of(draft.config.referring({key: (settings[key], values[key]) for key in settings}))


def without(sections: Mapping[str, Any], errors: Iterable[UserError]) -> dict[str, Any]:
    """Return the sections that none of the errors is about."""
    wrong = {error.key[0] for error in errors if error.key}
    return {name: section for name, section in sections.items() if name not in wrong}


def _reference_at(key: Key, references: Mapping[Key, str]) -> Key | None:
    """Return the key in the file of the reference that an error is about, if there is one."""
    key = written_key(key)
    return next((k for k in (key, key[:-1]) if k in references), None)


def plain_settings(config: Config) -> dict[str, Any]:
    """Return the config as nested plain values, with references expanded."""
    return config.model_dump(mode="json", by_alias=True)


def _valid_sections(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections without mistakes, each checked alone. (`controls`, if they are given.)"""
    found = {}
    for name, setting in settings_of(Config).items():
        if is_section(setting.annotation):
            made, mistakes = find_mistakes(setting.annotation, tree.get(name, {}))
            if not mistakes:
                found[name] = made
    return found


def written_key(key: Key) -> Key:
    """Return a key as it is in the file: settings of a source are not within it, but beside it."""
    if key[:2] != ("data", "source"):
        return key
    inner = key[2:]
    return ("data", *inner) if inner and inner != ("name",) else ("data", "source")
