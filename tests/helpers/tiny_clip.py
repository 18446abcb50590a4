"""Write tiny CLIPs of open_clip's architectures with random weights, in its folder format."""

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
"""Text tower for tests that encode only images; its vocabulary is not the tokenizer's."""
PREPROCESS = {"mean": [0.3, 0.4, 0.5], "std": [0.2, 0.25, 0.3]}


def architecture(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a `model_cfg` with 32 features; the defaults are `VISION` and `TEXT`."""
    return {"embed_dim": 32, "vision_cfg": vision or VISION, "text_cfg": text or TEXT, **more}


def random_clip(folder: Path, seed: int = 0) -> nn.Module:
    """Return open_clip's model for the folder in eval mode, with logit scale exp(3)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        with torch.no_grad():
            _randomise(model)
    return model.eval()


def _randomise(model: Any) -> None:
    """Give batch norms, biases and the logit scale values that affect the outputs."""
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
    """Read the tokenizer's vocabulary once (it takes a third of a second)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "SimpleTokenizer", cache(open_clip.SimpleTokenizer))
        yield
