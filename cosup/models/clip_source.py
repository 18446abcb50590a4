"""Resolve backbone names `open_clip:MODEL[@PRETRAINED or file]` to settings and weights.

MODEL is an architecture of open_clip (`ViT-B-32`), `hf-hub:owner/model`, or a folder with
`open_clip_config.json` and weights. PRETRAINED is one of open_clip's tags for the architecture.
open_clip and torch, which are slow to load, are imported where they are used.
"""

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.errors import UserError, in_short, unknown_name, unknown_of_many
from cosup.models.prompts import OPEN_CLIP

__all__ = ["DESCRIPTION", "ClipSource", "check_model", "clip_source", "open_clip", "quiet"]

DESCRIPTION = "open_clip_config.json"
"""The file beside the weights that describes their architecture and preprocessing."""
CHECKPOINTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of checkpoints that open_clip prefers, in this order."""
HUB, LOCAL = "hf-hub:", "local-dir:"
"""open_clip's marks of a model of the hub, and of one in a folder."""


@dataclass(frozen=True)
class ClipSource:
    """The architecture, preprocessing and weights of a backbone `open_clip:...`.

    model: argument of open_clip's `create_model`. settings: open_clip's settings of the
    architecture. preprocess: its settings of image preprocessing. weights: checkpoint, or None for
    random weights.
    """

    name: str
    model: str
    settings: dict[str, Any]
    preprocess: dict[str, Any]
    weights: str | None


def clip_source(name: str, weights: str | None) -> ClipSource:
    """Resolve a backbone `open_clip:...` and its `weights`. Raises as `clip_image_tower`.

    Without weights (null) the weights in the name still determine preprocessing and activation: a
    network that was fine-tuned from them is rebuilt in this way and then loaded.
    """
    library = open_clip(name)
    models: list[str] = library.list_models()
    model, tag = _parts(name.removeprefix(OPEN_CLIP), models)
    if tag and weights not in ("pretrained", None):
        raise UserError(
            f"backbone '{name}': names its weights, and weights is '{weights}' (allowed beside a "
            "name with @: pretrained, or null for a random start)"
        )
    chosen = tag if tag and weights else weights
    if model.startswith((HUB, LOCAL)):
        found, preprocess, own = _described(name, model, library, chosen == "pretrained")
        return ClipSource(name, model, found, preprocess, own or chosen)
    if model not in models:
        raise _unknown(model, models)
    settings: dict[str, Any] = library.get_model_config(model)
    known = library.list_pretrained_tags_by_model(model)
    if chosen == "pretrained":
        raise UserError(
            f"backbone '{name}': doesn't say which weights (allowed: {OPEN_CLIP}{model}@TAG with "
            f"one of {', '.join(known) or 'no tag known'}; @FILE; or weights: null)"
        )
    if chosen in known and not tag:
        raise UserError(
            f"backbone '{name}': weights '{chosen}' is a tag, which belongs to the name (allowed: "
            f"{OPEN_CLIP}{model}@{chosen})"
        )
    if tag not in known:
        if chosen and tag and not Path(tag).expanduser().is_file():
            raise unknown_name(f"weights of open_clip's {model}", tag, [*known, "a file"])
        return ClipSource(name, model, settings, {}, chosen)
    published = library.get_pretrained_cfg(model, tag)
    _match_activation(name, settings, published)
    if chosen is None:
        return ClipSource(name, model, settings, published, None)
    from cosup.models.weights import downloads

    with quiet(), downloads(name):
        path = library.download_pretrained(published)
    return ClipSource(name, model, settings, published, str(path))


def check_model(name: str, models: Sequence[str]) -> None:
    """Raise `UserError` for a model that open_clip does not have, or a folder that describes none.

    models: the architectures of open_clip. Nothing is imported or downloaded; of a model of the hub
    nothing is known here.
    """
    model, _ = _parts(name.removeprefix(OPEN_CLIP), models)
    if model.startswith(LOCAL):
        _description(name, Path(model.removeprefix(LOCAL)) / DESCRIPTION)
    elif not model.startswith(HUB) and model not in models:
        raise _unknown(model, models)


def _unknown(model: str, models: Sequence[str]) -> UserError:
    places = "open_clip.list_models(), hf-hub:owner/model, or a folder"
    allowed = f"one of the {len(models)} of {places}"
    return unknown_of_many("open_clip model", model, models, allowed)


def open_clip(name: str) -> Any:
    """Return the library. Raises `UserError` with the install command if it is missing."""
    try:
        with quiet():
            library = importlib.import_module("open_clip")
    except ImportError as error:
        if (error.name or "").split(".")[0] != "open_clip":
            raise
        raise UserError(
            f"backbone '{name}': needs open_clip, which is not installed (pip install '.[clip]')"
        ) from None
    return library


@contextmanager
def quiet() -> Iterator[None]:
    """Silence open_clip, which would configure the root logger and repeat cosup's messages."""
    handler, level = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(handler)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")
            yield
    finally:
        logging.disable(level)
        logging.root.removeHandler(handler)


def _parts(text: str, known: Sequence[str]) -> tuple[str, str]:
    """Split a name at `@` into MODEL and weights; a folder, which may contain `@`, is marked."""
    model, _, tag = text.rpartition("@")
    for place, rest in ((text, ""), (model, tag)):
        if place and place not in known and Path(place).expanduser().is_dir():
            return f"{LOCAL}{Path(place).expanduser()}", rest
    model, _, tag = text.partition("@")
    return model, tag


def _described(
    name: str, model: str, library: Any, with_weights: bool
) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """Return settings and preprocessing stored with the weights, and the file of the weights."""
    place, path = model.partition(":")[2], None
    if model.startswith(HUB):
        from huggingface_hub import hf_hub_download

        from cosup.models.weights import downloads

        with quiet(), downloads(name):
            file = Path(hf_hub_download(place, DESCRIPTION))
            if with_weights:
                path = Path(library.pretrained.download_pretrained_from_hf(place))
    else:
        file = Path(place) / DESCRIPTION
        path = checkpoint_in(Path(place)) if with_weights else None
    settings, preprocess = _description(name, file)
    if with_weights and path is None:
        raise UserError(f"backbone '{name}': folder '{place}' holds no weights")
    return settings, preprocess, None if path is None else str(path)


def _description(name: str, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the architecture and of the preprocessing in a description."""
    tree = _read_description(name, file)
    settings, preprocess = tree.get("model_cfg"), tree.get("preprocess_cfg") or {}
    parts = settings if isinstance(settings, dict) else {}
    dicts = [parts.get("vision_cfg"), parts.get("text_cfg"), preprocess]
    if "embed_dim" not in parts or not all(isinstance(part, dict) for part in dicts):
        raise UserError(
            f"backbone '{name}': its open_clip_config.json has no model_cfg with embed_dim, "
            "vision_cfg and text_cfg (and preprocess_cfg, if there is one, with keys)"
        )
    return parts, preprocess


def checkpoint_in(folder: Path) -> Path | None:
    """Return the weights in a folder, chosen as open_clip does: by name, else the first one."""
    found = sorted(
        (path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pth")),
        key=lambda path: (path.suffix != ".safetensors", path),
    )
    named = [folder / name for name in CHECKPOINTS if folder / name in found]
    return next(iter([*named, *found]), None)


def _read_description(name: str, path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"backbone '{name}': no file '{path}'") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone '{name}': '{path}' is not readable ({in_short(error)})"
        ) from None
    return tree if isinstance(tree, dict) else {}


def _match_activation(name: str, settings: dict[str, Any], published: dict[str, Any]) -> None:
    """Use QuickGELU for weights that were trained with it; open_clip only warns."""
    trained, built = published.get("quick_gelu", False), settings.get("quick_gelu", False)
    if trained:
        settings["quick_gelu"] = True
    elif built and "-quickgelu" in name:  # other settings are more reliable than their tags
        raise UserError(
            f"backbone '{name}': these weights were trained without QuickGELU (allowed: the "
            "model's name without -quickgelu)"
        )
