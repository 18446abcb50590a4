"""CLIP's image encoders: `open_clip:MODEL[@PRETRAINED or file]`, by the library open_clip.

MODEL is one of open_clip's architectures (`ViT-B-32`), `hf-hub:owner/model`, or a folder that holds
`open_clip_config.json` and its weights. PRETRAINED is one of the tags that open_clip knows for it.
The text encoder is neither built nor loaded here: see `cosup.models.clip_text`.
"""

import importlib
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from cosup.errors import UserError, unknown_name
from cosup.models.downloads import downloads
from cosup.models.pixels import InputSpec
from cosup.models.prompts import OPEN_CLIP
from cosup.models.weights import load_into, read_weights

__all__ = [
    "TOWER",
    "ClipSource",
    "ImageTower",
    "clip_image_tower",
    "clip_source",
    "open_clip",
    "quiet",
]

log = logging.getLogger(__name__)

TOWER = "visual."
"""How the names of the image encoder's tensors begin in a checkpoint of both encoders."""
DEFAULT_SCALE = 1 / 0.07
"""The scale that CLIP starts its training with (Radford et al., arXiv 2103.00020, section 2.5)."""


@dataclass(frozen=True)
class ClipSource:
    """What a backbone's name and weights stand for.

    model: as open_clip's `create_model` takes it. settings: open_clip's of the architecture;
    preprocess: of the images. weights: the checkpoint, or None for random ones.
    """

    name: str
    model: str
    settings: dict[str, Any]
    preprocess: dict[str, Any]
    weights: str | None


class ImageTower(nn.Module):
    """Normalised images [B, 3, H, W] -> features [B, D] in the space that text shares.

    `visual` keeps open_clip's own names; `head` takes a classifier.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.head: nn.Module = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Features; of encoders that also give their tokens (CoCa's), the pooled ones."""
        found = self.visual(pixels)
        logits: Tensor = self.head(found[0] if isinstance(found, tuple) else found)
        return logits

    def no_weight_decay(self) -> set[str]:
        """What open_clip keeps from decaying."""
        own: Any = self.visual
        names = own.no_weight_decay() if hasattr(own, "no_weight_decay") else ()
        return {f"{TOWER}{name}" for name in names}


def clip_image_tower(
    name: str, weights: str | None, image_size: int | None
) -> tuple[ImageTower, InputSpec, float]:
    """The image encoder of a backbone's name, on the CPU; what it reads; and CLIP's logit scale.

    weights: `pretrained` for what the name says, a file or `package:MODULE`, or None for a random
    start (from torch's global generator). Raises `UserError` for what is not installed, not known,
    not there, or doesn't fit.
    """
    source = clip_source(name, weights)
    settings = source.settings
    vision = dict(settings["vision_cfg"])
    if image_size is not None:
        vision["image_size"] = image_size
    library = open_clip(name)
    with quiet(), downloads(name):
        visual = library.model._build_vision_tower(  # its public way builds the text encoder too
            settings["embed_dim"], vision, settings.get("quick_gelu", False)
        )
    scale = math.exp(settings.get("init_logit_scale", math.log(DEFAULT_SCALE)))
    if source.weights is not None:
        scale = _load(visual, source, library) or scale
    return ImageTower(visual), _input(name, source.preprocess, vision, visual), scale


def clip_source(name: str, weights: str | None) -> ClipSource:
    """What a backbone `open_clip:...` and its `weights` stand for; raises as `clip_image_tower`."""
    library = open_clip(name)
    model, _, tag = _parts(name.removeprefix(OPEN_CLIP))
    if tag and weights != "pretrained":
        raise UserError(
            f"backbone '{name}': names its weights, and weights is {weights!r} (allowed beside a "
            "name with @: pretrained)"
        )
    if model.startswith(("hf-hub:", "local-dir:")):
        found, preprocess, own = _described(name, model, library, weights == "pretrained")
        chosen = own if weights == "pretrained" else weights
        return ClipSource(name, model, found, preprocess, chosen)
    if model not in library.list_models():
        raise unknown_name("open_clip model", model, library.list_models())
    settings: dict[str, Any] = library.get_model_config(model)
    chosen = tag if tag else weights
    known = library.list_pretrained_tags_by_model(model)
    if chosen == "pretrained":
        raise UserError(
            f"backbone '{name}': doesn't say which weights (allowed: {OPEN_CLIP}{model}@TAG with "
            f"one of {', '.join(known) or 'no tag known'}; @FILE; or weights: null)"
        )
    if chosen is None or chosen not in known:
        if chosen is not None and tag and not Path(chosen).is_file():
            raise unknown_name(f"weights of open_clip's {model}", chosen, [*known, "a file"])
        return ClipSource(name, model, settings, {}, chosen)
    published = library.get_pretrained_cfg(model, chosen)
    _match_activation(name, settings, published)
    with quiet(), downloads(name):
        path = library.download_pretrained(published)
    return ClipSource(name, model, settings, published, str(path))


def open_clip(name: str) -> Any:
    """The library; `UserError` that says how to install it where it isn't there."""
    try:
        with quiet():
            library = importlib.import_module("open_clip")
    except ImportError as error:
        if (error.name or "").split(".")[0] != "open_clip":
            raise
        raise UserError(
            f"backbone '{name}': needs open_clip, which is not installed "
            "(pip install 'cosup[clip]')"
        ) from None
    return library


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip from the root logger (it would set one up, and say what we say ourselves)."""
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


def _parts(text: str) -> tuple[str, str, str]:
    """MODEL, `@`, and the weights; of a folder or a hub's model the whole is MODEL."""
    if text.startswith(("hf-hub:", "local-dir:")):
        return text, "", ""
    if Path(text).is_dir():
        return f"local-dir:{text}", "", ""
    return text.partition("@")


def _described(
    name: str, model: str, library: Any, with_weights: bool
) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """Settings and preprocessing that lie beside the weights, and the weights' file."""
    place = model.partition(":")[2]
    factory = library.factory
    if model.startswith("hf-hub:"):
        with quiet(), downloads(name):
            tree = factory._get_hf_config(place)
            path = library.download_pretrained_from_hf(place) if with_weights else None
    else:
        tree = _read_description(name, Path(place))
        with quiet():
            path = factory._find_checkpoint_in_dir(Path(place)) if with_weights else None
        if with_weights and path is None:
            raise UserError(f"backbone '{name}': folder '{place}' holds no weights")
    settings = tree.get("model_cfg")
    if not isinstance(settings, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= {*settings}:
        raise UserError(
            f"backbone '{name}': its open_clip_config.json has no model_cfg with embed_dim, "
            "vision_cfg and text_cfg"
        )
    return settings, tree.get("preprocess_cfg") or {}, None if path is None else str(path)


def _read_description(name: str, folder: Path) -> dict[str, Any]:
    path = folder / "open_clip_config.json"
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"backbone '{name}': no file '{path}'") from None
    except (OSError, ValueError) as error:
        raise UserError(f"backbone '{name}': '{path}' can't be read ({error})") from None
    return tree if isinstance(tree, dict) else {}


def _match_activation(name: str, settings: dict[str, Any], published: dict[str, Any]) -> None:
    """Weights that were trained with QuickGELU need it; open_clip itself only warns."""
    trained, built = published.get("quick_gelu", False), settings.get("quick_gelu", False)
    if trained and not built:
        log.info("%s: built with QuickGELU, as these weights were trained with it", name)
        settings["quick_gelu"] = True
    elif built and not trained:
        raise UserError(
            f"backbone '{name}': these weights were trained without QuickGELU (allowed: the "
            "model's name without -quickgelu)"
        )


def _load(visual: nn.Module, source: ClipSource, library: Any) -> float | None:
    """Load the image encoder's part of a checkpoint; the checkpoint's logit scale, if it has one.

    The rest of the checkpoint may be missing: the text encoder is not needed to see.
    """
    assert source.weights is not None
    state = read_weights(source.weights)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(key.startswith(TOWER) for key in state):
        with quiet():  # MobileCLIP's own names
            state = library.factory.convert_state_dict(SimpleNamespace(visual=visual), state)
    own = {key: value for key, value in state.items() if key.startswith(TOWER)}
    if not own:
        raise UserError(
            f"weights '{source.weights}': hold no image encoder of open_clip ({TOWER}...)"
        )
    with quiet():
        library.model.resize_pos_embed(own, SimpleNamespace(visual=visual))
    load_into(visual, {key.removeprefix(TOWER): t for key, t in own.items()}, source.weights)
    scale = state.get("logit_scale")
    return None if scale is None else float(scale.float().exp().flatten()[0])


def _input(
    name: str, preprocess: dict[str, Any], vision: dict[str, Any], visual: nn.Module
) -> InputSpec:
    """What the encoder reads, as open_clip prepares it for prediction."""
    found = {"interpolation": "bicubic", "resize_mode": "shortest"}
    found |= {key: value for key, value in preprocess.items() if value is not None}
    size: Any = getattr(visual, "image_size", None) or vision.get("image_size", 224)
    sides = {*size} if isinstance(size, tuple | list) else {size}
    if len(sides) != 1:
        raise UserError(f"backbone '{name}': reads images of {size} pixels, which aren't square")
    if found["resize_mode"] not in ("shortest", "squash"):
        raise UserError(
            f"backbone '{name}': resize_mode '{found['resize_mode']}' (allowed: shortest, squash)"
        )
    library = open_clip(name)
    return InputSpec(
        size=int(sides.pop()),
        mean=tuple(found.get("mean", library.OPENAI_DATASET_MEAN)),
        std=tuple(found.get("std", library.OPENAI_DATASET_STD)),
        crop_pct=1.0,
        interpolation=str(found["interpolation"]),
        squash=found["resize_mode"] == "squash",
    )
