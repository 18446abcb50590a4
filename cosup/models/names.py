"""Names of networks, and the places of weights."""

import importlib
from importlib.util import find_spec
from pathlib import Path

from cosup.errors import UserError

__all__ = [
    "CIFAR",
    "FEW_SHOT",
    "HUB",
    "OWN",
    "TORCHVISION",
    "check_weights",
    "is_weights_file",
    "module_of",
    "no_pooled_conv",
    "unusable",
    "weights_file",
]

HUB = ("hf-hub:", "hf_hub:")
TORCHVISION = "torchvision:"
CIFAR, FEW_SHOT = "cifar_", "few_shot_"
OWN = {CIFAR: "cifar.py", FEW_SHOT: "few_shot_networks.py"}
"""What the names of cosup's own networks begin with, and the files that have them."""
PACKAGE = "package:"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")


def no_pooled_conv(name: str) -> UserError:
    """Return the error for a network without layers between its convolutions and its classifier."""
    return UserError(
        f"is for networks of torchvision whose classifier has hidden layers, not for '{name}'",
        key="features",
        value="pooled_conv",
        allowed="penultimate; pooled_conv with torchvision:alexnet, torchvision:vgg16, ...",
    )


def check_weights(weights: str | None) -> None:
    """Raise `UserError` for a weights file, or a package of weights, that is not here."""
    if weights is None or weights == "pretrained":
        return
    if not weights.startswith(PACKAGE):
        weights_file(weights)
    elif find_spec(module_of(weights).partition(".")[0]) is None:
        raise _no_package(module_of(weights))


def is_weights_file(weights: str | None) -> bool:
    """Return whether weights, given as for a backbone, are a file of this machine."""
    return weights not in (None, "pretrained") and not str(weights).startswith(PACKAGE)


def weights_file(spec: str) -> Path:
    """Return the file of `package:MODULE` or of a path.

    Raises `UserError` if it is missing, or has an unknown ending.
    """
    path = _package_file(module_of(spec)) if spec.startswith(PACKAGE) else Path(spec)
    path = path.expanduser()
    if not path.is_file():
        allowed = f"a .safetensors file, or a state dict in {', '.join(PICKLES)}"
        raise unusable(spec, "no such file", f"pretrained, {PACKAGE}MODULE, {allowed}")
    if path.suffix not in (".safetensors", *PICKLES):
        allowed = ", ".join((".safetensors", *PICKLES))
        raise unusable(path, f"unknown ending '{path.suffix}'", allowed)
    return path


def unusable(spec: str | Path, problem: str, allowed: str | None = None) -> UserError:
    """Return the error for weights that cannot be used."""
    # In the text, not as its value: a long path would be cut.
    return UserError(f"weights '{spec}': {problem}", allowed=allowed)


def module_of(spec: str) -> str:
    """Return the module of `package:MODULE`."""
    module = spec.removeprefix(PACKAGE)
    if not module.strip("."):
        raise unusable(spec, "names no module", f"{PACKAGE}MODULE")
    return module


def _package_file(module: str) -> Path:
    """Return the weights file of an installed package: `*ModelFile.get_model_file_path()`."""
    try:
        package = importlib.import_module(module)
    except ImportError:
        raise _no_package(module) from None
    for name, value in vars(package).items():
        if name.endswith("ModelFile") and hasattr(value, "get_model_file_path"):
            return Path(value.get_model_file_path())
    text = "the module has no class *ModelFile with get_model_file_path()"
    raise unusable(PACKAGE + module, text)


def _no_package(module: str) -> UserError:
    text = f"module '{module}' is not installed (pip install {module.replace('_', '-')})"
    return unusable(PACKAGE + module, text)
