"""Text features of class names by CLIP's text encoder: the start of class prototypes.

A class's features are the mean of its prompts' unit features, scaled to unit length (the prompt
ensemble of Radford et al., arXiv 2103.00020, section 3.1.4). They are kept in the cache, so that
the encoder runs once per list of prompts; prediction never needs it.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from cosup.errors import UserError
from cosup.files import save_tensors
from cosup.models.backbones import hash_tensors
from cosup.models.clip import TOWER, ClipSource, clip_source, open_clip, quiet
from cosup.models.downloads import downloads
from cosup.models.prompts import Prompts, build_prompts
from cosup.models.section import BackboneSection, HeadSection
from cosup.models.weights import weights_file
from cosup.seeds import seed_for

__all__ = ["check_prompts", "text_features"]

log = logging.getLogger(__name__)

BATCH = 256  # prompts encoded at a time


def check_prompts(backbone: BackboneSection, head: HeadSection, classes: Sequence[str]) -> Prompts:
    """The prompts of a head that starts from text, once it is sure that they can be encoded whole.

    Raises `UserError` for names and templates that aren't right, and for a prompt that is longer
    than the text encoder reads (a tokenizer would cut it in silence).
    """
    prompts = build_prompts(head.templates, head.class_names, classes, open_clip(backbone.name))
    _tokens(clip_source(backbone.name, backbone.weights), prompts)
    return prompts


def text_features(
    backbone: BackboneSection,
    prompts: Prompts,
    cache: Path,
    device: torch.device | str = "cpu",
) -> Tensor:
    """[C, D] float32 of unit length: a class's prompts, in the space of the backbone's features.

    Out of the cache, or encoded and put there. Raises `UserError` for a checkpoint without a text
    encoder, `RunError` for a full disk.
    """
    source = clip_source(backbone.name, backbone.weights)
    tokens = _tokens(source, prompts)
    encoder = _load(source)
    key = _key(encoder, tokens, len(prompts.templates))
    file = cache / "text" / f"{key}.safetensors"
    try:
        return load_file(file)["features"]
    except (FileNotFoundError, SafetensorError, KeyError):
        pass
    features = _encode(encoder.to(device).eval(), tokens, len(prompts.templates), device)
    save_tensors(file, {"features": features})
    log.info(
        "text features: %d classes, %d template%s",
        len(prompts.names),
        len(prompts.templates),
        "" if len(prompts.templates) == 1 else "s",
    )
    return features


@torch.inference_mode()
def _encode(encoder: Any, tokens: Tensor, templates: int, device: torch.device | str) -> Tensor:
    """[C, D] of tokens [C * templates, L]."""
    parts = [
        normalize(encoder.encode_text(part.to(device)).float(), dim=-1).cpu()
        for part in torch.split(tokens, BATCH)
    ]
    each = torch.cat(parts)
    each = each.view(-1, templates, each.shape[1])
    return normalize(each.mean(1), dim=-1).clone()


def _tokens(source: ClipSource, prompts: Prompts) -> Tensor:
    """[C * templates, L] int64; `UserError` for a prompt that doesn't fit in L."""
    library, texts = open_clip(source.name), prompts.texts()
    length: int = source.settings["text_cfg"].get("context_length") or 77
    with quiet(), downloads(f"{source.name} (its tokenizer)"):
        tokenizer: Any = library.get_tokenizer(source.model)
        tokens: Tensor = tokenizer(texts, context_length=length)
        longer: Tensor = tokenizer([*texts, ""], context_length=4 * length)
    padding = longer[-1, -1]
    cut = (longer[:-1] != padding).sum(1) > (tokens != padding).sum(1)
    if bool(cut.any()):
        text = texts[int(cut.nonzero()[0])]
        count = int((longer[:-1] != padding).sum(1)[cut][0])
        raise UserError(
            f"templates: the prompt '{text}' is {count} tokens long with its start and end, and "
            f"the text encoder of {source.name} reads {length}"
        )
    return tokens


def _load(source: ClipSource) -> Any:
    """open_clip's whole model without the image encoder, on the CPU."""
    library = open_clip(source.name)
    with torch.random.fork_rng(devices=[]), quiet(), downloads(source.name):
        torch.manual_seed(seed_for(0, "text", source.name))
        model = library.create_model(
            source.model,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=bool(source.settings.get("quick_gelu", False)),
        )
    if source.weights is None:
        log.warning("%s: random weights: its text features mean nothing", source.name)
    else:
        path = weights_file(source.weights)
        try:
            with quiet():
                library.load_checkpoint(model, str(path))
        except (RuntimeError, KeyError) as error:
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"weights '{path}': hold no text encoder that fits {source.name} ({text})"
            ) from None
    del model.visual
    return model


def _key(encoder: torch.nn.Module, tokens: Tensor, templates: int) -> str:
    """A hash of all that the features depend on."""
    state = {k: v for k, v in encoder.state_dict().items() if not k.startswith(TOWER)}
    digest = hashlib.sha256(json.dumps([hash_tensors(state), templates, *tokens.shape]).encode())
    digest.update(tokens.numpy().tobytes())
    return digest.hexdigest()[:32]
