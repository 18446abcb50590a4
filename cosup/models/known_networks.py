"""Check that a library has a network, without torch as far as possible.

Importing torch and timm takes seconds. So a name is first looked for in the text of the library's
source: where it is found, it is known. Only for a name that is not, the library is asked itself
(but open_clip, whose models are files).
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from cosup.models.clip_source import check_model, open_clip
from cosup.models.names import HUB, OWN, TORCHVISION, check_weights, no_pooled_conv
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection

__all__ = ["check_backbone", "check_features", "check_network_name"]


def check_backbone(section: BackboneSection) -> None:
    """Raise `UserError` for an unknown network, features that it does not have, or weights that are
    not here."""
    check_network_name(section.name, section.weights)
    check_weights(section.weights)
    check_features(section)


def check_features(section: BackboneSection) -> None:
    """Raise `UserError` for features that no network of this name has."""
    if section.features == "pooled_conv" and not section.name.startswith(TORCHVISION):
        raise no_pooled_conv(section.name)


def check_network_name(name: str, weights: str | None) -> None:
    """Raise `UserError` for a name that no library has, or not with weights of its own.

    weights: as for a backbone. Nothing is built or downloaded.
    """
    pretrained = weights == "pretrained"
    if name.startswith(OPEN_CLIP):
        _check_clip(name)
    elif not (name.startswith(HUB) or _in_source(name, pretrained)):
        from cosup.models.networks import check_name  # imports torch and timm

        check_name(name, pretrained)


def _check_clip(name: str) -> None:
    """Raise `UserError` without open_clip, and for a model that it does not have."""
    if find_spec("open_clip") is None:
        open_clip(name)  # raises, with how to install it
    folder = _folder("open_clip") / "model_configs"
    check_model(name, sorted(file.stem for file in folder.glob("*.json")))


def _in_source(name: str, pretrained: bool) -> bool:
    """Return whether the library's source has this network (and weights of it).

    A no is not certain, and what it says of weights is not either: that is seen when they are read.
    torchvision has weights of every network.
    """
    if name.startswith(TORCHVISION):
        short = re.escape(name.removeprefix(TORCHVISION).encode())
        network = re.compile(rb"@register_model\(\)\n(@.*\n)*def " + short + rb"\(")
        return any(map(network.search, _sources(_folder("torchvision") / "models")))
    base = name.partition(".")[0].encode()
    for begin, file in OWN.items():
        if name.startswith(begin):
            text = Path(__file__).with_name(file).read_bytes()
            return not pretrained and b'"' + base + b'":' in text
    if not re.fullmatch(r"\w+", base.decode()):
        return False
    defined = b"@register_model\ndef " + base + b"("
    for text in _sources(_folder("timm") / "models"):
        if defined in text:
            return not pretrained or _has_weights(name.encode(), text)
    return False


def _has_weights(name: bytes, text: bytes) -> bool:
    """Return whether a file of timm's has an address of weights of this name (and tag)."""
    tag = b"" if b"." in name else rb"(\.[^'\"]*)?"
    entry = re.search(rb"['\"]" + re.escape(name) + tag + rb"['\"]\s*:\s*\w+\(", text)
    if entry is None:
        return False
    content = re.split(rb"['\"]\s*:\s*\w+\(", text[entry.end() :], maxsplit=1)[0]  # of this entry
    return re.search(rb"^[^#\n]*\b(url|hf_hub_id)\s*=\s*['\"]\w", content, re.M) is not None


def _sources(folder: Path) -> Iterator[bytes]:
    for file in sorted(folder.glob("*.py")):
        yield file.read_bytes()


def _folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = find_spec(package)
    return Path((spec.origin if spec else None) or "").parent
