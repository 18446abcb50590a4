"""The registry of teacher kinds, and the traits of each.

A model's `use` selects a kind, or else its `name` does (`match_kind`): the name of a registered
kind, `kind:argument` for a kind that takes an argument (`call:module:function`), or else the name
of a network. An installed package adds a kind through the entry point group `cosup.teachers`: the
entry's name is the kind's name and its value is a subclass of `cosup.teachers.base.Teacher`.
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Literal

from cosup.errors import UserError, in_short, unknown_name
from cosup.settings import Entry

__all__ = [
    "CALL",
    "NETWORK",
    "PRETRAINED",
    "SIMULATED",
    "TABLE",
    "TEACHERS",
    "ZERO_SHOT",
    "CallKind",
    "KindMatch",
    "LinearFeaturesKind",
    "LinearPixelsKind",
    "NetworkKind",
    "PretrainedKind",
    "SimulatedKind",
    "TableKind",
    "TeacherTraits",
    "ZeroShotKind",
    "import_function",
    "known_kinds",
    "match_kind",
]

NETWORK, CALL, TABLE, SIMULATED = "network", "call", "table", "simulated"
PRETRAINED, ZERO_SHOT = "pretrained", "zero_shot"

GROUP = "cosup.teachers"
"""The entry point group of installed packages."""

SIMILAR = 0.8
"""A name this similar to a kind of cosup's own is a misspelt kind, not the name of a network."""


class TeacherTraits:
    """Traits of a kind of teacher. A subclass sets those that differ from the defaults."""

    kind: ClassVar[str]
    """The name it is registered under."""
    selected_by: ClassVar[Literal["name", "argument", "other", "use", "external"]] = "name"
    """How a config selects it: by its name, by `kind:argument`, by any other name (networks), by
    `use: kind`, or by an entry of `teachers.external`."""
    is_network: ClassVar[bool] = False
    """It is a `Classifier`, whose feature maps and live annotations can be used."""
    reads_images: ClassVar[bool] = False
    """It annotates decoded images, so any process with the data can train it and annotate."""
    has_embedding: ClassVar[bool] = False
    """It has `embed`, which few-shot evaluation needs."""
    cross_fits: ClassVar[bool] = False
    """It is cheap enough to be trained again on parts of its samples, to predict the others."""
    fits_many: ClassVar[bool] = False
    """The teachers of a level are fitted together, in one loop."""
    needs_labelled_samples: ClassVar[bool] = False
    """It is trained on the labelled samples of its scope."""
    has_weights: ClassVar[bool] = False
    """It has weights that a run stores (`state`)."""
    knows_more: ClassVar[bool] = False
    """It has classes that are not in its scope, whose probability `outside` tells."""
    augments: ClassVar[bool] = False
    """A head that can be trained on the features of augmented images."""
    training: ClassVar[Literal["head", "network"] | None] = None
    """Which settings of `teachers.training` it accepts: a head's or a network's; None checks
    nothing."""
    required: ClassVar[tuple[str, ...]] = ()
    """The keys of `teachers.model` that must be given."""


class LinearPixelsKind(TeacherTraits):
    """A linear model on the image's grey pixels, scaled down: the weakest teacher."""

    kind = "linear_pixels"
    reads_images = True
    cross_fits = True
    fits_many = True
    needs_labelled_samples = True
    has_weights = True
    training = "head"


class LinearFeaturesKind(TeacherTraits):
    """A linear model on the frozen features of a weak backbone."""

    kind = "linear_features"
    has_embedding = True
    cross_fits = True
    fits_many = True
    needs_labelled_samples = True
    has_weights = True
    augments = True
    training = "head"
    required = ("backbone",)


class NetworkKind(TeacherTraits):
    """A network, trained from scratch or from weights, or a checkpoint used unchanged."""

    kind = NETWORK
    selected_by = "other"
    is_network = True
    reads_images = True
    has_embedding = True
    needs_labelled_samples = True
    has_weights = True
    training = "network"


class PretrainedKind(TeacherTraits):
    """A pretrained classifier, used as it is: its classes are mapped onto the task's."""

    kind = PRETRAINED
    selected_by = "use"
    is_network = True
    reads_images = True
    has_embedding = True
    has_weights = True
    knows_more = True


class ZeroShotKind(TeacherTraits):
    """CLIP, which compares images with prompts of the class names; nothing is trained."""

    kind = ZERO_SHOT
    selected_by = "use"
    has_embedding = True
    has_weights = True


class CallKind(TeacherTraits):
    """A Python function: images -> probabilities."""

    kind = CALL
    selected_by = "argument"
    reads_images = True


class TableKind(TeacherTraits):
    """An annotation table made by people, by rules or by another system."""

    kind = TABLE
    selected_by = "external"


class SimulatedKind(TeacherTraits):
    """A simulated annotator, made from the true labels: a planning tool."""

    kind = SIMULATED
    selected_by = "external"


TEACHERS: dict[str, Entry] = {
    "linear_pixels": Entry(LinearPixelsKind, "cosup.teachers.linear:LinearPixels"),
    "linear_features": Entry(LinearFeaturesKind, "cosup.teachers.linear:LinearFeatures"),
    NETWORK: Entry(NetworkKind, "cosup.teachers.network:NetworkTeacher"),
    PRETRAINED: Entry(PretrainedKind, "cosup.teachers.pretrained:PretrainedTeacher"),
    ZERO_SHOT: Entry(ZeroShotKind, "cosup.teachers.zero_shot:ZeroShotTeacher"),
    CALL: Entry(CallKind, "cosup.teachers.callable:CallableTeacher"),
    TABLE: Entry(TableKind, "cosup.teachers.table:TableTeacher"),
    SIMULATED: Entry(SimulatedKind, "cosup.teachers.simulated:SimulatedTeacher"),
}


@dataclass(frozen=True)
class KindMatch:
    """A matched `teachers.model.name`: the kind's entry, and the argument after its name."""

    entry: Entry
    argument: str = ""

    @property
    def traits(self) -> type[TeacherTraits]:
        """The traits of the kind."""
        traits: type[TeacherTraits] = self.entry.settings
        return traits


def known_kinds() -> dict[str, Entry]:
    """Return every registered kind; kinds of installed packages are imported."""
    return {**{name: _installed_entry(name) for name in _entry_points()}, **TEACHERS}


def match_kind(name: str, use: str | None = None) -> KindMatch:
    """Match a model's `use` or else its `name` to a kind of teacher.

    cosup's own kinds take precedence over those of installed packages. Raises `UserError` for a
    name that is almost that of a kind.
    """
    if use is not None:
        return KindMatch(TEACHERS[use])
    head, colon, argument = name.partition(":")
    entry = TEACHERS.get(head)
    if entry is None and head in _entry_points():
        entry = _installed_entry(head)
    if entry is not None and entry.settings.selected_by == ("argument" if colon else "name"):
        return KindMatch(entry, argument)
    if difflib.get_close_matches(name, _selected_by_name(TEACHERS), n=1, cutoff=SIMILAR):
        raise unknown_name("teachers.model.name", name, _selected_by_name(known_kinds()))
    return KindMatch(TEACHERS[NETWORK])


def import_function(name: str) -> Callable[..., Any]:
    """Import the function of `call:MODULE:FUNCTION`.

    Modules are searched on Python's path and in the working directory. Raises `UserError`.
    """
    module_name, _, function_name = match_kind(name).argument.partition(":")
    if not module_name or not function_name:
        problem = "does not name a function"
        raise UserError(problem, value=name, allowed="call:MODULE:FUNCTION")
    sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = in_short(error, named=True)
        raise UserError(f"cannot import '{module_name}': {reason}", value=name) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"'{module_name}' has no function '{function_name}'", value=name)
    found: Callable[..., Any] = function
    return found


def _selected_by_name(kinds: Mapping[str, Entry]) -> list[str]:
    return [kind for kind, entry in kinds.items() if entry.settings.selected_by == "name"]


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def _installed_entry(name: str) -> Entry:
    """Import the class of an installed package: it holds its traits itself."""
    point = _entry_points()[name]
    return Entry(point.load(), point.value)
