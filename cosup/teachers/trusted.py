"""Which teachers may be loaded from a file that anybody may have written."""

from collections.abc import Collection

from cosup.config.teacher_model import TeacherModelSection
from cosup.models.trusted import check_module
from cosup.settings.teachers import CALL

__all__ = ["check_teacher_from_elsewhere"]


def check_teacher_from_elsewhere(model: TeacherModelSection, packages: Collection[str]) -> None:
    """Raise `UserError` for a function, or a package of weights, that is not allowed.

    packages: modules that are allowed beside `cosup.models.trusted.PACKAGES`. The backbone of a
    model is checked where it is loaded, because it may be stored elsewhere than it says.
    """
    if model.traits.kind == CALL:
        check_module(model.match.argument.partition(":")[0], packages)
