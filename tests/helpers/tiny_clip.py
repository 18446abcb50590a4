"""Tiny CLIPs of open_clip's own architectures, with random weights, in folders as it has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from cosup.files import save_tensors, write_json

VISION: dict[str, Any] = {
    "image_size": 28,
    "patch_size": 7,
    "width": 64,
    "head_width": 32,
    "layers": 2,
}
TEXT: dict[str, Any] = {
    "context_length": 16,
    "vocab_size": 49408,
    "width": 32,
    "heads": 2,
    "layers": 1,
}
SHORT = {**TEXT, "vocab_size": 8}
"""For images alone: it reads no token of the tokenizer's."""
PREPROCESS = {"mean": [0.3, 0.4, 0.5], "std": [0.2, 0.25, 0.3]}


def architecture(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """`model_cfg`: 32 features, and what else is not given as `VISION` and `TEXT` have it."""
    return {"embed_dim": 32, "vision_cfg": vision or VISION, "text_cfg": text or TEXT, **more}


def random_clip(folder: Path, seed: int = 0) -> nn.Module:
    """open_clip's model of the folder's description, in eval mode; its scale is exp(3)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        with torch.no_grad():
            _as_if_trained(model)
    return model.eval()


def _as_if_trained(model: Any) -> None:
    """Batch norms that change something, no layer at zero, and a scale of its own."""
    for name, tensor in (*model.named_buffers(), *model.named_parameters()):
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.add_(0.1 * torch.randn_like(tensor))
    model.logit_scale.fill_(3.0)


def write_clip(
    folder: Path,
    model_cfg: dict[str, Any] | None = None,
    preprocess: dict[str, Any] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Write the folder `open_clip:FOLDER` and return open_clip's own model of it."""
    described = {
        "model_cfg": model_cfg or architecture(),
        "preprocess_cfg": PREPROCESS if preprocess is None else preprocess,
    }
    write_json(folder / "open_clip_config.json", described)
    model = random_clip(folder, seed)
    save_tensors(folder / "open_clip_model.safetensors", model.state_dict())
    return model


@contextmanager
def one_vocabulary() -> Iterator[None]:
    """Tests that tokenize often read the vocabulary once: it takes a third of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "SimpleTokenizer", cache(open_clip.SimpleTokenizer))
        yield
