"""Prompts: class names filled into templates such as `a photo of a {}.`.

Templates are one text, a list, or the name of a list for a data set; several templates are an
ensemble (Radford et al., arXiv 2103.00020, section 3.1.4).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.errors import MISSING, UserError, unknown_name
from cosup.words import listed

__all__ = [
    "HOLE",
    "OPEN_CLIP",
    "TEMPLATES",
    "Prompts",
    "build_prompts",
    "check_templates",
    "template_lists",
]

OPEN_CLIP = "open_clip:"
"""Prefix of the names of backbones with a text encoder."""
HOLE = "{}"
"""Placeholder of the class name in a template."""

_CIFAR = (
    "a photo of {article} {}.",
    "a blurry photo of {article} {}.",
    "a black and white photo of {article} {}.",
    "a low contrast photo of {article} {}.",
    "a high contrast photo of {article} {}.",
    "a bad photo of {article} {}.",
    "a good photo of {article} {}.",
    "a photo of {article} small {}.",
    "a photo of {article} big {}.",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    # From data/prompts.md of CLIP's repository.
    "cifar": tuple(t.replace("{article}", article) for article in ("a", "the") for t in _CIFAR),
    "mnist": ('a photo of the number: "{}".',),
    # Not published: one per domain, with the names of the data set.
    "domainnet": (
        "a clipart of a {}.",
        "an infograph of a {}.",
        "a painting of a {}.",
        "a quickdraw of a {}.",
        "a photo of a {}.",
        "a sketch of a {}.",
    ),
    "fashion_mnist": (
        "a photo of a {}.",
        "a black and white photo of a {}.",
        "a low resolution photo of a {}.",
        "a photo of a {}, a type of clothing.",
    ),
}
"""Template lists by data set."""

_OPEN_CLIPS = {
    "imagenet": "OPENAI_IMAGENET_TEMPLATES",
    "imagenet_simple": "SIMPLE_IMAGENET_TEMPLATES",
}
_IMAGENET = "imagenet"
NAMES = "a list, a mapping from class to name, a text file with a line per class"
_WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Prompts:
    """Class names and templates.

    names: a name per class, in their order. templates: texts with the placeholder of a name.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]

    def texts(self) -> list[str]:
        """Return all prompts: those of the first class by all templates, then of the second, ..."""
        return [t.replace(HOLE, name) for name in self.names for t in self.templates]


def template_lists() -> list[str]:
    """Return the names of template lists."""
    return sorted([*TEMPLATES, *_OPEN_CLIPS])


def check_templates(templates: str | Sequence[str]) -> None:
    """Raise `UserError` for templates that can't be used, as far as is seen without open_clip."""
    if isinstance(templates, str):
        if HOLE not in templates and templates not in template_lists():
            raise UserError(
                f"has no {HOLE} for the class's name, and is not the name of a list of templates",
                value=templates,
                allowed=", ".join(template_lists()),
            )
        return
    if not templates:
        raise UserError(f"give at least one template, such as 'a photo of a {HOLE}.'", value=[])
    for template in templates:
        if HOLE not in template:
            raise UserError(f"has no {HOLE} for the class's name", value=template)


def build_prompts(
    templates: str | Sequence[str],
    names: str | Sequence[str] | Mapping[str, str] | None,
    classes: Sequence[str],
    library: Any,
) -> Prompts:
    """Return the prompts of these classes.

    names: a name per class; or a mapping from some classes to names; or a text file with a line per
    class; or `imagenet`, whose list has two names shared by two classes each; None uses the class
    labels with spaces instead of underscores. library: open_clip. Raises `UserError` (key
    `class_names`) for classes without a name and for classes with the same name.
    """
    check_templates(templates)
    chosen = _names(names, classes, library)
    given = {*names} if isinstance(names, Mapping) else set() if names is None else {*classes}
    for name, label in zip(chosen, classes, strict=True):
        if not name:
            raise UserError(f"class '{label}' has an empty name", key="class_names")
        if label not in given and (not any(map(str.isalpha, name)) or _WORDNET.fullmatch(name)):
            raise UserError(
                f"class '{label}' has no name that can be used in a prompt",
                key="class_names",
                value=None if names is None else MISSING,
                allowed=NAMES,
            )
    if names != _IMAGENET:
        _check_apart(chosen, classes)
    return Prompts(tuple(chosen), tuple(_expand(templates, library)))


def _check_apart(names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise `UserError` for classes with equal names, ignoring case, spaces and underscores."""
    first: dict[str, str] = {}
    for name, label in zip(names, classes, strict=True):
        same = " ".join(name.replace("_", " ").casefold().split())
        if same in first:
            raise UserError(
                f"classes '{first[same]}' and '{label}' are both called '{name}': their prompts "
                "would be the same",
                key="class_names",
            )
        first[same] = label


def _expand(templates: str | Sequence[str], library: Any) -> Sequence[str]:
    if not isinstance(templates, str):
        return templates
    if HOLE in templates:
        return [templates]
    if templates in TEMPLATES:
        return TEMPLATES[templates]
    return [template(HOLE) for template in getattr(library, _OPEN_CLIPS[templates])]


def _names(
    names: str | Sequence[str] | Mapping[str, str] | None, classes: Sequence[str], library: Any
) -> list[str]:
    own = [_plain(label.replace("_", " ")) for label in classes]
    if names is None:
        return own
    if isinstance(names, Mapping):
        unknown = [label for label in names if label not in classes]
        if unknown:
            raise unknown_name("class", unknown[0], classes, key="class_names")
        return [_plain(names.get(label, name)) for label, name in zip(classes, own, strict=True)]
    where = ""
    if isinstance(names, str):
        where = f" in {names}"
        names = library.IMAGENET_CLASSNAMES if names == _IMAGENET else _lines(names)
    if len(names) != len(classes):
        raise UserError(
            f"{len(names)} names{where} for {len(classes)} classes ({listed(classes)})",
            key="class_names",
        )
    return [_plain(name) for name in names]


def _plain(name: str) -> str:
    return " ".join(name.split())


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")  # -sig: written on Windows
        return text.rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(
            f"cannot be read ({reason})",
            key="class_names",
            value=path,
            allowed=f"{NAMES}, or {_IMAGENET}",
        ) from None
