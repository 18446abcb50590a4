"""Read weights from files, installed packages and the hub, and load them into networks.

Pickles are loaded with `weights_only=True` only. Weights are matched by name, else in order: a
packaged EfficientNet-Lite0 has timm's 296 tensors in the same order under other names. All shapes
are checked in both cases.
"""

import hashlib
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

from cosup.errors import RunError, UserError, in_short
from cosup.models.names import unusable, weights_file

__all__ = [
    "check_identity",
    "downloads",
    "hash_tensors",
    "hub_client",
    "hub_resolves",
    "load_into",
    "read_weights",
]


@contextmanager
def downloads(name: str) -> Iterator[None]:
    """Restrict downloads to safe unpickling; raise `UserError` for one that fails.

    name: name of the network.
    """
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with hub_client():
            yield
    except (UserError, TypeError):
        raise
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(
            f"the pretrained weights of '{name}' cannot be downloaded "
            f"({in_short(error, named=True)}); offline, set weights to a file (.safetensors or a "
            "state dict)",
        ) from None
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


@contextmanager
def hub_client() -> Iterator[None]:
    """Let the hub's client work from its cache where the hub's address does not resolve."""
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not hub_resolves()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def hub_resolves() -> bool:
    """Return whether the hub's address resolves; its client retries for almost a minute if not."""
    if is_offline_mode() or any(name.lower().endswith("_proxy") for name in os.environ):
        return True  # the client is offline, or a proxy resolves the name
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


State = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints keep weights
HEAD_NAMES = ("classifier", "fc", "head", "heads", "head_dist", "last_linear", "aux")
SHOWN = 3  # mismatches named in an error


def read_weights(spec: str) -> State:
    """Return the tensors of `package:MODULE`, a .safetensors file, or a state dict saved by torch.

    Raises `UserError` for a file that is missing, unreadable or has another format than its ending.
    """
    path = weights_file(spec)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise unusable(path, f"not a safetensors file ({_line(error)})") from None
    except OSError as error:
        raise unusable(path, f"not readable ({_line(error)})") from None
    except Exception as error:  # a file that is no pickle raises errors of many kinds
        text = f"not a state dict that torch loads safely ({_line(error)})"
        raise unusable(path, text) from None
    return _unwrap(loaded, path)


def load_into(
    model: nn.Module, state: Mapping[str, Tensor], source: str, drop_classifier: bool = False
) -> None:
    """Copy `state` into `model`, by name if the names match, else in order.

    source: origin of the state, for errors. drop_classifier: ignore the classifier of `state`,
    because the model has none. Raises `UserError` with the first tensors that do not fit.
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
        raise unusable(source, f"do not fit the model: {problems[0] if shared else problem}")
    model.load_state_dict(fitted)


def hash_tensors(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_identity(found: str, expected: str, what: str) -> None:
    """Raise `RunError` if a model of this process is not that of the run's. what: the model."""
    if found != expected:
        raise RunError(
            f"{what} on node {os.uname().nodename} differs from that of the run: the files "
            "(weights, code) and the versions of libraries must be the same on every node"
        )


def _unwrap(loaded: Any, path: Path) -> State:
    """Return the tensors of a state dict, or of a checkpoint that contains one."""
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = loaded.items() if isinstance(loaded, Mapping) else []
    state = {str(name): value for name, value in tensors if isinstance(value, Tensor)}
    if not state:
        allowed = f"a state dict, or a checkpoint with one under {', '.join(WRAPPERS)}"
        raise unusable(path, "contains no named tensors", allowed)
    return state


def _without_prefix(state: Mapping[str, Tensor]) -> State:
    """Remove the first part of the names if all share it (`module.`, `model.`, `backbone.`)."""
    heads = {name.split(".")[0] for name in state}
    if len(heads) != 1:
        return dict(state)
    return {name.partition(".")[2] or name: tensor for name, tensor in state.items()}


def _converter(model: nn.Module) -> Callable[[Mapping[str, Tensor]], State]:
    """Return timm's conversion of published checkpoints (names, position embeddings), if any."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)

    def converted(state: Mapping[str, Tensor]) -> State:
        if convert is None:
            return dict(state)
        try:
            return {k: v for k, v in convert(dict(state), model).items() if isinstance(v, Tensor)}
        except Exception:  # made for one family's files; others raise errors of many kinds
            return dict(state)

    return converted


def _by_name(
    wanted: State, given: Mapping[str, Tensor], drop_classifier: bool
) -> tuple[State | None, str]:
    """Match tensors by name: return what to load and no problem, or None and the problems."""
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
    """Match tensors in order, except the counters of batch norms; return as `_by_name`."""
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
    text = in_short(error)
    # The message of torch's KeyError is only a number.
    return text if " " in text else type(error).__name__
