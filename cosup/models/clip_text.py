"""Compute text features of class names by CLIP's text encoder, the start of class prototypes.

A class's features are the mean of its prompts' unit features, scaled to unit length (the prompt
ensemble of Radford et al., arXiv 2103.00020, section 3.1.4; `cosup/METHODS.md`, section 3). They
are cached, so that the encoder runs once per list of prompts; prediction does not need it.
"""

import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import normalize

from cosup.errors import UserError, in_short, within
from cosup.models.clip import TOWER
from cosup.models.clip_source import ClipSource, clip_source, open_clip, quiet
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.extraction import Conditions
from cosup.models.learnt_prompts import LearntPrompts
from cosup.models.names import weights_file
from cosup.models.prompts import HOLE, Prompts, build_prompts
from cosup.models.section import BackboneSection, HeadSection
from cosup.models.weights import downloads, hash_tensors
from cosup.seeds import seed_for
from cosup.shared_files import read_shared, write_shared
from cosup.words import plural

__all__ = ["check_prompts", "learnt_prompts", "prompts_of", "text_features"]

log = logging.getLogger(__name__)

BATCH = 256  # prompts encoded at a time
DEFAULT_LENGTH = 77  # tokens, where an architecture doesn't say
UNREADABLE = (SafetensorError, pickle.UnpicklingError, EOFError)
Encode = Callable[[Sequence[str], int], Tensor]


def check_prompts(backbone: BackboneSection, head: HeadSection, classes: Sequence[str]) -> None:
    """Raise `UserError` for a head that cannot start from text.

    Checks the backbone, names, templates, and the length of the prompts: a tokenizer would truncate
    long ones without a warning.
    """
    with within("init"):
        source = clip_source(backbone.name, backbone.weights)
        encode = _tokenizer(source)
    key = "context" if head.init == "prompts" else "templates"
    _tokens(source, prompts_of(backbone, head, classes), encode, key)


def prompts_of(backbone: BackboneSection, head: HeadSection, classes: Sequence[str]) -> Prompts:
    """Return the prompts of a head that reads text. Raises as `build_prompts`.

    Those that are learnt have placeholders in place of their context.
    """
    learnt = f"{placeholders(head.context)} {HOLE}."
    templates = learnt if head.init == "prompts" else head.templates
    return build_prompts(templates, head.class_names, classes, open_clip(backbone.name))


def placeholders(count: int) -> str:
    """Return a text of this many tokens, which is a word of its own before any other."""
    return " ".join("X" * count)


def learnt_prompts(backbone: BackboneSection, prompts: Prompts, count: int) -> LearntPrompts:
    """Return the text encoder, on the CPU, with the prompts whose context is learnt.

    prompts: as `prompts_of` gives them, with `count` placeholders. Raises `UserError` for a
    checkpoint without a text encoder, and for a tokenizer that splits the placeholders otherwise.
    """
    source = clip_source(backbone.name, backbone.weights)
    encode = _tokenizer(source)
    tokens = _tokens(source, prompts, encode, "context")
    empty, alone = encode(["", placeholders(count)], tokens.shape[1])
    first = int((empty != alone).nonzero()[0])
    others = tokens[:, first : first + count] != alone[first]
    if bool(others.any()) or int((alone == alone[first]).sum()) != count:
        problem = f"its tokenizer does not read '{placeholders(2)}' as two tokens"
        raise UserError(f"backbone '{source.name}': {problem}, which learnt prompts need")
    return LearntPrompts(_load(source), tokens, first, count)


def text_features(
    backbone: BackboneSection, prompts: Prompts, compute: Compute = DEFAULT_COMPUTE
) -> Tensor:
    """Return text features [C, D] float32 of unit length, in the space of the image features.

    They are read from the cache, or computed and cached. Raises `UserError` for a checkpoint
    without a text encoder, `RunError` for a full disk.
    """
    source = clip_source(backbone.name, backbone.weights)
    tokens = _tokens(source, prompts, _tokenizer(source))
    encoder = _load(source)
    key = _key(encoder, source, tokens, len(prompts.templates), compute.device)
    file = None if compute.cache is None else compute.cache / "text" / f"{key}.safetensors"
    cached = None if file is None else read_shared(file)
    if cached is not None:
        return load(cached)["features"]
    encoder = encoder.to(compute.device).eval()
    features = _encode(encoder, tokens, len(prompts.templates), compute.device)
    if file is not None:
        write_shared(file, save({"features": features}))
    log.info(
        "text features: %d classes, %s",
        len(prompts.names),
        plural(len(prompts.templates), "template"),
    )
    return features


@torch.inference_mode()
def _encode(encoder: Any, tokens: Tensor, templates: int, device: torch.device) -> Tensor:
    """Return features [C, D] of tokens [C * templates, L]."""
    parts = [
        normalize(encoder.encode_text(part.to(device)).float(), dim=-1).cpu()
        for part in torch.split(tokens, BATCH)
    ]
    each = torch.cat(parts)
    each = each.view(-1, templates, each.shape[1])
    return normalize(each.mean(1), dim=-1).clone()


def _tokenizer(source: ClipSource) -> Encode:
    """Return a function of texts and a length L to tokens [N, L]; may download the tokenizer."""
    library = open_clip(source.name)
    with quiet(), downloads(f"{source.name} (its tokenizer)"):
        found: Any = library.get_tokenizer(source.model)

    def encode(texts: Sequence[str], length: int) -> Tensor:
        with quiet():
            tokens: Tensor = found(list(texts), context_length=length)
        return tokens

    return encode


def _tokens(source: ClipSource, prompts: Prompts, encode: Encode, key: str = "templates") -> Tensor:
    """Return tokens [C * templates, L] int64. Raises `UserError` (key) for a prompt longer than L.

    A truncated prompt has fewer than two tokens of padding (one may be the end token).
    """
    length: int = source.settings["text_cfg"].get("context_length") or DEFAULT_LENGTH
    texts = prompts.texts()
    tokens = encode(texts, length)
    padding = encode([""], 4 * length).mode().values
    full = torch.nonzero((tokens[:, -2:] != padding).any(1))[:, 0].tolist()
    if not full:
        return tokens
    room = length + 4 * max(len(texts[row].encode()) for row in full)
    needed = (encode([texts[row] for row in full], room) != padding).sum(1)
    cut = torch.nonzero(needed > (tokens[full] != padding).sum(1))[:, 0].tolist()
    if cut:
        text, least = texts[full[cut[0]]], int(needed[cut[0]])
        fits = (n for n in range(least, room) if (encode([text], n) != padding).sum() == least)
        raise UserError(
            f"the prompt '{text}' is {next(fits, room)} tokens long with its start and end, and "
            f"the text encoder of {source.name} reads {length}",
            key=key,
        )
    return tokens


def _load(source: ClipSource) -> Any:
    """Return open_clip's model without the image encoder, on the CPU."""
    library = open_clip(source.name)
    with torch.random.fork_rng(devices=[]), quiet(), downloads(source.name):
        torch.manual_seed(seed_for(0, "text", source.name))
        try:
            model = library.create_model(
                source.model,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=bool(source.settings.get("quick_gelu", False)),
            )
        except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
            raise UserError(
                f"backbone '{source.name}': open_clip cannot build its text encoder "
                f"({in_short(error)})"
            ) from None
    if source.weights is None:
        log.warning("%s has random weights: its text features are meaningless", source.name)
    else:
        _load_weights(model, source.weights, source.name)
    del model.visual
    return model


def _load_weights(model: torch.nn.Module, weights: str, name: str) -> None:
    """Load all weights except those of the image encoder."""
    path = weights_file(weights)
    try:
        with quiet():
            keys: Any = open_clip(name).load_checkpoint(model, str(path), strict=False)
    except (RuntimeError, ValueError, KeyError, AssertionError, *UNREADABLE) as error:
        text = in_short(error)
    else:
        parts = {"missing": keys.missing_keys, "not in the model": keys.unexpected_keys}
        found = {part: [k for k in ks if not k.startswith(TOWER)] for part, ks in parts.items()}
        text = "; ".join(f"{', '.join(ks[:3])}: {part}" for part, ks in found.items() if ks)
    if text:
        raise UserError(f"weights '{path}': hold no text encoder that fits {name} ({text})")


def _key(
    encoder: torch.nn.Module,
    source: ClipSource,
    tokens: Tensor,
    templates: int,
    device: torch.device,
) -> str:
    """Return a hash of everything that the features depend on."""
    state = {k: v for k, v in encoder.state_dict().items() if not k.startswith(TOWER)}
    # Number of heads, activation and pooling are not visible in tensors.
    settings = {k: v for k, v in source.settings.items() if k != "vision_cfg"}
    conditions = Conditions.of(device, BATCH).key
    parts = [hash_tensors(state), settings, templates, *tokens.shape, conditions]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    digest.update(tokens.numpy().tobytes())
    return digest.hexdigest()[:32]
